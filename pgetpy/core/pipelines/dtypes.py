"""In which dtype a component is loaded, and what of it may differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from pgetpy.core.pipelines.specs import AS_STORED
from pgetpy.core.weights.safetensors import DTYPE_BITS
from pgetpy.errors import BadSafetensorsError, BadSettingError

_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def dtype_sizes(header: bytes) -> Counter[str]:
    """Return the bytes in each dtype of a safetensors file, given the JSON of its header.

    The loader checks the header; this takes a third of the time.

    Raises:
        BadSafetensorsError: it is malformed.
    """
    sizes: Counter[str] = Counter()
    try:
        for name, each in json.loads(header).items():
            if name != "__metadata__":
                start, stop = each["data_offsets"]
                sizes[each["dtype"]] += stop - start
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BadSafetensorsError("its header cannot be read") from None
    return sizes


def load_dtype(
    component: str, wanted: str, sizes: Mapping[str, int], *, quantised: bool = False
) -> tuple[str, tuple[str, ...]]:
    """Return the dtype in which a component is loaded, and those of its file that change by that.

    Loaders take one dtype for all of a component, and float32 if they are given none. Of a file
    with several, the one with the most bytes is taken if nothing else is asked for.

    Args:
        component: its name, for errors.
        wanted: what was asked for, maybe `auto`.
        sizes: the bytes in each dtype of its files, by safetensors' names.
        quantised: whether its configuration says how its weights are quantised.

    Returns:
        The name of the dtype, or "" if there is nothing to say; and the names of others in the
        file, if `auto` was asked for.

    Raises:
        BadSettingError: the file has eight bits a number, in which nothing can be computed.
    """
    if wanted != AS_STORED:
        return wanted, ()
    small = [name for name in sizes if name.startswith("F8_")]
    if small and not quantised:
        reason = f"the weights of {component} are {small[0]}: name the dtype to compute in"
        raise BadSettingError("dtype", AS_STORED, reason)
    names = [name for name in sizes if name in _NAMES]
    if not names:
        return "", ()
    # Of equal parts, the one that holds the other.
    most = max(names, key=lambda name: (sizes[name], DTYPE_BITS[name]))
    return _NAMES[most], tuple(_NAMES[name] for name in names if name != most)


def strayed(found: Iterable[tuple[str, str]], wanted: str, kept: Collection[str]) -> str:
    """Return which parameter has another dtype than `wanted`; empty if none has.

    Args:
        found: names of parameters, and the names of their dtypes, floating-point ones alone.
        wanted: the name of the dtype.
        kept: parts of names that the model's class keeps in float32.
    """
    for name, dtype in found:
        parts = name.split(".")
        if dtype != wanted and not (dtype == "float32" and any(each in parts for each in kept)):
            return f"{name} in {dtype}"
    return ""
