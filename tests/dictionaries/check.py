"""Opens dictionaries that circuitscope has written with SAELens, and compares what both compute.

    python check.py CIRCUITSCOPE FOLDER...

Prints the largest difference of features and of reconstructions for each folder; fails above 1e-4 of their size.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sae_lens.saes.transcoder import JumpReLUTranscoder, Transcoder

program, folders = sys.argv[1], sys.argv[2:]
for folder in folders:
    import json

    architecture = json.loads((Path(folder) / "cfg.json").read_text())["architecture"]
    cls = {"transcoder": Transcoder, "jumprelu_transcoder": JumpReLUTranscoder}.get(architecture, SAE)
    sae = cls.load_from_disk(folder)
    x = torch.randn(64, sae.cfg.d_in) * 3
    with tempfile.TemporaryDirectory() as tmp:
        save_file({"activations": x}, f"{tmp}/x.safetensors")
        subprocess.run([program, "features", "encode", "--dictionary", folder, "--activations", f"{tmp}/x.safetensors",
                        "-o", f"{tmp}/y.safetensors", "--json"], check=True, stdout=subprocess.DEVNULL)
        ours = load_file(f"{tmp}/y.safetensors")
    with torch.no_grad():
        features = sae.encode(x)
        recon = sae.decode(features)
    gap = (ours["features"] - features).abs().max() / features.abs().max()
    gap2 = (ours["reconstruction"] - recon).abs().max() / recon.abs().max()
    print(f"{folder}: {architecture}, features {gap:.1e}, reconstruction {gap2:.1e}")
    assert gap < 1e-4 and gap2 < 1e-4
