"""Notes when the stages of a start began and ended. Any thread may add to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from pgetpy.core.pipelines.timeline import KINDS, BootTimeline, Stage
from pgetpy.core.report.events import Event, Finished
from pgetpy.errors import BadSettingError
from pgetpy.errors.redact import redact_text
from pgetpy.system.process_clock import seconds_running

# A server that has started goes on downloading: a start has fewer stages than this.
_MOST_STAGES = 2000


@dataclass
class StageNotes:
    """What a stage has to say once it has ended; its block fills this in.

    Attributes:
        note: a clause.
        size: bytes that it moved.
        kind: another kind, if only the outcome tells.
    """

    kind: str
    note: str = ""
    size: int | None = None


class BootRecorder:
    """The stages of this process's start.

    Args:
        clock: returns seconds since the process began.
    """

    def __init__(self, clock: Callable[[], float] = seconds_running) -> None:
        self._clock = clock
        self._stages: list[Stage] = [Stage("interpreter and imports", "python", 0.0, clock())]

    @contextlib.contextmanager
    def stage(self, name: str, kind: str = "other") -> Iterator[StageNotes]:
        """Record what runs in the block as one stage, also if it raises.

        Raises:
            BadSettingError: there is no such kind.
        """
        if kind not in KINDS:
            raise BadSettingError("kind", kind, f"is not one of {', '.join(KINDS)}")
        notes = StageNotes(kind)
        start, failed = self._clock(), True
        try:
            yield notes
            failed = False
        finally:
            words = redact_text(notes.note)
            stop = self._clock()
            self.add(Stage(redact_text(name), notes.kind, start, stop, notes.size, words, failed))

    def hear(self, event: Event) -> None:
        """Record a download when it has finished; see `core.report.events`."""
        if not isinstance(event, Finished) or event.result.served_from == "cache":
            return
        result = event.result
        stop = self._clock()
        note = f"from {result.served_from}" if result.served_from != "origin" else ""
        start = max(0.0, stop - result.seconds)
        self.add(Stage(_name_of(result.url), "download", start, stop, result.size, note))

    def now(self) -> float:
        """Return seconds since the process began."""
        return self._clock()

    def add(self, stage: Stage) -> None:
        """Add a stage that has ended, unless there are too many."""
        if len(self._stages) < _MOST_STAGES:
            self._stages.append(stage)

    def timeline(self) -> BootTimeline:
        """Return what has been recorded so far."""
        return BootTimeline.of(list(self._stages))


def _name_of(url: str) -> str:
    """Return the name of a file; with its folder if that is a component's, as all of them have a
    config.json."""
    *folders, name = urlsplit(url).path.rstrip("/").split("/")
    component = folders[-1] if folders and folders[-1].isidentifier() else ""
    return f"{component}/{name}" if component else name or url
