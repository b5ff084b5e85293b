"""What an upload returns."""

from __future__ import annotations

from dataclasses import dataclass

from pgetpy.core.report.results import DownloadResult


@dataclass(frozen=True)
class UploadResult(DownloadResult):
    """One object that a store has now. `url` is the file's path, `dest` the object.

    Attributes:
        connections: the largest number of connections that sent at the same time.
        etag: what the store calls its content, with quotes.
        parts_sent: parts that this run sent; 0 for a file that was sent whole.
        remarks: what the store could not promise, a clause each.
    """

    etag: str = ""
    parts_sent: int = 0
    remarks: tuple[str, ...] = ()
