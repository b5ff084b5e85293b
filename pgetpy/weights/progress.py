"""The events of one reference, among those of others: under a key and a name of its own.

An engine tells of the file that it writes for the cache, which people do not know; and it is done
before what came has been checked and has its place.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from pgetpy.cache.contents import Entry
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Failed, Finished, Report, Waiting
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import PgetError


class EventAdapter:
    """Hands events of `reference` on to `report`; its end is said by `finished` or `failed`."""

    def __init__(self, report: Report, key: int, reference: Reference) -> None:
        self._report = report
        self._key = key
        self._url = str(reference)
        self._name = reference.name or "weights"
        self._begun = time.monotonic()
        self._result: DownloadResult | None = None
        self._waited = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._result = event.result
        elif not isinstance(event, Failed):
            self._waited |= isinstance(event, Waiting)
            changes: dict[str, Any] = {"key": self._key}
            if hasattr(event, "dest"):
                changes["dest"] = self._name
            self._report(replace(event, **changes))

    def finished(self, entry: Entry, *, fetched: bool) -> None:
        """Tell that `entry` stands, be it by another's work."""
        result = self._result or self._result_of(entry, fetched=fetched)
        self._report(Finished(self._key, replace(result, dest=self._name)))

    def failed(self, error: PgetError) -> None:
        """Tell that it cannot be had."""
        self._report(Failed(self._key, self._url, self._name, error))

    def _result_of(self, entry: Entry, *, fetched: bool) -> DownloadResult:
        """Return the result of what no engine has brought."""
        seconds = time.monotonic() - self._begun
        return DownloadResult(
            url=self._url,
            final_url=self._url,
            dest=self._name,
            size=entry.size,
            digest=entry.record.digest or None,
            seconds=seconds,
            bytes_per_second=entry.size / seconds if fetched and seconds else 0.0,
            resumed=0 if fetched else entry.size,
            shared=self._waited and not fetched,
        )
