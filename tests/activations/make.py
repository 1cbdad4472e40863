"""Makes the activations of tests/activations, in the folder that SAELens' CacheActivationsRunner writes (its dataset has one
column [context, d_in] by the hook's name and the token ids, consolidated from several shards) and as safetensors by
TransformerLens' names. Needs datasets, torch and safetensors."""

import json
import shutil
from pathlib import Path

import torch
from datasets import Array2D, Dataset, Features, Sequence, Value
from safetensors.torch import save_file

HERE = Path(__file__).parent
HOOK = "blocks.1.hook_mlp_out"
CONTEXT, D = 3, 4


def value(row, pos, i):
    """Exact in halves as well."""
    return row + pos / 4 + i / 16


def main():
    out = HERE / "sae-lens"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    features = Features({HOOK: Array2D(shape=(CONTEXT, D), dtype="float32"), "token_ids": Sequence(Value("int32"), length=CONTEXT)})
    files = []
    for n, rows in enumerate([range(0, 2), range(2, 5)]):
        acts = [[[value(r, p, i) for i in range(D)] for p in range(CONTEXT)] for r in rows]
        tokens = [[10 * r + p for p in range(CONTEXT)] for r in rows]
        part = HERE / "part"
        Dataset.from_dict({HOOK: acts, "token_ids": tokens}, features=features).save_to_disk(str(part), num_shards=1)
        name = f"data-{n:05d}-of-00002.arrow"
        shutil.copy(part / "data-00000-of-00001.arrow", out / name)
        shutil.copy(part / "dataset_info.json", out / "dataset_info.json")
        shutil.rmtree(part)
        files.append({"filename": name})
    state = {"_data_files": files, "_fingerprint": "0", "_format_columns": None, "_format_kwargs": {}, "_format_type": None,
             "_output_all_columns": False, "_split": None}
    (out / "state.json").write_text(json.dumps(state, indent=2))
    stream = torch.tensor([[[value(r, p, i) for i in range(D)] for p in range(CONTEXT)] for r in range(2)])
    heads = stream.reshape(2, CONTEXT, 2, 2)
    save_file({"blocks.0.hook_resid_pre": stream.half().contiguous(), "blocks.0.attn.hook_z": heads.contiguous()},
              str(HERE / "transformer-lens.safetensors"))


main()
