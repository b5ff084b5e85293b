"""Which pipelines leave the memory of a process so that the rest fits its budgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class MemorySize(NamedTuple):
    """Bytes in the host's memory, and in that of GPUs."""

    host: int = 0
    gpu: int = 0


NOTHING = MemorySize()


class MemoryBudget(NamedTuple):
    """The bytes that pipelines may take; None for no limit."""

    host: int | None = None
    gpu: int | None = None


class Storage(NamedTuple):
    """Where tensors have their bytes. Several tensors, and several models, can share one."""

    device: str
    address: int


@dataclass(frozen=True)
class MemoryUse:
    """A pipeline in memory as eviction sees it.

    Attributes:
        key: of the pipeline.
        storages: the bytes of each of its storages.
        held: whether a request is using it.
    """

    key: str
    storages: Mapping[Storage, int] = field(default_factory=dict)
    held: bool = False


def taken_by(uses: Iterable[MemoryUse]) -> MemorySize:
    """Return the bytes that pipelines take together, each storage counted once."""
    storages: dict[Storage, int] = {}
    for use in uses:
        storages.update(use.storages)
    host = sum(size for storage, size in storages.items() if storage.device == "cpu")
    return MemorySize(host, sum(storages.values()) - host)


def pipelines_to_drop(
    uses: Iterable[MemoryUse], budget: MemoryBudget, coming: MemorySize = NOTHING
) -> list[str]:
    """Return the keys of the pipelines to drop, least recently used first.

    Those in use stay, and so do those that would free nothing where it is needed, because others
    share their storages. If a budget cannot be met, all that help are returned.

    Args:
        uses: all of them, least recently used first.
        budget: what they may take.
        coming: what will be added.
    """
    kept = list(uses)
    gone: list[MemoryUse] = []
    for use in list(kept):
        if not _is_over(NOTHING, taken_by(kept), budget, coming):
            break
        if not use.held:
            kept.remove(use)
            gone.append(use)
    # The most recently used of those that turn out not to matter stays first.
    for use in reversed(list(gone)):
        if not _is_over(taken_by(kept), taken_by([*kept, use]), budget, coming):
            kept.append(use)
            gone.remove(use)
    return [use.key for use in gone]


def _is_over(
    before: MemorySize, after: MemorySize, budget: MemoryBudget, coming: MemorySize
) -> bool:
    """Whether growing from `before` to `after` adds something that a budget does not admit."""
    return any(
        most is not None and there > least and there + more > most
        for least, there, more, most in zip(before, after, coming, budget, strict=True)
    )
