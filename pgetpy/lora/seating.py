"""Hot swapping on one pipeline: which LoRA is in which adapter, and what earlier ones changed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pgetpy.core.lora.adapters import Base, Module
from pgetpy.core.lora.seats import (
    Passenger,
    Seats,
    SeatSteps,
    Shape,
    frame_file,
    seat_name,
    seat_steps,
    shapes_of,
)
from pgetpy.errors import BadLoraError
from pgetpy.lora.hotswap import activate, multiply_scales, prepare, reset_scales, swapping_parts
from pgetpy.lora.pipeline import Pipeline, load
from pgetpy.lora.state import Adapter

# What diffusers and peft raise when a LoRA does not fit the prepared adapter. There is no way to
# ask beforehand.
_NOT_SWAPPED = (ValueError, RuntimeError, NotImplementedError)


class Seating:
    """Swaps LoRAs of up to one rank, to which all matrices are padded.

    Args:
        rank: the highest rank of any LoRA to come.
        base: the pipeline's modules and their widths.
    """

    def __init__(self, pipeline: Pipeline, rank: int, base: Base) -> None:
        prepare(pipeline, rank)
        self._rank = rank
        self._base = base
        self._parts = swapping_parts(pipeline)
        # What has been seen to be changed, by component.
        self._known: dict[str, dict[Module, Shape]] = {}
        # Those that the loader would not swap in.
        self._refused: set[str] = set()

    def check_rank(self, slot: str, adapter: Adapter) -> None:
        """Check that the matrices of a LoRA are within the prepared rank.

        Raises:
            BadLoraError: they are not.
        """
        pairs = adapter.finding.pairs.items()
        swapped = (pair.rank for (part, _), pair in pairs if self._parts.get(part))
        rank = max(swapped, default=0)
        if rank > self._rank:
            reason = (
                f"its rank is {rank}, and the pipeline is prepared for ranks up to {self._rank}"
            )
            raise BadLoraError(slot, adapter.references[0], reason)

    def plan(self, seats: Seats, wanted: Sequence[Adapter], scales: Sequence[float]) -> SeatSteps:
        """Return the steps that make `wanted` active, and remember which modules they change."""
        passengers = list(map(self._passenger, wanted))
        for each in passengers:
            self._known.setdefault(each.component, {}).update(each.shapes or {})
        return seat_steps(seats, passengers, scales, self._known)

    def carry_out(
        self,
        pipeline: Pipeline,
        plan: SeatSteps,
        paths: Mapping[str, Path],
        order: Sequence[str],
        unload: Callable[[], object],
    ) -> Seats:
        """Make the calls of `plan` that follow its unloading, and return the resulting seats.

        If the loader refuses to swap, everything is loaded the ordinary way instead.

        Args:
            paths: the files, by adapter name.
            order: the names in the order in which they must be loaded, if they are loaded.
            unload: removes everything from the pipeline.
        """
        if not plan.after.frames:
            return self._load(pipeline, plan, paths, order)
        try:
            self._swap(pipeline, plan, paths)
        except _NOT_SWAPPED:
            used, after = plan.used, plan.after
            plain = Seats(after.names[:used], after.scales[:used], after.components[:used])
            self._refused.update(plain.names)
            unload()
            return self._load(pipeline, SeatSteps(True, (), plain, used), paths, order)
        return plan.after

    def _passenger(self, adapter: Adapter) -> Passenger:
        refused = adapter.name in self._refused
        shapes = None if refused else shapes_of(adapter.finding, self._base, self._parts)
        return Passenger(adapter.name, adapter.component, shapes)

    def _load(
        self, pipeline: Pipeline, plan: SeatSteps, paths: Mapping[str, Path], order: Sequence[str]
    ) -> Seats:
        """Load the LoRAs as ordinary adapters."""
        seats = plan.after
        if plan.unload:
            for at in sorted(range(plan.used), key=lambda at: order.index(seats.names[at])):
                component = seats.components[at]
                load(pipeline, paths[seats.names[at]], seat_name(at), component=component)
        if plan.used:
            names = [seat_name(at) for at in range(plan.used)]
            pipeline.set_adapters(names, adapter_weights=list(seats.scales[: plan.used]))
        return seats

    def _swap(self, pipeline: Pipeline, plan: SeatSteps, paths: Mapping[str, Path]) -> None:
        """Put the matrices of LoRAs into the adapters of their seats."""
        seats = plan.after
        changed = tuple(range(plan.used)) if plan.unload else plan.swap
        for at in changed:
            name, component = seat_name(at), seats.components[at]
            if plan.unload:
                self._load_frame(pipeline, name, component, seats.frames[at])
            reset_scales(pipeline, name)
            path = paths[seats.names[at]]
            load(pipeline, path, name, component=component, hotswap=True)
            multiply_scales(pipeline, name, seats.scales[at])
        if plan.used:
            activate(pipeline, [seat_name(at) for at in range(plan.used)])

    def _load_frame(
        self, pipeline: Pipeline, name: str, component: str, frame: Mapping[Module, Shape]
    ) -> None:
        """Load an adapter of zeros that covers all modules of `frame`, for LoRAs to be swapped
        into."""
        with tempfile.TemporaryDirectory(prefix="pgetpy-") as folder:
            file = Path(folder) / "frame.safetensors"
            file.write_bytes(frame_file(frame, self._base.flagged))
            prepare(pipeline, self._rank)
            load(pipeline, file, name, component=component)
