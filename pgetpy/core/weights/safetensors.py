"""The header of a safetensors file, and whether it agrees with the file's size.

    8 bytes   N, the length of the header, little-endian
    N bytes   JSON: {"NAME": {"dtype": …, "shape": […], "data_offsets": [START, STOP]}, …}
    the rest  the tensors' bytes; offsets count from here, without gap or overlap

The rules are those of the format's documentation (huggingface.co/docs/safetensors) and, where it
leaves something open, of the package's own `load_file`; a test compares the two. The format gains
dtypes now and then: for one not known here, the size goes unchecked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from pgetpy.errors import BadSafetensorsError

# The format's own limit.
LONGEST_HEADER = 100_000_000
# For files from untrusted URLs: a header of 100 MB would take gigabytes to parse. A thousand
# tensors need about 100 kB.
LONGEST_FOR_STRANGERS = 4 << 20
_PREFIX = 8
_METADATA = "__metadata__"
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_BLANKS = b" \t\r\n"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# The largest dimension of torch and numpy, and safetensors' largest number of elements.
_LONGEST, _MOST = 2**63 - 1, 2**64 - 1

# Bits in one element.
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
    """A tensor in a file.

    Attributes:
        name: its name.
        dtype: its element type, as the format names it, such as "BF16".
        shape: its dimensions.
        start: its first byte, counted from the beginning of the file.
        stop: the byte after its last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """The contents of a header.

    Attributes:
        tensors: in the order of their bytes.
        size: the size in bytes that the file must have.
        metadata: free text entries, under `__metadata__`.
    """

    tensors: tuple[Tensor, ...]
    size: int
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(
    read: Callable[[int], bytes], size: int, *, longest: int = LONGEST_HEADER
) -> SafetensorsHeader:
    """Return the header of a file of `size` bytes.

    Args:
        read: returns the first so many bytes of the file, or fewer if it is shorter.
        longest: the largest header, in bytes, that is parsed.

    Raises:
        BadSafetensorsError: it is not a safetensors file.
    """
    length = head_size(read(_PREFIX), size)
    if length - _PREFIX > longest:
        raise BadSafetensorsError(f"its header has {length - _PREFIX} bytes")
    return parse_head(read(length), size)


def is_safetensors(read: Callable[[int], bytes], size: int) -> bool:
    """Whether a file of untrusted origin is a safetensors file; see `read_header`."""
    try:
        read_header(read, size, longest=LONGEST_FOR_STRANGERS)
    except BadSafetensorsError:
        return False
    return True


def head_size(prefix: bytes, size: int | None = None) -> int:
    """Return how many bytes the head takes: the 8 of the length and the header itself.

    Args:
        prefix: the beginning of the file, at least 8 bytes.
        size: the file's size, if known.

    Raises:
        BadSafetensorsError: no safetensors file begins like this.
    """
    if len(prefix) < _PREFIX:
        raise BadSafetensorsError(
            f"it has {len(prefix)} bytes, fewer than the 8 of its length field"
        )
    length = int.from_bytes(prefix[:_PREFIX], "little")
    if length > LONGEST_HEADER:
        raise BadSafetensorsError(f"its length field claims a header of {length} bytes")
    if size is not None and _PREFIX + length > size:
        raise BadSafetensorsError(f"its header of {length} bytes is cut off")
    return _PREFIX + length


def parse_head(head: bytes, size: int) -> SafetensorsHeader:
    """Parse `head` and check it against the size of the file.

    Args:
        head: the first `head_size` bytes of the file, or more.
        size: the size of the file in bytes.

    Raises:
        BadSafetensorsError: it contradicts itself, the format or the size.
    """
    begin = head_size(head, size)
    if len(head) < begin:
        raise BadSafetensorsError(f"its header of {begin - _PREFIX} bytes is cut off")
    entries = _json_object(head[_PREFIX:begin])
    metadata = _metadata(entries)
    described = [
        (name, _tensor(name, value, begin)) for name, value in entries if name != _METADATA
    ]
    # For a repeated name the last entry counts, as in most JSON parsers.
    tensors = sorted(dict(described).values(), key=lambda tensor: (tensor.start, tensor.stop))
    for tensor in tensors:
        _check_size(tensor)
    stop = _contiguous(tensors, begin)
    if stop != size:
        raise BadSafetensorsError(f"its header describes {stop} bytes, but it has {size}")
    return SafetensorsHeader(tuple(tensors), stop, metadata)


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs: what a repeated name means differs between levels of the header."""


def _json_object(raw: bytes) -> _Object:
    """Parse the header with the grammar of serde_json, which safetensors uses.

    It is stricter than Python's json module: no NaN, no lone surrogates, no infinite numbers.
    """
    if not raw.lstrip(_BLANKS).startswith(b"{"):
        raise BadSafetensorsError("its header does not begin with a brace")
    try:
        found = json.loads(
            raw.decode(),
            object_pairs_hook=_Object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_not_minus_zero if b"-0" in raw else None,
        )
        if _SURROGATE.search(raw):
            # A lone surrogate cannot be encoded, and raises here; a pair passes.
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadSafetensorsError(f"its header is not JSON ({error})") from None
    return cast(_Object, found)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _not_minus_zero(text: str) -> float:
    # serde_json reads -0 as a floating-point number.
    return -0.0 if text == "-0" else int(text)


def _metadata(entries: _Object) -> dict[str, str]:
    values = [value for name, value in entries if name == _METADATA]
    value = values[0] if values else None
    if len(values) > 1:
        raise BadSafetensorsError(f"its {_METADATA} is given twice")
    if value is None:
        return {}
    if not isinstance(value, _Object) or not all(isinstance(text, str) for _, text in value):
        raise BadSafetensorsError(f"its {_METADATA} is not a map of strings")
    return dict(value)


def _tensor(name: str, value: object, begin: int) -> Tensor:
    if not isinstance(value, _Object):
        raise BadSafetensorsError(f"tensor {name!r} is not described by an object")
    fields = {key: each for key, each in value if key in _FIELDS}
    if len(fields) < sum(key in _FIELDS for key, _ in value):
        raise BadSafetensorsError(f"a field of tensor {name!r} is given twice")
    dtype = fields.get("dtype")
    shape, offsets = _naturals(fields.get("shape")), _naturals(fields.get("data_offsets"))
    if not isinstance(dtype, str):
        raise BadSafetensorsError(f"tensor {name!r} has no dtype")
    if shape is None or offsets is None or len(offsets) != 2:
        raise BadSafetensorsError(f"the shape or the offsets of tensor {name!r} are malformed")
    start, stop = offsets
    return Tensor(name, dtype, tuple(shape), begin + start, begin + stop)


def _naturals(value: object) -> list[int] | None:
    """Return `value` if it is a list of whole numbers from 0 on. JSON's `true` is not one."""
    if isinstance(value, list) and all(type(number) is int and number >= 0 for number in value):
        return value
    return None


def _check_size(tensor: Tensor) -> None:
    name, bits, size = tensor.name, DTYPE_BITS.get(tensor.dtype), tensor.stop - tensor.start
    if size < 0:
        raise BadSafetensorsError(f"tensor {name!r} ends before it starts")
    count = 1
    for length in tensor.shape:
        count *= length
        # Even if a dimension of zero follows: no program can represent such a shape.
        if length > _LONGEST or count > _MOST:
            raise BadSafetensorsError(f"the shape of tensor {name!r} is impossible")
    if bits is not None and count * bits != size * 8:
        raise BadSafetensorsError(
            f"tensor {name!r} has {size} bytes, which does not match its shape"
        )


def _contiguous(tensors: Iterable[Tensor], begin: int) -> int:
    """Return where the last tensor ends, after checking that there are no gaps or overlaps."""
    at = begin
    for tensor in tensors:
        if tensor.start != at:
            what = "a gap" if tensor.start > at else "an overlap"
            raise BadSafetensorsError(f"there is {what} before tensor {tensor.name!r}")
        at = tensor.stop
    return at
