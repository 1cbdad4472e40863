"""Makes dictionaries of dictionary_learning (https://github.com/saprmarks/dictionary_learning): ae.pt as torch saves it, its
config.json, and what the library's formulas give. Run in tests/sets: python make.py"""
import json
import os

import torch
from safetensors.torch import save_file

D, F, N = 16, 24, 6


def save(name, state, trainer, features, decode):
    os.makedirs(name, exist_ok=True)
    torch.save(state, f"{name}/ae.pt")
    with open(f"{name}/config.json", "w") as f:
        json.dump({"trainer": {"activation_dim": D, "dict_size": F, "lm_name": "test", "layer": 1, **trainer}, "buffer": {}}, f)
    save_file({"x": X, "features": features.contiguous(), "reconstruction": decode(features).contiguous()}, f"{name}/expected.safetensors")


torch.manual_seed(3)
X = torch.randn(N, D)
enc, dec = torch.nn.Linear(D, F), torch.nn.Linear(F, D, bias=False)
enc.bias.data = torch.randn(F) * 0.3
b = torch.randn(D) * 0.3
state = {"encoder.weight": enc.weight.data, "encoder.bias": enc.bias.data, "decoder.weight": dec.weight.data}
pre = torch.relu((X - b) @ enc.weight.data.T + enc.bias.data)
out = lambda f: f @ dec.weight.data.T + b
place = {"submodule_name": "resid_post_layer_1"}
save("learning-relu", {"bias": b, **state}, {"dict_class": "AutoEncoder", **place}, pre, out)
top = torch.zeros_like(pre).scatter(1, pre.topk(5).indices, pre.topk(5).values)
buffers = {"b_dec": b, "k": torch.tensor(5, dtype=torch.int), "threshold": torch.tensor(-1.0)}
save("learning-topk", {**buffers, **state}, {"dict_class": "AutoEncoderTopK", "k": 5, **place}, top, out)
W, V, c = torch.randn(D, F) * 0.3, torch.randn(F, D), torch.randn(F) * 0.3
pre = torch.relu((X - b) @ W + c)
matryoshka = {"W_enc": W, "b_enc": c, "W_dec": V, "b_dec": b, "k": torch.tensor(5, dtype=torch.int),
              "threshold": torch.tensor(0.4), "group_sizes": torch.tensor([8, 16])}
save("learning-matryoshka", matryoshka, {"dict_class": "MatryoshkaBatchTopKSAE", "k": 5, **place}, pre * (pre > 0.4), lambda f: f @ V + b)


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


os.makedirs("learning-evil", exist_ok=True)
torch.save({"bias": b, **state, "more": Evil()}, "learning-evil/ae.pt")
with open("learning-evil/config.json", "w") as f:
    json.dump({"trainer": {"dict_class": "AutoEncoder"}}, f)
