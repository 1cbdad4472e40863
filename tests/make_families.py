"""Makes the tiny models of families and options that came without reference numbers: random weights, and what
transformers computes from them (float32, eager attention). Run in tests/families: python ../make_families.py [NAME...]"""

import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=None)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 16.0,
        "attention_factor": 1.2}
MODELS = {
    "olmo": ("olmo", {}),
    "glm4": ("glm4", {"head_dim": 8, "attention_bias": True}),
    "nemotron": ("nemotron", {"head_dim": 8}),
    "exaone4": ("exaone4", {"num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": 4}),
    "exaone4-full": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    "qwen3-moe": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8,
                                "norm_topk_prob": True, "decoder_sparse_step": 1}),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "phi-qk-norm": ("phi", {"qk_layernorm": True}),
    "stablelm-qk-norm": ("stablelm", {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": True}),
    "cohere-qk-norm": ("cohere", {"use_qk_norm": True}),
    "falcon-groups": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "gpt-bigcode-heads": ("gpt_bigcode", {"multi_query": False}),
    "mpt-six-heads": ("mpt", {"d_model": 48, "n_heads": 6, "n_layers": 2, "hidden_size": 48,
                              "num_attention_heads": 6}),
    "granite-tied": ("granite", {"tie_word_embeddings": True, "embedding_multiplier": 3.0, "logits_scaling": 0.5,
                                 "residual_multiplier": 0.9, "attention_multiplier": 0.2}),
    "olmo3-yarn": ("olmo3", {"num_hidden_layers": 4, "sliding_window": 8, "rope_scaling": YARN}),
    "phi3-long": ("phi3", {"original_max_position_embeddings": 16, "partial_rotary_factor": 0.5, "rope_scaling": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [2.0, 3.0]}}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16, "ffn_dim": 48}),
    "llama-dynamic-long": ("llama", {"max_position_embeddings": 16, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
}


def make(name):
    kind, options = MODELS[name]
    torch.manual_seed(sum(name.encode()))
    config = AutoConfig.for_model(kind, **{**COMMON, **options})
    # transformers 5.24 adds Falcon's ALiBi twice where attention is eager.
    eager = name != "falcon-alibi"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if eager else "sdpa").float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * (0.25 if p.dim() > 1 else 0.15) + (1.0 if p.dim() == 1 and "norm" in key and
                    key.endswith("weight") and kind != "nemotron" else 0.0))
    ids = torch.randint(2, 96, (1, 40))
    with torch.no_grad():
        out = model(ids, output_attentions=eager, output_hidden_states=True, use_cache=False)
    model.save_pretrained(name)
    for extra in ("generation_config.json",):
        if os.path.exists(f"{name}/{extra}"):
            os.remove(f"{name}/{extra}")
    config = json.load(open(f"{name}/config.json"))
    config.pop("transformers_version", None)
    json.dump(config, open(f"{name}/config.json", "w"), indent=1)
    expected = {"ids": ids[0], "logits": out.logits[0], "hidden_1": out.hidden_states[1][0]}
    if eager:
        expected[f"attn_{len(out.attentions) - 1}"] = out.attentions[-1][0]
    save_file({k: v.contiguous() for k, v in expected.items()}, f"{name}/expected.safetensors")
    print(name, sum(t.numel() for t in load_file(f"{name}/model.safetensors").values()))


for name in sys.argv[1:] or MODELS:
    try:
        make(name)
    except Exception as error:
        print(name, "FAILED", repr(error)[:300])
