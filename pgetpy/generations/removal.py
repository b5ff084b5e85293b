"""Taking generations away: first the name, then the number, then the bytes and their pins.

A tree that is removed becomes a stage again, under the name that it was built with. So what a kill
leaves of it looks like what a killed builder leaves, and is removed in the same way.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time

from pgetpy.cache.layout import discard, token
from pgetpy.generations.layout import IN_USE, GenerationPaths, owner_at
from pgetpy.generations.readers import alone_with
from pgetpy.system.filesystem import names_in, remove_tree
from pgetpy.system.logs import RoomLog
from pgetpy.weights.cache import WeightsDownloadCache

# A stage without a lock is that of a process that is about to lock it, or was killed before.
_LEFT_SECONDS = 3600.0
_LOG = RoomLog("generations")


class TreeRemover:
    """Removes trees, and what dead processes left.

    Args:
        paths: the folder of generations.
        cache: in which trees have pins.
    """

    def __init__(self, paths: GenerationPaths, cache: WeightsDownloadCache) -> None:
        self._paths = paths
        self._cache = cache

    def remove(self, digest: str) -> bool:
        """Remove a tree unless it is read; False if it is, or is gone already.

        Its number stays: the caller frees it, or builds the tree again.
        """
        tree = self._paths.tree(digest)
        with alone_with(tree) as alone:
            # Without a lock nothing reads it, and nothing of ours has left it so.
            if not alone and (not tree.is_dir() or (tree / IN_USE).is_file()):
                return False
            owner = owner_at(tree)
            stage = self._paths.stage(self._paths.stage_of(owner) if owner else token())
            try:
                os.rename(tree, stage)
            except FileNotFoundError:
                return False
            discard(str(self._paths.damage(digest)))
            self.discard(stage.name)
        return True

    def discard(self, name: str) -> None:
        """Remove a stage, and the pins that were made in it."""
        remove_tree(self._paths.stage(name))
        self._cache.unpin_for(self._paths.owner(name))

    def sweep(self) -> int:
        """Remove what dead processes left; return how much."""
        count = 0
        # In this order: who builds has a stage before the first pin, and a tree before the stage is
        # gone.
        marked = {each for each in self._cache.pins_by_owner() if each.startswith(self._paths.mark)}
        for name in names_in(str(self._paths.root / "staging")):
            marked.discard(self._paths.owner(name))
            with contextlib.suppress(FileNotFoundError):
                count += self._sweep_stage(name)
        marked -= {owner_at(self._paths.tree(digest)) for digest in self._paths.digests()}
        count += sum(self._cache.unpin_for(owner) for owner in marked)
        for number, digest in self._paths.numbers().items():
            if not self._paths.tree(digest).is_dir():
                self._paths.release(number, digest)
                count += 1
        if count:
            _LOG.debug("removed %d things that dead processes left", count)
        return count

    def _sweep_stage(self, name: str) -> bool:
        stage = self._paths.stage(name)
        # Not through a link that waits to be renamed.
        if stat.S_ISDIR(os.lstat(stage).st_mode) and (stage / IN_USE).is_file():
            with alone_with(stage) as alone:
                if alone:
                    self.discard(name)
                return alone
        if time.time() - os.lstat(stage).st_mtime > _LEFT_SECONDS:
            self.discard(name)
            return True
        return False
