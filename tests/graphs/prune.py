"""Writes pruned.json: circuit-tracer's pruning and scores (circuit_tracer/graph.py, MIT) of meow-clt.json, with NumPy in the place of PyTorch."""
import json
import pathlib

import numpy as np

here = pathlib.Path(__file__).parent
f4 = np.float32
doc = json.load(open(here / "meow-clt.json"))
rank = {"mlp reconstruction error": 1, "embedding": 2, "logit": 3}
nodes = sorted(doc["nodes"], key=lambda n: rank.get(n["feature_type"], 0))
ids = [n["node_id"] for n in nodes]
kinds = np.array([rank.get(n["feature_type"], 0) for n in nodes])
place = {id_: i for i, id_ in enumerate(ids)}
A = np.zeros((len(ids), len(ids)), f4)
for link in doc["links"]:
    A[place[link["target"]], place[link["source"]]] = link["weight"]
w = np.array([n["token_prob"] if k == 3 else 0 for n, k in zip(nodes, kinds)], f4)


def normalize(m):
    m = np.abs(m)
    return m / np.maximum(m.sum(1, keepdims=True), f4(1e-10))


def influence(m):
    current = w @ m
    total = current.copy()
    while current.any():
        current = current @ m
        total += current
    return total


def threshold(scores, share):
    s = np.sort(scores)[::-1]
    c = np.cumsum(s, dtype=f4) / s.sum(dtype=f4)
    return s[min(int(np.searchsorted(c, f4(share))), len(c) - 1)]


values = influence(normalize(A))
n = normalize(A)
through = values + w
tokens, errors = values[kinds == 2].sum(), values[kinds == 1].sum()
out = {
    "replacement_score": float(tokens / (tokens + errors)),
    "completeness_score": float(((1 - n[:, kinds == 1].sum(1)) * through).sum() / through.sum()),
    "influence": dict(zip(ids, map(float, values))),
    "pruned": [],
}
for node_t, edge_t in [(0.8, 0.98), (0.5, 0.9), (0.3, 0.5), (0.95, 0.99)]:
    mask = values >= threshold(values, node_t)
    mask[kinds >= 2] = True
    P = A.copy()
    P[~mask] = 0
    P[:, ~mask] = 0
    hat = normalize(P)
    scores = hat * (influence(hat) + w)[:, None]
    edges = scores >= threshold(scores.flatten(), edge_t)
    old = np.zeros_like(mask)
    while (mask != old).any():
        old[:] = mask
        edges[~mask] = False
        edges[:, ~mask] = False
        mask[kinds < 2] &= edges[:, kinds < 2].any(0)
        mask[kinds < 1] &= edges[kinds < 1].any(1)
    out["pruned"].append({
        "node_threshold": node_t, "edge_threshold": edge_t,
        "nodes": sorted(id_ for id_, m in zip(ids, mask) if m),
        "links": sorted([ids[s], ids[t]] for t, s in zip(*edges.nonzero())),
    })
json.dump(out, open(here / "pruned.json", "w"), indent=0)
