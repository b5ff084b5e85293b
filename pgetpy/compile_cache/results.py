"""What loading and saving a compile cache came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pgetpy.system.logs import RoomLog

_LOG = RoomLog("compile_cache")
_SHOWN = 20


@dataclass(frozen=True)
class CompileCacheResult:
    """How a load or a save went.

    Attributes:
        outcome: of a load `loaded`, `partial` (some of it could not be used), `miss` (nothing for
            this key), `skipped` (on purpose, see `reason`), `failed` or `cancelled`; of a save
            `saved`, `unchanged`, `skipped`, `failed` or `cancelled`.
        reason: one sentence on why, where there is something to say.
        entries: files that were laid down or saved.
        bytes: what was moved to or from the location, compressed.
        seconds: how long it took.
        key: of this machine; empty if it could not be told.
        nearest: on a miss, the key in the location that differs in the fewest facts.
        differing: these facts, each as `name: theirs, here ours`.
        removed: damaged files that were removed from the live folders, so that they are made anew.
        left_out: files that were not taken, with the reason, at most 20 of them.
    """

    outcome: str
    reason: str = ""
    entries: int = 0
    bytes: int = 0
    seconds: float = 0.0
    key: str = ""
    nearest: str = ""
    differing: Sequence[str] = ()
    removed: Sequence[str] = ()
    left_out: Sequence[str] = field(default=(), repr=False)

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass
class LeftOut:
    """Files that a load or save does not take; each is logged, and the first ones are kept.

    Attributes:
        left_out: these, with the reason.
    """

    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str, why: str) -> None:
        """Note that `what` is not taken."""
        _LOG.debug("left out %s: %s", what, why)
        if len(self.left_out) < _SHOWN:
            self.left_out.append(f"{what}: {why}")


@dataclass(frozen=True)
class CompileCacheReport:
    """What a process has made of its compile cache.

    Attributes:
        hits: graphs that torch found compiled; None without torch's counters.
        misses: graphs that it compiled.
        new_files: files that have appeared since the cache was last loaded, or since warm-up where
            `around` was used. More than a few mean that something is compiled while requests wait;
            unlike torch's own counters this also shows shared objects that were built again.
    """

    hits: int | None
    misses: int | None
    new_files: int
