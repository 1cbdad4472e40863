"""Reference values on SmolLM2: TransformerLens' sparse probe and its interchange on fixed subspaces. Argument: the GGUF file,
whose weights are dequantised to float32. Needs transformer_lens 4.3, transformers and gguf."""
import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformer_lens.tools.analysis import interchange as tl
from transformer_lens.tools.analysis.sparse_probing import fit_sparse_probe
from transformers import AutoModelForCausalLM, AutoTokenizer

LAYER, RIDGE = 20, 1e-2
path = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
lines = [l.split("\t") for l in Path("../../assets/probes/number.tsv").read_text().splitlines()[1:]]
lines = lines[:48]
texts, labels = [l[2] for l in lines], torch.tensor([int(l[0] == "one") for l in lines])
groups = torch.tensor([int(l[1][1:]) for l in lines])
ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
answers = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" were", " was")]
assert all(len(a) == 1 for a in answers)
answers = [a[0] for a in answers]
block = model.model.layers[LAYER]


def run(tokens, new=None):
    """The stream behind the block at the last position, and the logits of the answers."""
    seen = []

    def hook(_, __, out):
        h = out[0] if isinstance(out, tuple) else out
        if new is not None:
            h = h.clone()
            h[:, -1] = new
        seen.append(h[:, -1].clone())
        return (h, *out[1:]) if isinstance(out, tuple) else h

    handle = block.register_forward_hook(hook)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, -1, answers]
    handle.remove()
    return seen[0][0], logits


rows = torch.stack([run(t)[0] for t in ids])
probe = fit_sparse_probe(rows, labels, k=rows.shape[1], test_fraction=0.25, groups=groups, preprocess="standardize",
                         std_floor=0.0, class_weight=None, l2_strength=RIDGE / 2, seed=1)
# The k coordinates whose class means lie furthest apart, in standard deviations of the training texts.
deviation, mean = torch.std_mean(rows[probe.train_indices], dim=0, correction=0)
sparse = fit_sparse_probe((rows - mean) / deviation, labels, k=8, test_fraction=0.25, groups=groups,
                          preprocess="standardize", std_floor=0.0, class_weight=None, l2_strength=RIDGE / 2, seed=1)
assert sparse.test_indices.tolist() == probe.test_indices.tolist()
test, train = sorted(probe.test_indices.tolist()), probe.train_indices
weights = torch.zeros(rows.shape[1], dtype=torch.float64)
weights[probe.selected_features] = probe.coefficients / probe.preprocess_scale
bases = {
    "untouched": torch.zeros(rows.shape[1], 1),
    "whole": torch.eye(rows.shape[1]),
    "probe": tl.probe_basis(weights[None].float()),
    "means": tl.mean_difference_basis(rows[train], labels[train].tolist()),
}
pairs = [(b, s) for b in test for s in test if labels[b] != labels[s]]
shares, logits = {}, {}
for name, basis in bases.items():
    put = tl.SubspaceInterchange(basis)
    out = [run(ids[b], put(rows[b][None], rows[s][None])[0])[1] for b, s in pairs]
    shares[name] = float(np.mean([int(o.argmax()) == int(labels[s]) for o, (_, s) in zip(out, pairs)]))
    logits[name] = [o.tolist() for o in out[:4]]
doc = {
    "layer": LAYER, "texts": texts, "labels": labels.tolist(), "ids": ids, "test": test,
    "accuracy": probe.metrics.accuracy, "auc": probe.metrics.roc_auc,
    "sparse": {"coordinates": sorted(sparse.selected_features.tolist()), "accuracy": sparse.metrics.accuracy,
               "auc": sparse.metrics.roc_auc}, "pairs": len(pairs), "shares": shares,
}
Path("smollm2.json").write_text(json.dumps(doc))
print({k: doc[k] for k in ("accuracy", "auc", "sparse", "pairs", "shares", "test")})
