"""Which pipelines on disk to remove so that what they keep in the cache fits a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TreeUse:
    """A pipeline on disk as eviction sees it.

    Attributes:
        key: of the pipeline.
        used: its last use; larger is later.
        files: the size of each file that it keeps, by device and inode.
        held: whether a process is using it.
    """

    key: str
    used: int
    files: Mapping[tuple[int, int], int]
    held: bool = False


def kept_bytes(trees: Iterable[TreeUse]) -> int:
    """Return the bytes that `trees` keep, each file counted once."""
    files: dict[tuple[int, int], int] = {}
    for tree in trees:
        files.update(tree.files)
    return sum(files.values())


def trees_to_remove(trees: Iterable[TreeUse], most: int) -> list[str]:
    """Return the keys of the trees to remove, least recently used first.

    Those in use stay, and so do those whose removal would free nothing because others keep the
    same files. If the budget cannot be met, all that help are returned.

    Args:
        trees: all of them.
        most: bytes that they may keep.
    """
    kept = list(trees)
    gone: list[TreeUse] = []
    for tree in sorted(kept, key=lambda each: (each.used, each.key)):
        if kept_bytes(kept) <= most:
            break
        if not tree.held:
            kept.remove(tree)
            gone.append(tree)
    # The most recently used of those that turn out not to matter stays first.
    for tree in reversed(list(gone)):
        larger = kept_bytes([*kept, tree])
        if larger <= most or larger == kept_bytes(kept):
            kept.append(tree)
            gone.remove(tree)
    return [tree.key for tree in gone]
