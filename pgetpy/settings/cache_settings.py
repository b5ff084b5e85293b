"""Settings of the cache of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pgetpy.settings.folders import default_cache_folder
from pgetpy.settings.sections import Section


@dataclass(frozen=True)
class CacheSettings(Section):
    """Where the cache is, and its limits.

    Attributes:
        folder: its folder, existing or not.
        min_disk_free: bytes to leave free on its disk.
        max_bytes: bytes that it may use; None for no limit.
        remote: the second tier, a prefix in a bucket such as s3://BUCKET/PREFIX; empty for none.
        remote_mode: `readwrite`, or `read` to copy nothing there.
        remote_max_age: seconds for which the second tier is believed without asking the origin.
        lower: caches that are searched first and never written.
    """

    folder: Path = field(default_factory=default_cache_folder)
    min_disk_free: int = 10 << 30
    max_bytes: int | None = None
    remote: str = ""
    remote_mode: str = "readwrite"
    remote_max_age: float = 24 * 3600.0
    lower: tuple[Path, ...] = ()
