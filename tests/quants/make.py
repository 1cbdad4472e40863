"""Writes blocks.bin: for every GGML type, a few random blocks and what the `gguf` package (0.19) makes of them.

Layout, little-endian: type number u32, blocks u32, bytes per block u32, values per block u32, the blocks, the values f32.
"""
import struct
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, quants

rng = np.random.default_rng(7)
out = b""
for kind in [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.F16, T.BF16,
             T.IQ4_NL, T.IQ4_XS, T.TQ1_0, T.TQ2_0, T.MXFP4]:
    per, size = GGML_QUANT_SIZES[kind]
    blocks = []
    while len(blocks) < 6:
        block = rng.integers(0, 256, size, dtype=np.uint8)
        # Random half-precision scales may be infinite, NaN or huge: such blocks prove nothing.
        values = quants.dequantize(block.reshape(1, -1), kind).astype(np.float32).ravel()
        if np.isfinite(values).all() and 1e-6 < np.abs(values).max() < 1e4:
            blocks.append((block.tobytes(), values.tobytes()))
    out += struct.pack("<4I", kind.value, len(blocks), size, per)
    out += b"".join(b for b, _ in blocks) + b"".join(v for _, v in blocks)
open("tests/quants/blocks.bin", "wb").write(out)
print(len(out))
