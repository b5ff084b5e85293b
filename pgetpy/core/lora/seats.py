"""Hot swapping: adapters that stay in a pipeline while their matrices are replaced.

torch.compile compiles a model again whenever an adapter is added, but not when the numbers in one
change. So each slot gets a "seat": an adapter that covers every module that any LoRA has changed so
far, with zeros where the present LoRA changes nothing:

    module        A    B    C    D          frame: all modules seen so far
    seat 0      [ x ][ x ][ 0 ][ 0 ]        LoRA 1 changes A and B
    seat 0      [ 0 ][ x ][ x ][ 0 ]        swapped for LoRA 2: only numbers changed
    a LoRA that changes E  ->  a larger frame, loaded anew, compiled once more

Frames only grow, so a service settles after it has seen one LoRA of each kind. A LoRA that cannot
be seated (it changes a text encoder, or the base itself) is loaded as an ordinary adapter, and all
others with it.
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
    """The shapes of a module's two matrices in a seat, for rank 1."""

    down: tuple[int, ...]
    up: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Passenger:
    """A LoRA to be seated.

    Attributes:
        name: its adapter name outside of seats.
        component: the component that the slot names.
        shapes: what it changes; None if it cannot be seated.
    """

    name: str
    component: str = ""
    shapes: Mapping[Module, Shape] | None = None


@dataclass(frozen=True)
class Seats:
    """What is loaded in a pipeline.

    Attributes:
        names: the LoRA in each seat.
        scales: the scale of each.
        components: the component that each slot names.
        frames: the modules that each seat covers; empty if the LoRAs are ordinary adapters.
    """

    names: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    components: tuple[str, ...] = ()
    frames: tuple[Mapping[Module, Shape], ...] = ()


@dataclass(frozen=True)
class SeatSteps:
    """The steps from one seating to another.

    Attributes:
        unload: whether everything is removed first, and all of `after` is loaded.
        swap: the seats that get other matrices, or the same at another scale.
        after: the resulting seats.
        used: how many of them are active, counted from the first.
    """

    unload: bool
    swap: tuple[int, ...]
    after: Seats
    used: int


def seat_name(number: int) -> str:
    """Return the adapter name of a seat. Fixed width, so that no name is part of another."""
    return f"pget_seat_{number:03d}"


def shapes_of(
    finding: Finding, base: Base, parts: Mapping[str, bool]
) -> Mapping[Module, Shape] | None:
    """Return what a LoRA changes; None if it cannot be seated.

    Args:
        parts: for each component, whether its adapters can be swapped.
    """
    if finding.alters or finding.unclear or not finding.pairs or base.components is None:
        return None
    if not all(parts.get(component) for component, _ in finding.pairs):
        return None
    return {module: _shape(pair, module, base) for module, pair in finding.pairs.items()}


def _shape(pair: Pair, module: Module, base: Base) -> Shape:
    assert base.components is not None
    # The loader pads narrower ones before it swaps them in.
    inputs = base.components[module[0]][module[1]].inputs
    return Shape((1, inputs, *pair.down[2:]), (pair.outputs, 1, *pair.up[2:]), pair.dtype)


def seat_steps(
    seats: Seats,
    wanted: Sequence[Passenger],
    scales: Sequence[float],
    known: Mapping[str, Mapping[Module, Shape]],
) -> SeatSteps:
    """Return the steps after which `wanted` is active, in this order.

    Args:
        known: all modules that LoRAs have changed so far, by component; new frames cover them all.
    """
    used = len(wanted)
    names = tuple(each.name for each in wanted)
    components = tuple(each.component for each in wanted)
    # LoRAs that are not seated may change the base as long as they are loaded, so the match must be
    # exact for them.
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
    # If two LoRAs have different shapes or types for a module, the one about to be seated wins.
    return {**known.get(passenger.component, {}), **(passenger.shapes or {})}


def frame_file(frame: Mapping[Module, Shape], named: Mapping[str, str]) -> bytes:
    """Return a safetensors file of a rank-1 LoRA of zeros that covers all modules of `frame`.

    Args:
        named: what files call a component, if not by the pipeline's name.
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
