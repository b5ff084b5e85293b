"""Made-up checkpoints: safetensors files whose tensors are those of a transformer's layers."""

from __future__ import annotations

import array
import hashlib
import json
from pathlib import Path

from scripts.origin import weights

# Rows and columns of one layer's matrices, for a width; a multiple of it is given as such.
_LAYER = {
    "self_attn.q_proj": (1, 1),
    "self_attn.k_proj": (0.25, 1),
    "self_attn.v_proj": (0.25, 1),
    "self_attn.o_proj": (1, 1),
    "mlp.gate_proj": (3.5, 1),
    "mlp.up_proj": (3.5, 1),
    "mlp.down_proj": (1, 3.5),
}
_MEBI = 1 << 20


def write_checkpoint(path: Path, size: int) -> str:
    """Write a checkpoint of BF16 tensors of about `size` bytes; return its sha256, hex."""
    header = _header(size)
    total = max(entry["data_offsets"][1] for entry in header.values())
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in (len(raw).to_bytes(8, "little"), raw, *weights(total)):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def checkpoint_sum(path: Path) -> int:
    """Return the sum that `loads` prints of this file's tensors, made by other means."""
    total = 0
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()
        for entry in header.values():
            start, stop = entry["data_offsets"]
            file.seek(begin + start)
            left = stop - start
            while left:
                block = array.array("q", file.read(min(left, _MEBI)))
                total += sum(block)
                left -= block.itemsize * len(block)
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _header(size: int) -> dict[str, dict[str, list[int]]]:
    width = 4096 if size > 512 * _MEBI else 512
    shapes = {name: (int(rows * width), int(cols * width)) for name, (rows, cols) in _LAYER.items()}
    layer = sum(2 * rows * cols for rows, cols in shapes.values())
    header, at = {}, 0
    for number in range(max(1, size // layer)):
        for name, (rows, cols) in shapes.items():
            stop = at + 2 * rows * cols
            key = f"model.layers.{number}.{name}.weight"
            header[key] = {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [at, stop]}
            at = stop
    return header  # type: ignore[return-value]
