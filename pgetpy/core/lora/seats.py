"""Hot swapping: adapters that stay in a pipeline while their matrices become another LoRA's.

A compiled model is compiled again for each adapter that it gets, and not for one whose numbers
have changed. So each slot has a seat: an adapter that changes all modules that any LoRA so far has
changed, with zeros where the present one changes nothing. A LoRA that no seat can take (it changes
a text encoder, or the base itself) is loaded as everywhere else; all leave their seats then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pgetpy.core.lora.adapters import Base, Finding, Module
from pgetpy.core.lora.naming import Pair
from pgetpy.core.weights.safetensors import DTYPE_BITS


@dataclass(frozen=True)
class Shape:
    """The matrices of a module as a seat has them, for a rank of 1."""

    down: tuple[int, ...]
    up: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Passenger:
    """A LoRA to be seated.

    Attributes:
        name: what its adapter is called elsewhere.
        component: what the slot names.
        shapes: what it changes; None where it cannot be seated.
    """

    name: str
    component: str = ""
    shapes: Mapping[Module, Shape] | None = None


@dataclass(frozen=True)
class Seats:
    """What is in a pipeline.

    Attributes:
        names: whose matrices each seat has.
        scales: at which scale.
        frames: what each seat changes; none of them are swapped where it is empty.
    """

    names: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    components: tuple[str, ...] = ()
    frames: tuple[Mapping[Module, Shape], ...] = ()


@dataclass(frozen=True)
class SeatSteps:
    """What leads from one seating to another.

    Attributes:
        unload: everything leaves first, and all of `after` are loaded.
        swap: which seats get other matrices, or the same at another scale.
        after: what there is then, of which the first `used` are active.
    """

    unload: bool
    swap: tuple[int, ...]
    after: Seats
    used: int


def seat_name(number: int) -> str:
    """Return what the adapter of a seat is called; no name is in another."""
    return f"pget_seat_{number:03d}"


def shapes_of(
    finding: Finding, base: Base, parts: Mapping[str, bool]
) -> Mapping[Module, Shape] | None:
    """Return what a LoRA changes, None if it cannot be seated.

    Args:
        parts: which components are known to swap.
    """
    if finding.alters or finding.unclear or not finding.pairs or base.components is None:
        return None
    if not all(parts.get(component) for component, _ in finding.pairs):
        return None
    return {module: _shape(pair, module, base) for module, pair in finding.pairs.items()}


def _shape(pair: Pair, module: Module, base: Base) -> Shape:
    assert base.components is not None
    # Narrower ones are padded before they are swapped in.
    inputs = base.components[module[0]][module[1]].inputs
    return Shape((1, inputs, *pair.down[2:]), (pair.outputs, 1, *pair.up[2:]), pair.dtype)


def seat_steps(
    seats: Seats,
    wanted: Sequence[Passenger],
    scales: Sequence[float],
    known: Mapping[str, Mapping[Module, Shape]],
) -> SeatSteps:
    """Return how to come to have `wanted` active, in this order.

    Args:
        known: what has been seen to be changed, by component; seats are made for all of it.
    """
    used = len(wanted)
    names = tuple(each.name for each in wanted)
    components = tuple(each.component for each in wanted)
    # What is not seated may change the base as long as it is there.
    same = seats.names[:used] == names and seats.components[:used] == components
    same &= bool(seats.frames) or used == len(seats.names)
    seated = bool(seats.frames) and seats.components[:used] == components
    if same or (seated and all(map(_fits, wanted, seats.frames))):
        changed = [
            at
            for at in range(used)
            if (seats.names[at], seats.scales[at]) != (names[at], scales[at])
        ]
        after = replace(
            seats,
            names=(*names, *seats.names[used:]),
            scales=(*scales, *seats.scales[used:]),
        )
        return SeatSteps(False, tuple(changed), after, used)
    frames: tuple[Mapping[Module, Shape], ...] = ()
    if all(each.shapes is not None for each in wanted):
        frames = tuple(_frame(each, known) for each in wanted)
    return SeatSteps(True, (), Seats(names, tuple(scales), components, frames), used)


def _fits(passenger: Passenger, frame: Mapping[Module, Shape]) -> bool:
    return passenger.shapes is not None and passenger.shapes.items() <= frame.items()


def _frame(
    passenger: Passenger, known: Mapping[str, Mapping[Module, Shape]]
) -> Mapping[Module, Shape]:
    # Where two have other shapes or types for a module, the one that is to sit down is right.
    return {**known.get(passenger.component, {}), **(passenger.shapes or {})}


def frame_file(frame: Mapping[Module, Shape], named: Mapping[str, str]) -> bytes:
    """Return the .safetensors of a LoRA of rank 1 that changes nothing, at all of these places.

    Args:
        named: what files call components, where it is not what the pipeline does.
    """
    header: dict[str, object] = {}
    at = 0
    for (component, module), shape in frame.items():
        for side, dimensions in (("lora_A", shape.down), ("lora_B", shape.up)):
            size = DTYPE_BITS[shape.dtype] // 8
            for length in dimensions:
                size *= length
            offsets = [at, at + size]
            at += size
            header[f"{named.get(component, component)}.{module}.{side}.weight"] = {
                "dtype": shape.dtype,
                "shape": dimensions,
                "data_offsets": offsets,
            }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(at)
