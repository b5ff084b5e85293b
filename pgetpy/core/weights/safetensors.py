"""The head of a safetensors file, and whether it fits the file's size.

    8 bytes   N, the length of the header, little-endian
    N bytes   JSON: {"NAME": {"dtype": …, "shape": […], "data_offsets": [START, STOP]}, …}
    the rest  the tensors' bytes, which the offsets cover from 0 to the end without gap or overlap

The rules are those of the format's own page (huggingface.co/docs/safetensors). Names of dtypes are
added to the format now and then: of one not known here the size is left unchecked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pgetpy.errors import BadSafetensorsError

# The format allows no longer header.
LONGEST_HEADER = 100_000_000
# What a stranger sends is not to take gigabytes to parse; a thousand tensors need 100 kB.
LONGEST_FOR_STRANGERS = 4 << 20
_PREFIX = 8

# Bits of one element.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file; `start` and `stop` are bytes of the file, half-open."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a header says: its tensors in the order of their bytes, and the notes of its author.

    `size` is the size that the file must have.
    """

    tensors: tuple[Tensor, ...]
    size: int
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(
    read: Callable[[int], bytes], size: int, *, longest: int = LONGEST_HEADER
) -> SafetensorsHeader:
    """Return what the header of a file of `size` bytes says, if that is a safetensors file.

    Args:
        read: returns the first so many bytes of the file, fewer where it is shorter.
        longest: bytes of the longest header to be read.

    Raises:
        BadSafetensorsError: it is none.
    """
    length = head_size(read(_PREFIX), size)
    if length - _PREFIX > longest:
        raise BadSafetensorsError(f"its header has {length - _PREFIX} bytes")
    return parse_head(read(length), size)


def is_safetensors(read: Callable[[int], bytes], size: int) -> bool:
    """Whether a file, which a stranger chose, is a safetensors file; see `read_header`."""
    try:
        read_header(read, size, longest=LONGEST_FOR_STRANGERS)
    except BadSafetensorsError:
        return False
    return True


def head_size(prefix: bytes, size: int | None = None) -> int:
    """Return how many bytes the head takes: the 8 of `prefix` and the header behind them.

    Args:
        prefix: the beginning of the file, 8 bytes or more.
        size: the file's size, where it is known.

    Raises:
        BadSafetensorsError: no file begins like this.
    """
    if len(prefix) < _PREFIX:
        raise BadSafetensorsError(f"it has {len(prefix)} bytes, and its head takes 8 at least")
    length = int.from_bytes(prefix[:_PREFIX], "little")
    if length > LONGEST_HEADER:
        raise BadSafetensorsError(f"its header would have {length} bytes")
    if size is not None and _PREFIX + length > size:
        raise BadSafetensorsError(f"its header of {length} bytes is cut off")
    return _PREFIX + length


def parse_head(head: bytes, size: int) -> SafetensorsHeader:
    """Return what `head` says, if a file of `size` bytes may begin with it.

    Args:
        head: the first `head_size` bytes of the file, or more.

    Raises:
        BadSafetensorsError: it contradicts itself, the format or the size.
    """
    begin = head_size(head, size)
    if len(head) < begin:
        raise BadSafetensorsError(f"its header of {begin - _PREFIX} bytes is cut off")
    entries = _json_object(head[_PREFIX:begin])
    metadata = _metadata(entries.pop("__metadata__", {}))
    tensors = sorted(
        (_tensor(name, value, begin) for name, value in entries.items()),
        key=lambda tensor: (tensor.start, tensor.stop),
    )
    stop = _contiguous(tensors, begin)
    if stop != size:
        raise BadSafetensorsError(f"its header tells of {stop} bytes, and it has {size}")
    return SafetensorsHeader(tuple(tensors), stop, metadata)


def _json_object(raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise BadSafetensorsError("its header does not begin with a brace")
    try:
        return dict(json.loads(raw.decode(), object_pairs_hook=_without_doubles))
    except (ValueError, RecursionError) as error:
        raise BadSafetensorsError(f"its header is no JSON ({error})") from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BadSafetensorsError("its __metadata__ is no map of texts")
    return value


def _tensor(name: str, value: object, begin: int) -> Tensor:
    if not isinstance(value, dict):
        raise BadSafetensorsError(f"tensor {name!r} is not described by an object")
    dtype = value.get("dtype")
    shape, offsets = _naturals(value.get("shape")), _naturals(value.get("data_offsets"))
    if not isinstance(dtype, str):
        raise BadSafetensorsError(f"tensor {name!r} has no dtype")
    if shape is None or offsets is None or len(offsets) != 2:
        raise BadSafetensorsError(f"the shape or the offsets of tensor {name!r} are malformed")
    start, stop = offsets
    if start > stop:
        raise BadSafetensorsError(f"tensor {name!r} ends before it starts")
    _check_size(name, dtype, shape, stop - start)
    return Tensor(name, dtype, tuple(shape), begin + start, begin + stop)


def _naturals(value: object) -> list[int] | None:
    """Return `value` if it is a list of natural numbers, to which JSON's `true` does not belong."""
    if isinstance(value, list) and all(type(number) is int and number >= 0 for number in value):
        return value
    return None


def _check_size(name: str, dtype: str, shape: Iterable[int], size: int) -> None:
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        return
    for length in shape:
        bits *= length
    if bits != size * 8:
        raise BadSafetensorsError(f"tensor {name!r} has {size} bytes, which is not its shape's")


def _contiguous(tensors: Iterable[Tensor], begin: int) -> int:
    """Return where the last tensor ends, if each begins where the one before it ends."""
    at = begin
    for tensor in tensors:
        if tensor.start != at:
            what = "a gap" if tensor.start > at else "an overlap"
            raise BadSafetensorsError(f"there is {what} before tensor {tensor.name!r}")
        at = tensor.stop
    return at
