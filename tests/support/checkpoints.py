"""Checkpoints made for the tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.support.bodies import body


class Made(NamedTuple):
    """A tensor: the format's name of its dtype, its shape, its bytes."""

    dtype: str
    shape: Sequence[int]
    data: bytes


_NO_TOP_BITS = bytes(byte & 0x3F for byte in range(256))


def floats(size: int, seed: str = "t") -> Made:
    """So many float32, none of which is a NaN: the top bits of each exponent are cleared."""
    raw = bytearray(body(4 * size, seed))
    raw[3::4] = raw[3::4].translate(_NO_TOP_BITS)
    return Made("F32", [size], bytes(raw))


def file_of(tensors: Mapping[str, Made], *, pad: int = 0) -> bytes:
    """A safetensors file with these tensors in this order, its header made longer by `pad`."""
    header: dict[str, object] = {}
    at = 0
    for name, tensor in tensors.items():
        stop = at + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, stop],
        }
        at = stop
    head = json.dumps(header).encode() + b" " * pad
    return struct.pack("<Q", len(head)) + head + b"".join(each.data for each in tensors.values())


def same(found: Mapping[str, Any], made: Mapping[str, Made]) -> bool:
    """Whether arrays of numpy are the tensors that were made, bit for bit."""
    return {name: array.tobytes() for name, array in found.items()} == {
        name: tensor.data for name, tensor in made.items()
    }


def index_of(shards: Mapping[str, Sequence[str]]) -> bytes:
    """The index of a checkpoint whose files hold these tensors."""
    weight_map = {tensor: shard for shard, names in shards.items() for tensor in names}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()
