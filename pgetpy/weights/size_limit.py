"""A limit on the total size of the objects of one reference."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Progressed, Report
from pgetpy.errors import NotAllowedError
from pgetpy.sources.base import RemoteFile


class SizeBudget:
    """Adds up the sizes of the objects of `reference`, and raises when they exceed the limit.

    Args:
        largest: the allowed bytes and the rule that says so; None for no limit.
    """

    def __init__(self, reference: Reference, largest: tuple[int, str] | None) -> None:
        self._reference = reference
        self._largest = largest
        self._sizes: dict[int, int] = {}
        self._sum = 0
        self._lock = threading.Lock()

    def note(self, key: int, size: int | None) -> None:
        """Object `key` has at least `size` bytes. May be called from any thread.

        Raises:
            NotAllowedError: the sum exceeds the limit.
        """
        if self._largest is None or size is None:
            return
        most, rule = self._largest
        with self._lock:
            self._sum += max(0, size - self._sizes.get(key, 0))
            self._sizes[key] = max(size, self._sizes.get(key, 0))
            found = self._sum
        if found > most:
            reason = f"it has at least {found} bytes, and {most} are allowed"
            raise NotAllowedError(str(self._reference), rule, reason)

    def note_all(self, objects: Iterable[RemoteFile]) -> None:
        """Note the sizes that a service lists, by position."""
        for key, remote in enumerate(objects):
            self.note(key, remote.size)

    def hearing(self, report: Report) -> Report:
        """Return a report function that counts what has arrived before it calls `report`."""

        def heard(event: Event) -> None:
            if isinstance(event, Progressed):
                self.note(event.key, event.done)
            report(event)

        return heard
