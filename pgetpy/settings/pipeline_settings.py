"""Settings of pipelines on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pgetpy.settings.sections import Section


@dataclass(frozen=True)
class PipelineSettings(Section):
    """Where pipelines are kept, and how much of the cache they may keep.

    Attributes:
        folder: where they are; None for `pipelines` in the folder of the cache.
        max_bytes: bytes of the cache that they may keep; None for no limit.
    """

    folder: Path | None = None
    max_bytes: int | None = None
