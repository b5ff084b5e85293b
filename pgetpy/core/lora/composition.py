"""Which adapters to load into a pipeline, to take out of it and to keep, decided by their names."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgetpy.errors import BadSettingError

# What a slot holds: a reference to a LoRA, and the scale at which it is added to the base; and the
# component that it is for, where files do not say it.
Slot = tuple[str, float] | tuple[str, float, str]


@dataclass(frozen=True)
class Abilities:
    """What a pipeline can do beyond loading, activating, and unloading all.

    Attributes:
        delete: take one adapter out and leave the others.
        disable: be its base while adapters stay loaded.
    """

    delete: bool
    disable: bool


@dataclass(frozen=True)
class Steps:
    """What leads from one composition to another, in this order.

    Attributes:
        unload: everything leaves first.
        load: what is loaded then.
        delete: what leaves at the end, when it is not active any more.
        loaded: what is loaded after that, used longest ago first.
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
    """Return how to come to have `wanted` loaded and active.

    Args:
        loaded: the names of what is loaded, used longest ago first.
        wanted: names, each once.
        keep: how many may stay loaded that are not wanted.
        altering: those that change the base as long as they are loaded, active or not. They are
            loaded into the base itself, in their order: what the base is then must not depend on
            what was there before.
        order: `wanted` in the order in which they have to be loaded; by default their own.
    """
    order = wanted if order is None else order
    idle = [name for name in loaded if name not in wanted]
    excess = tuple(idle[: max(0, len(idle) - keep)])
    unload = bool(loaded) and (
        any(name in altering for name in idle)
        or any(name in altering and name not in loaded for name in wanted)
        or _which(loaded, altering) != _which(wanted, altering)
        or (bool(excess) and not can.delete)
        # Of what is kept one at least was active last: deleting all that is active makes peft
        # activate another, so that nothing may be left then.
        or (not wanted and (not can.disable or len(excess) == len(loaded)))
    )
    if unload:
        return Steps(True, tuple(order), (), tuple(wanted))
    load = tuple(name for name in order if name not in loaded)
    return Steps(False, load, excess, (*idle[len(excess) :], *wanted))


def _which(names: Sequence[str], among: Collection[str]) -> list[str]:
    return [name for name in names if name in among]


def sums(layers: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Return each name once, in the order of their first mention, with the sum of its scales."""
    found: dict[str, float] = {}
    for name, scale in layers:
        found[name] = found[name] + scale if name in found else scale
    return tuple(found.items())


def check_slots(slots: Mapping[str, Slot]) -> dict[str, Slot]:
    """Return `slots` as they are to be applied.

    Raises:
        BadSettingError: a name is no text, a slot no pair of a text and a finite number.
    """
    if not isinstance(slots, Mapping):
        raise BadSettingError("slots", type(slots).__name__, "is no mapping of names to slots")
    return {_name(name): _slot(name, slot) for name, slot in slots.items()}


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise BadSettingError("the name of a slot", name, "is no text")
    return name


def _slot(name: str, slot: object) -> Slot:
    if not isinstance(slot, tuple | list) or len(slot) not in (2, 3):
        kind = type(slot).__name__
        raise BadSettingError(f"slot {name!r}", kind, "is no pair of a reference and a scale")
    reference, scale, *component = slot
    if not isinstance(reference, str) or not reference:
        kind = type(reference).__name__
        raise BadSettingError(f"the reference of slot {name!r}", kind, "is no text")
    if not component:
        return reference, _scale(name, scale)
    if not isinstance(component[0], str) or not component[0]:
        kind = type(component[0]).__name__
        raise BadSettingError(f"the component of slot {name!r}", kind, "is no text")
    return reference, _scale(name, scale), component[0]


def component_of(slot: Slot) -> str:
    """Return the component that a slot names, "" for none."""
    return slot[2] if len(slot) == 3 else ""


def _scale(name: str, scale: Any) -> float:
    what = f"the scale of slot {name!r}"
    if isinstance(scale, bool | str | bytes):
        raise BadSettingError(what, scale, "is no number")
    try:
        number = float(scale)  # what numpy and torch have is welcome
    except (TypeError, ValueError, OverflowError):
        raise BadSettingError(what, scale, "is no number") from None
    if not math.isfinite(number):
        raise BadSettingError(what, scale, "is not finite")
    return number
