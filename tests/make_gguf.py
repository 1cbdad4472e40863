"""Makes GGUF files of the tiny models with llama.cpp's own converter, without tokenizers, and writes beside each the
logits that transformers gives. Run: python make_gguf.py LLAMA_CPP_CHECKOUT NAME..."""

import json
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(root / "gguf-py"), str(root)]

import conversion  # noqa: E402
import gguf  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

here = pathlib.Path(__file__).parent
for name in sys.argv[2:]:
    folder, out = here / "families" / name, here / "gguf" / f"{name}.gguf"
    config = json.loads((folder / "config.json").read_text())
    arch = config["architectures"][0].replace("Mpt", "MPT")
    kind = conversion.get_model_class(arch)
    kind = type(kind.__name__, (kind,), {"set_vocab": lambda self: None, "model_arch": kind.model_arch})
    kind(folder, gguf.LlamaFileType.ALL_F32, out, eager=True, model_name=name).write()
    want = load_file(str(folder / "expected.safetensors"))
    expected = {"file": out.name, "family": config["model_type"], "ids": want["ids"].tolist(),
                "logits_last": [float(x) for x in want["logits"][-1]]}
    (here / "gguf" / f"{name}.json").write_text(json.dumps(expected))
    print(name, out.stat().st_size)
