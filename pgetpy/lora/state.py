"""What a composer knows about its pipeline: one immutable value, replaced in one step.

The hard part is being cut off. Cog cancels a prediction by raising an exception in the predicting
thread, at any bytecode and even inside `finally`. A pipeline that is left half changed would
silently produce wrong images for every later request. So cleanup code carries no guarantee here.
What does is the order of writes to one attribute of the composer, whose value is a
`CompositionState`:

    clean(old) --1--> dirty(old + new) --2--> change the pipeline --3--> clean(new)
                          |                         |
                          +---- cut off anywhere ---+
                                      |
                         next call:   v
                         unload everything, check the base --> clean(empty) --> start over

1. Before the first call that changes the pipeline, the state becomes "dirty" and names every
   adapter that may be loaded from now on: the old ones and the new ones.
2. The pipeline is changed. If this is cut off, the dirty state stays.
3. A clean state that describes the result replaces the dirty one.

A call that finds a dirty state cannot know how far the last one came, so it assumes the worst: it
unloads everything and verifies that the base is back before doing anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgetpy.core.lora.adapters import Finding
from pgetpy.core.lora.composition import Slot
from pgetpy.core.lora.seats import Seats, seat_name
from pgetpy.lora.base import Originals
from pgetpy.weights.cache import LeasedPath


@dataclass(frozen=True)
class Adapter:
    """A file that is, or is about to be, an adapter of the pipeline.

    Attributes:
        references: the references that resolved to this file in the last `apply`, one a slot.
        held: the leases that keep the file in the cache, one for each reference.
        finding: what the file's header says. If `finding.alters`, only unloading everything
            restores the base.
        component: the component that the slot names; empty for the loader's choice.
        slot: the slot that it was first checked for, used in error messages only.
    """

    name: str
    path: Path
    references: tuple[str, ...]
    held: tuple[LeasedPath, ...]
    finding: Finding = field(default_factory=Finding)
    component: str = ""
    slot: str = ""

    @property
    def alters(self) -> bool:
        """Whether loading it changes the base itself, and not only its own adapter."""
        return self.finding.alters


@dataclass(frozen=True)
class CompositionState:
    """What is known about the pipeline. See `composer` for how states follow one another.

    Attributes:
        loaded: adapters by name, least recently used first.
        active: names and scales, as last passed to the pipeline.
        disabled: whether the pipeline ignores all of its adapters.
        dirty: whether a change was begun and not finished. `loaded` then lists everything that may
            be in the pipeline.
        originals: what must be put back when a loaded LoRA changes the base itself.
        seats: with hot swapping, which LoRA is in which adapter.
    """

    slots: Mapping[str, Slot] = field(default_factory=dict)
    loaded: Mapping[str, Adapter] = field(default_factory=dict)
    active: tuple[tuple[str, float], ...] = ()
    disabled: bool = False
    dirty: bool = False
    originals: Originals | None = None
    seats: Seats = field(default_factory=Seats)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters in the pipeline, as the pipeline knows them."""
        if self.seats.names:
            return tuple(seat_name(at) for at in range(len(self.seats.names)))
        return tuple(self.loaded)

    def held(self) -> Iterable[LeasedPath]:
        """Yield the leases of all loaded files."""
        return (held for adapter in self.loaded.values() for held in adapter.held)
