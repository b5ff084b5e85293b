"""Rewrites an engine's events for the caller of a cache.

The engine reports a temporary file inside the cache, which means nothing to users, and it is done
before the content has been checked and published.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from pgetpy.cache.contents import Entry
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Failed, Finished, Progressed, Report, Waiting
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import PgetError


class EventAdapter:
    """Passes the events of `reference` to `report`, under its own key and name.

    The final event comes from `finished` or `failed`, not from the engine.
    """

    def __init__(self, report: Report, key: int, reference: Reference) -> None:
        self._report = report
        self._key = key
        self._url = str(reference)
        self._name = reference.name or "weights"
        self._begun = time.monotonic()
        self._result: DownloadResult | None = None
        self._waited = False
        # A remote tier that fails is followed by the origin, so both may have sent bytes.
        self._by_source: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._result = event.result
        elif not isinstance(event, Failed):
            self._waited |= isinstance(event, Waiting)
            if isinstance(event, Progressed):
                self._by_source |= event.bytes_by_source
            changes: dict[str, Any] = {"key": self._key}
            if hasattr(event, "dest"):
                changes["dest"] = self._name
            self._report(replace(event, **changes))

    def finished(self, entry: Entry, served_from: str) -> None:
        """Report that `entry` is there, fetched by this process or another."""
        result = self._result or self._result_of(entry, fetched=served_from != "cache")
        sources = self._by_source
        result = replace(result, dest=self._name, served_from=served_from, bytes_by_source=sources)
        self._report(Finished(self._key, result))

    def failed(self, error: PgetError) -> None:
        """Report that it could not be fetched."""
        self._report(Failed(self._key, self._url, self._name, error))

    def _result_of(self, entry: Entry, *, fetched: bool) -> DownloadResult:
        """Return the result for an entry that this engine did not fetch."""
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
