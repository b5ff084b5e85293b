"""How much the objects of one reference may take together."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Progressed, Report
from pgetpy.errors import NotAllowedError
from pgetpy.sources.base import RemoteFile


class SizeBudget:
    """Adds up what is known of the objects of `reference`, and says no to too much.

    Args:
        largest: the bytes that are allowed, and what says so; None for any.
    """

    def __init__(self, reference: Reference, largest: tuple[int, str] | None) -> None:
        self._reference = reference
        self._largest = largest
        self._sizes: dict[int, int] = {}
        self._sum = 0
        self._lock = threading.Lock()

    def note(self, key: int, size: int | None) -> None:
        """Object `key` has `size` bytes, or at least so many; called from any thread.

        Raises:
            NotAllowedError: together they are too many.
        """
        if self._largest is None or size is None:
            return
        most, rule = self._largest
        with self._lock:
            self._sum += max(0, size - self._sizes.get(key, 0))
            self._sizes[key] = max(size, self._sizes.get(key, 0))
            found = self._sum
        if found > most:
            reason = f"it has {found} bytes or more, {most} are allowed"
            raise NotAllowedError(str(self._reference), rule, reason)

    def note_all(self, objects: Iterable[RemoteFile]) -> None:
        """Take note of the sizes that a service has listed, by their places in its list."""
        for key, remote in enumerate(objects):
            self.note(key, remote.size)

    def hearing(self, report: Report) -> Report:
        """Return a report that takes note of what has come, before `report` is told."""

        def heard(event: Event) -> None:
            if isinstance(event, Progressed):
                self.note(event.key, event.done)
            report(event)

        return heard
