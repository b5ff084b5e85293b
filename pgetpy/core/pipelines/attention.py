"""Which attention backend a model gets: in which order they are tried, and what is believed.

The order of preference decides, not speed: which of two backends is faster changes from run to
run, and images must not. A backend that fails on a GPU can make the device unusable for the whole
process, so those that are most likely to fail are tried last, and only if no backend that is
preferred to them has passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# What diffusers uses by default; it works everywhere, so it is tried even if it is not asked for.
NATIVE = "native"
MATH = "_native_math"
# A backend may be this many times as far from exact math as plain math in the model's dtype is.
TOLERANCE = 4.0
_LONGEST_REASON = 200


@dataclass(frozen=True)
class AttentionShape:
    """The part of an attention layer's shape that decides whether a backend supports it.

    Attributes:
        heads: how many heads there are.
        size: numbers in each head.
    """

    heads: int
    size: int


@dataclass(frozen=True)
class ProbeResult:
    """What trying a backend showed.

    Attributes:
        refusal: why it cannot be used, a clause; empty if it can.
        fault: whether the device is unusable since, so that nothing else can be tried.
    """

    refusal: str = ""
    fault: bool = False


@dataclass
class Selection:
    """The outcome of trying backends.

    Attributes:
        name: the backend to use; empty if none passed.
        refused: why each of the others was not chosen, in order of preference.
        fault: the backend that made the device unusable; empty if none did.
    """

    name: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    fault: str = ""


def select(
    prefer: Sequence[str], known: Sequence[str], probe: Callable[[str], ProbeResult]
) -> Selection:
    """Try backends, and choose the most preferred one that passes.

    Args:
        prefer: names, the best first. Those that every machine has are added at the end.
        known: the names that the installed diffusers knows.
        probe: tries one.
    """
    wanted = list(dict.fromkeys([*prefer, NATIVE, MATH]))
    reasons: dict[str, str] = {}
    rank = len(wanted)
    fault = ""
    for name in sorted(wanted, key=risk):
        place = wanted.index(name)
        if place > rank or fault:
            continue
        if name not in known:
            reasons[name] = "the installed diffusers has no such backend"
            continue
        result = probe(name)
        if result.refusal:
            reasons[name] = result.refusal
        else:
            rank = place
        if result.fault:
            fault = name
    chosen = wanted[rank] if rank < len(wanted) and not fault else ""
    otherwise = f"the device failed when {fault} was tried" if fault else f"{chosen} is preferred"
    # Names that were added here are worth a line only if they failed.
    others = [name for name in wanted if name != chosen and (name in prefer or name in reasons)]
    return Selection(chosen, {name: reasons.get(name, otherwise) for name in others}, fault)


def risk(name: str) -> int:
    """Return how likely a backend is to break the process; the riskiest are tried last.

    PyTorch's own come first, then packages with compiled code, which can have been built for
    another PyTorch, then kernels from the Hub, which are code fetched from others.
    """
    if name == NATIVE or name.startswith("_native"):
        return 0
    if name == "flex":
        return 1
    return 3 if name.endswith("_hub") or "_hub_" in name else 2


def refuse_error(error: float, own: float, rounding: float) -> str:
    """Return why a result is too inexact, a clause; empty if it is not.

    Args:
        error: its largest difference from exact math.
        own: that of plain math in the model's dtype.
        rounding: the rounding error of the largest number of the result in that dtype.
    """
    if not math.isfinite(error):
        return "its result has numbers that are not finite"
    allowed = TOLERANCE * max(own, rounding)
    if error <= allowed:
        return ""
    return f"its result differs from exact math by {error:.2g}, and {allowed:.2g} is allowed"


def refuse_failure(error: BaseException, step: str) -> str:
    """Return why a backend that raised is refused: a clause of one line.

    Args:
        error: what was raised.
        step: what it was raised by: `selecting` it, or `calling` it.
    """
    words = " ".join(str(error).split()) or "no message"
    if len(words) > _LONGEST_REASON:
        words = f"{words[: _LONGEST_REASON - 3]}..."
    return f"{step} it raised {type(error).__name__}: {words}"


def is_device_fault(error: BaseException) -> bool:
    """Whether an error says that the device is unusable for the rest of the process.

    CUDA reports such errors at a later call, and then at every call.
    """
    words = str(error).lower()
    signs = ("illegal memory access", "device-side assert", "misaligned address", "launch failure")
    return any(sign in words for sign in signs)
