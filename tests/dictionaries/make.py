"""Writes the dictionaries beside this file and what SAELens makes of them.

Run with Python and `pip install sae-lens` (made with 6.54.12, torch CPU). Each folder holds a dictionary as SAELens
saves it and `expected.safetensors`: inputs `x` [n, d_in], `features` [n, d_sae], `reconstruction` [n, d_out].
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sae_lens import SAE
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

HERE = Path(__file__).parent
D_IN, D_SAE, D_OUT, N = 16, 40, 12, 9
torch.manual_seed(0)


def fill(sae):
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(torch.randn_like(p) * (0.2 if name.startswith("b") or name == "r_mag" else 0.5))
            if name == "threshold":
                p.copy_(torch.rand_like(p) * 1.5)


def expected(sae, folder, x=None):
    x = torch.randn(N, D_IN) * 1.5 + 0.3 if x is None else x
    with torch.no_grad():
        features = sae.encode(x)
        recon = sae.decode(features)
    tensors = {"x": x, "features": features, "reconstruction": recon}
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "expected.safetensors")
    return x


def metadata(**more):
    return SAEMetadata(model_name="test", hook_name="blocks.1.hook_resid_post", **more)


def new(name, cls, cfg):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    sae = cls(cfg)
    fill(sae)
    sae.save_model(folder)
    # What SAELens reads back, not what was in memory.
    expected(SAE.load_from_disk(folder) if not name.count("transcoder") else cls.load_from_disk(folder), folder)


def all_new():
    base = dict(d_in=D_IN, d_sae=D_SAE)
    meta = lambda: dict(metadata=metadata())
    out = lambda: dict(metadata=metadata(hook_name_out="blocks.1.hook_mlp_out"))
    new("standard", StandardSAE, StandardSAEConfig(**base, **meta()))
    new("standard-layer-norm", StandardSAE, StandardSAEConfig(**base, normalize_activations="layer_norm", **meta()))
    new("standard-length", StandardSAE, StandardSAEConfig(**base, normalize_activations="constant_norm_rescale", **meta()))
    new("jumprelu", JumpReLUSAE, JumpReLUSAEConfig(**base, apply_b_dec_to_input=False, **meta()))
    new("topk", TopKSAE, TopKSAEConfig(**base, k=6, **meta()))
    new("topk-rescaled", TopKSAE, TopKSAEConfig(**base, k=6, rescale_acts_by_decoder_norm=True, **meta()))
    new("gated", GatedSAE, GatedSAEConfig(**base, **meta()))
    new("transcoder", Transcoder, TranscoderConfig(**base, d_out=D_OUT, apply_b_dec_to_input=False, **out()))
    new("transcoder-skip", SkipTranscoder, SkipTranscoderConfig(**base, d_out=D_OUT, apply_b_dec_to_input=False, **out()))
    new("transcoder-jumprelu", JumpReLUTranscoder, JumpReLUTranscoderConfig(**base, d_out=D_OUT, apply_b_dec_to_input=False, **out()))


def old(name, cfg, source):
    """The same weights under a configuration as SAELens wrote it before version 6."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(HERE / source / "sae_weights.safetensors", folder)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    expected(SAE.load_from_disk(folder), folder)


def all_old():
    common = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu", "model_name": "test",
              "finetuning_scaling_factor": False, "context_size": 128, "prepend_bos": True}
    old("old-standard", {**common, "hook_point": "blocks.1.hook_resid_post", "hook_point_layer": 1,
                         "normalize_activations": False}, "standard")
    old("old-topk", {**common, "architecture": "standard", "hook_name": "blocks.1.hook_resid_post", "hook_layer": 1,
                     "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 6}, "apply_b_dec_to_input": True,
                     "normalize_activations": "none"}, "topk")
    old("old-jumprelu", {**common, "architecture": "jumprelu", "hook_name": "blocks.1.hook_mlp_out", "hook_layer": 1,
                         "activation_fn_str": "relu", "apply_b_dec_to_input": True,
                         "normalize_activations": "expected_average_only_in"}, "jumprelu")


def gemma_scope():
    """params.npz as Gemma Scope publishes it, plain and compressed; its maths is a jumprelu SAE's."""
    for name, save in [("gemma-scope", np.savez), ("gemma-scope-compressed", np.savez_compressed)]:
        folder = HERE / name / "layer_1" / "width_40" / "average_l0_9_res"
        shutil.rmtree(HERE / name, ignore_errors=True)
        folder.mkdir(parents=True)
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False))
        fill(sae)
        save(folder / "params.npz", **{k: v.detach().numpy() for k, v in sae.named_parameters()})
        expected(sae, folder)


def circuit_tracer():
    """Per-layer and cross-layer transcoders in circuit-tracer's files."""
    folder = HERE / "circuit-tracer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model_name: test\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        "feature_output_hook: mlp.hook_out\nscan: test-scan\ntranscoders:\n  - a\n  - b\n")
    cls, cfg = JumpReLUTranscoder, JumpReLUTranscoderConfig(d_in=D_IN, d_sae=D_SAE, d_out=D_OUT, apply_b_dec_to_input=False)
    for layer in (0, 1):
        sae = cls(cfg)
        fill(sae)
        p = dict(sae.named_parameters())
        tensors = {"W_enc": p["W_enc"].T, "W_dec": p["W_dec"], "b_enc": p["b_enc"], "b_dec": p["b_dec"],
                   "activation_function.threshold": p["threshold"], "W_skip": torch.randn(D_OUT, D_IN)}
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, folder / f"layer_{layer}.safetensors")
    expected(sae, folder)
    folder = HERE / "cross-layer"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model_name: test\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\n"
        "feature_output_hook: hook_mlp_out\nscan: [x, 'y']\n")
    sae = Transcoder(TranscoderConfig(d_in=D_IN, d_sae=D_SAE, d_out=D_OUT, apply_b_dec_to_input=False))
    fill(sae)
    p = {k: v.detach() for k, v in sae.named_parameters()}
    save_file({"W_enc_0": p["W_enc"].T.contiguous(), "b_enc_0": p["b_enc"], "b_dec_0": p["b_dec"]}, folder / "W_enc_0.safetensors")
    later = torch.randn(D_SAE, 1, D_OUT)
    save_file({"W_dec_0": torch.cat([p["W_dec"].unsqueeze(1), later], dim=1).contiguous()}, folder / "W_dec_0.safetensors")
    expected(sae, folder)


all_new()
all_old()
gemma_scope()
circuit_tracer()
