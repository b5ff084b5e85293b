"""What a composer knows of its pipeline: one value, which is replaced in one step."""

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
    """A file as an adapter of the pipeline.

    Attributes:
        references: what it is called by, one for each slot that had it last.
        held: the leases of the file, as many.
        finding: what it is; `alters` says whether only unloading all brings the base back.
        component: the one that its slot names.
        slot: for which it was looked at; for errors alone.
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
        return self.finding.alters


@dataclass(frozen=True)
class CompositionState:
    """What is known of the pipeline.

    Attributes:
        loaded: adapters by name, used longest ago first.
        active: names and scales, as the pipeline was told.
        disabled: whether it leaves all adapters out of account.
        dirty: whether somebody has begun to change it since, and was cut off. `loaded` is then
            whatever may be there.
        originals: what has to be put back, where something loaded changes the base itself.
        seats: where adapters are swapped, which ones are there.
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
        """What the adapters in the pipeline are called."""
        if self.seats.names:
            return tuple(seat_name(at) for at in range(len(self.seats.names)))
        return tuple(self.loaded)

    def held(self) -> Iterable[LeasedPath]:
        return (held for adapter in self.loaded.values() for held in adapter.held)
