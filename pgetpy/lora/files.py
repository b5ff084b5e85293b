"""Where a composer gets its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pgetpy.weights.cache import LeasedPath
from pgetpy.weights.options import ReferenceOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LoraFiles(Protocol):
    """What a composer needs of a WeightsDownloadCache."""

    def hold_many(
        self, urls: Sequence[str], **options: Unpack[ReferenceOptions]
    ) -> list[LeasedPath]:
        """Return the files of `urls`, each kept until its lease is released."""
        ...
