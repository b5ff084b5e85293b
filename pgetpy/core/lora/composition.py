"""Which adapters to load, remove and keep, decided from their names alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgetpy.errors import BadSettingError

# What a slot holds: a reference to a LoRA, its scale, and optionally the component that it is for,
# if the file does not say.
Slot = tuple[str, float] | tuple[str, float, str]


@dataclass(frozen=True)
class Abilities:
    """What a pipeline can do besides loading, activating, and unloading everything.

    Attributes:
        delete: remove one adapter and leave the others.
        disable: act as its base while adapters stay loaded.
    """

    delete: bool
    disable: bool


@dataclass(frozen=True)
class Steps:
    """The steps from one composition to another, in this order.

    Attributes:
        unload: whether everything is removed first.
        load: what is loaded then.
        delete: what is removed at the end, when it is no longer active.
        loaded: what is loaded afterwards, least recently used first.
    """

    unload: bool
    load: tuple[str, ...]
    delete: tuple[str, ...]
    loaded: tuple[str, ...]


def steps(
    loaded: Sequence[str],
    wanted: Sequence[str],
    *,
    keep: int,
    can: Abilities,
    altering: Collection[str] = (),
    order: Sequence[str] | None = None,
) -> Steps:
    """Return the steps after which `wanted` is loaded and active.

    Args:
        loaded: the names of loaded adapters, least recently used first.
        wanted: names, each once.
        keep: how many unwanted adapters may stay loaded.
        can: what the pipeline can do.
        altering: LoRAs that change the base as long as they are loaded, active or not. They are
            always loaded onto the bare base, in the same order: the result must not depend on what
            was loaded before.
        order: `wanted` in the order in which they must be loaded; by default as given.
    """
    order = wanted if order is None else order
    idle = [name for name in loaded if name not in wanted]
    excess = tuple(idle[: max(0, len(idle) - keep)])
    unload = bool(loaded) and (
        any(name in altering for name in idle)
        or any(name in altering and name not in loaded for name in wanted)
        or _which(loaded, altering) != _which(wanted, altering)
        or (bool(excess) and not can.delete)
        # peft activates another adapter when all active ones are deleted. At least one of the kept
        # ones was active last, so deleting all but kept ones is safe, and deleting all is not.
        or (not wanted and (not can.disable or len(excess) == len(loaded)))
    )
    if unload:
        return Steps(True, tuple(order), (), tuple(wanted))
    load = tuple(name for name in order if name not in loaded)
    return Steps(False, load, excess, (*idle[len(excess) :], *wanted))


def _which(names: Sequence[str], among: Collection[str]) -> list[str]:
    return [name for name in names if name in among]


def sums(layers: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Return each name once, in order of first mention, with the sum of its scales."""
    found: dict[str, float] = {}
    for name, scale in layers:
        found[name] = found[name] + scale if name in found else scale
    return tuple(found.items())


def check_slots(slots: Mapping[str, Slot]) -> dict[str, Slot]:
    """Check `slots` and return them in the form in which they are applied.

    Raises:
        BadSettingError: a name is not a string, a slot is not a pair of a string and a number, or a
            scale is not finite.
    """
    if not isinstance(slots, Mapping):
        raise BadSettingError("slots", type(slots).__name__, "is not a mapping of names to slots")
    return {_name(name): _slot(name, slot) for name, slot in slots.items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise BadSettingError("the name of a slot", name, "is not a non-empty string")
    return name


def _slot(name: str, slot: object) -> Slot:
    if not isinstance(slot, tuple | list) or len(slot) not in (2, 3):
        kind = type(slot).__name__
        raise BadSettingError(f"slot {name!r}", kind, "is not a pair of a reference and a scale")
    reference, scale, *component = slot
    if not isinstance(reference, str) or not reference:
        kind = type(reference).__name__
        raise BadSettingError(f"the reference of slot {name!r}", kind, "is not a string")
    if not component:
        return reference, _scale(name, scale)
    if not isinstance(component[0], str) or not component[0]:
        kind = type(component[0]).__name__
        raise BadSettingError(f"the component of slot {name!r}", kind, "is not a string")
    return reference, _scale(name, scale), component[0]


def component_of(slot: Slot) -> str:
    """Return the component that a slot names; "" if it names none."""
    return slot[2] if len(slot) == 3 else ""


def _scale(name: str, scale: Any) -> float:
    what = f"the scale of slot {name!r}"
    if isinstance(scale, bool | str | bytes):
        raise BadSettingError(what, scale, "is not a number")
    try:
        number = float(scale)  # scalars of numpy and torch are welcome
    except (TypeError, ValueError, OverflowError):
        raise BadSettingError(what, scale, "is not a number") from None
    if not math.isfinite(number):
        raise BadSettingError(what, scale, "is not finite")
    return number
