"""The LoRA files of a pipeline as a composer takes them: in the version that was planned."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.cache.tickets import Lease
from pgetpy.core.lora.composition import Slot
from pgetpy.core.pipelines.specs import LoraSpec
from pgetpy.weights.cache import LeasedPath, WeightsDownloadCache
from pgetpy.weights.options import ReferenceOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ComposedLora(NamedTuple):
    """A LoRA as it counts for what an image looks like."""

    sha256: str
    scale: float
    component: str


Composition = tuple[ComposedLora, ...]


class PlannedLoras:
    """Leases the files that a plan named. A stand-in for the cache, which would look them up again
    and may have a newer version.

    Args:
        cache: has them.
        paths: by reference.
    """

    def __init__(self, cache: WeightsDownloadCache) -> None:
        self._cache = cache
        self._paths: Mapping[str, Path] = {}

    def put(self, paths: Mapping[str, Path]) -> None:
        """Say where the files are that are asked for next, by reference."""
        self._paths = paths

    def hold_many(
        self, urls: Sequence[str], **options: Unpack[ReferenceOptions]
    ) -> list[LeasedPath]:
        """Return the files of `urls`, each leased."""
        return [LeasedPath(self._paths[url], self._lease(url, options)) for url in urls]

    def _lease(self, url: str, options: ReferenceOptions) -> Lease:
        if os.path.isabs(url):  # a local file, which no eviction takes
            return Lease(url, None, lambda: None)
        return self._cache.hold(url, **options)


def slots_for(loras: Sequence[LoraSpec], references: Sequence[str]) -> dict[str, Slot]:
    """Return what a composer is asked for: the LoRAs of a specification, in their order.

    Args:
        references: to the file of each in the planned version.
    """
    return {
        f"lora{at}": (reference, each.scale, each.component)
        if each.component
        else (reference, each.scale)
        for at, (each, reference) in enumerate(zip(loras, references, strict=True))
    }
