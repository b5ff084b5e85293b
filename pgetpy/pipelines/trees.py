"""Pipelines on disk: folders of links to verified files, which loaders take for a model's folder.

    KEY/manifest.json   what it is (core/pipelines/build_manifest)
    KEY/links.json      where its links lead, with size and time of each file
    KEY/tree/           the links
    KEY/compositions/   what was made of it with LoRAs (compositions)
    KEY/used            its modification time is the last use; locked by those who use it
    tmp/TOKEN/          one that is being made, or removed
    id                  how the owners of the pins of this folder's trees begin

A tree appears by rename, when all of its links have been checked, and is never changed. Entries of
the cache that it links to are pinned by the tree before that, so they stay as long as it does.
Opening compares sizes and times, which costs microseconds; a tree that does not hold any more is a
miss. Nothing depends on the locks: a tree that is removed while a loader reads it makes the loader
fail, and the files behind it stay, because they are leased.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pgetpy.cache.contents import digest_of
from pgetpy.cache.layout import move_if_free, token
from pgetpy.core.pipelines.build_manifest import BuildManifest, parse_manifest
from pgetpy.core.pipelines.tree_eviction import TreeUse, kept_bytes, trees_to_remove
from pgetpy.errors import IntegrityError
from pgetpy.pipelines.tree_links import (
    TreeLinks,
    TreeSource,
    flush_file,
    holds,
    link_to,
    parse_links,
    read_small,
    write_through,
)
from pgetpy.pipelines.tree_use import PipelineTree, alone_with, hold
from pgetpy.system.filesystem import cache_error, map_os_errors, remove_tree, sync_folder
from pgetpy.system.logs import RoomLog
from pgetpy.weights.cache import WeightsDownloadCache

_HEX = frozenset("0123456789abcdef")
_KEY_LENGTH = 64
# What a dead process left is removed after this many seconds.
_LEFT_SECONDS = 3600.0
# How often to replace a tree that does not hold while other processes do so as well.
_TRIES = 3
_LOG = RoomLog("pipelines")


class ListedTree(NamedTuple):
    """A tree as listings show it: `size` counts each of its files, shared or not."""

    path: Path
    manifest: BuildManifest
    used: float
    size: int
    held: bool


class TreeStore:
    """The trees in one folder, shared by all processes that use it.

    Args:
        folder: where they are; created when one is published.
        cache: what they link to.
        max_bytes: bytes that trees may keep in the cache; None for no limit.
    """

    def __init__(
        self, folder: Path, cache: WeightsDownloadCache, max_bytes: int | None = None
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._cache = cache
        self._max_bytes = max_bytes

    def open(self, key: str) -> PipelineTree | None:
        """Return the tree `key`, counted as used; None if it is not there, or does not hold."""
        place = self._place(key)
        try:
            fd = os.open(place / "used", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            hold(fd)
            if os.fstat(fd).st_ino != os.stat(place / "used").st_ino:
                return None  # removed while we waited
            manifest = self._sound(place, key)
            if manifest is not None:
                with contextlib.suppress(OSError):  # a read-only file system
                    os.utime(fd)
                fd, used = -1, fd
                return PipelineTree(place / "tree", manifest, used)
        except FileNotFoundError:
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a new folder for files that are to be published; what is left in it is removed.

        Raises:
            CacheError: it cannot be made.
        """
        with map_os_errors(lambda error: cache_error(error, self.folder)):
            stage = self._stage()
        try:
            yield stage
        finally:
            remove_tree(stage)

    def publish(
        self, manifest: BuildManifest, sources: Sequence[TreeSource], *, move: bool = False
    ) -> PipelineTree:
        """Make a tree of links to `sources`; return the one under its key.

        The caller leases the entries, and has verified their digests.

        Args:
            manifest: what it is; its subjects are the files.
            sources: the files, each named in the manifest.
            move: put the files themselves there; they are in a `staging` folder.

        Raises:
            IntegrityError: a file is missing, or has another size than the manifest says.
            CacheError: it cannot be written.
        """
        key = manifest.base_key
        with map_os_errors(lambda error: cache_error(error, self.folder)):
            if (found := self.open(key)) is not None:
                return found
            stage = self._stage()
            published = False
            try:
                self._fill(stage, manifest, sources, move)
                published = self._put(stage, self._place(key))
            finally:
                remove_tree(stage)
                if not published:
                    self._cache.unpin_for(self._owner_of(stage))
        self.trim(keep=key)
        tree = self.open(key)
        if tree is None:
            raise IntegrityError(f"the files of pipeline {key} changed while it was made")
        _LOG.debug("pipeline %s is at %s", key, tree.path)
        return tree

    def remove(self, key: str) -> bool:
        """Remove a tree and its pins; return False if it is not there, or in use.

        Raises:
            CacheError: it cannot be removed.
        """
        with map_os_errors(lambda error: cache_error(error, self.folder)):
            place = self._place(key)
            with alone_with(place) as alone:
                return alone and self._take_away(place)

    def trim(self, keep: str = "") -> list[str]:
        """Remove the least recently used trees over the budget; return their keys.

        Args:
            keep: the key of a tree that stays.
        """
        if self._max_bytes is None:
            return []
        uses = [self._use(key, held=key == keep) for key in self.keys()]
        return [key for key in trees_to_remove(uses, self._max_bytes) if self.remove(key)]

    def kept_bytes(self) -> int:
        """Return the bytes that all trees keep, each file counted once."""
        return kept_bytes(self._use(key, held=False) for key in self.keys())

    def verify(self, key: str) -> list[str]:
        """Hash all files of a tree; return the paths of those that are damaged or missing.

        Raises:
            IntegrityError: its manifest cannot be used.
        """
        place = self._place(key)
        manifest = self._manifest(place)
        paths = {each.path: place / "tree" / each.path for each in manifest.subjects}
        return [
            each.path
            for each in manifest.subjects
            if not paths[each.path].is_file()
            or digest_of(paths[each.path]) != f"sha256:{each.sha256}"
        ]

    def keys(self) -> list[str]:
        """Return the keys of all trees, sorted."""
        try:
            return sorted(name for name in os.listdir(self.folder) if _is_key(name))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def listed(self) -> list[ListedTree]:
        """Return all trees whose manifests can be read, most recently used first."""
        found = []
        for key in self.keys():
            with contextlib.suppress(IntegrityError, OSError):
                place = self._place(key)
                manifest = self._manifest(place)
                with alone_with(place) as alone:
                    held = not alone
                size = sum(each.size for each in manifest.subjects)
                used = (place / "used").stat().st_mtime
                found.append(ListedTree(place / "tree", manifest, used, size, held))
        return sorted(found, key=lambda tree: -tree.used)

    def sweep(self) -> int:
        """Remove what dead processes left, and pins of trees that are gone; return how much.

        Raises:
            CacheError: the folder cannot be written.
            IntegrityError: the folder does not say which pins are its own.
        """
        with map_os_errors(lambda error: cache_error(error, self.folder)):
            return self._sweep()

    def _sweep(self) -> int:
        count = 0
        for left in _entries(self.folder / "tmp"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                    remove_tree(left)
                    count += 1
        if not self.folder.is_dir():
            return count
        # In this order: what is being made has its folder in tmp before its first pin, and its name
        # before that folder is gone.
        owners = {each for each in self._cache.pins_by_owner() if each.startswith(self._mark)}
        if not _entries(self.folder / "tmp"):
            owners -= {_links_at(self._place(key)).owner for key in self.keys()}
            count += sum(self._cache.unpin_for(owner) for owner in owners)
        return count

    # ------------------------------------------------------------------------------------ innards

    def _place(self, key: str) -> Path:
        if not _is_key(key):
            raise IntegrityError(f"{key[:100]!r} is not the key of a pipeline")
        return self.folder / key

    @cached_property
    def _mark(self) -> str:
        """How the owners of this folder's pins begin: several folders may share a cache.

        It is kept in the folder, which may be mounted at another path the next time.
        """
        path = self.folder / "id"
        if not path.exists():
            own = self._stage() / "id"
            write_through(own, token().encode())
            move_if_free(str(own), str(path))
            remove_tree(own.parent)
        mark = path.read_bytes().decode(errors="replace")
        # Pins of others begin with whatever a damaged file says, such as nothing.
        if len(mark) != len(token()) or not _HEX.issuperset(mark):
            raise IntegrityError(f"{path} is damaged; remove it")
        return mark

    def _stage(self) -> Path:
        stage = self.folder / "tmp" / token()
        stage.mkdir(parents=True)
        return stage

    def _fill(
        self, stage: Path, manifest: BuildManifest, sources: Sequence[TreeSource], move: bool
    ) -> None:
        owner = self._owner_of(stage)
        tree = stage / "tree"
        tree.mkdir()
        sizes = {each.path: each.size for each in manifest.subjects}
        links = []
        for source in sources:
            if source.reference:
                self._cache.pin_for(owner, source.reference, wanted=source.wanted)
            link = link_to(source, sizes.pop(source.path, -1), move=move)
            path = tree / source.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if move:
                flush_file(source.target)
                source.target.rename(path)
            else:
                path.symlink_to(link.target)
            links.append(link)
        if sizes:
            raise IntegrityError(f"the pipeline lacks {min(sizes)}")
        write_through(stage / "links.json", TreeLinks(owner, tuple(links)).to_json())
        write_through(stage / "manifest.json", manifest.to_json())
        write_through(stage / "used", b"")
        sync_folder(stage)

    def _owner_of(self, stage: Path) -> str:
        """Return the owner of the pins of the tree that is made in `stage`."""
        return self._mark + stage.name

    def _put(self, stage: Path, place: Path) -> bool:
        """Give a finished tree its name; False if another process was faster.

        A tree that is there and does not hold is taken away.
        """
        for _ in range(_TRIES):
            try:
                os.rename(stage, place)
            except OSError:
                if not place.exists():
                    raise
            else:
                sync_folder(self.folder)
                return True
            if self._sound(place, place.name) is not None:
                return False
            self._take_away(place, damaged=True)
        return False

    def _take_away(self, place: Path, *, damaged: bool = False) -> bool:
        """Remove a tree, then its pins; False if it is gone, or not `damaged` any more."""
        away = self._stage()
        try:
            os.rename(place, away / "removed")
            # Another process may have replaced it meanwhile.
            if damaged and self._sound(away / "removed", place.name) is not None:
                with contextlib.suppress(OSError):
                    os.rename(away / "removed", place)
                    return False
            owner = _links_at(away / "removed").owner
        except FileNotFoundError:
            return False
        finally:
            remove_tree(away)
        if owner.startswith(self._mark):
            self._cache.unpin_for(owner)
        return True

    def _sound(self, place: Path, key: str) -> BuildManifest | None:
        """Return the manifest of a tree whose links lead where they did; None otherwise."""
        try:
            manifest = self._manifest(place)
            links = parse_links(read_small(place / "links.json")).links
            subjects = {each.path: each.size for each in manifest.subjects}
            if manifest.base_key != key or subjects != {each.path: each.size for each in links}:
                return None
            return manifest if all(holds(place / "tree", each) for each in links) else None
        except (OSError, IntegrityError):
            return None

    def _manifest(self, place: Path) -> BuildManifest:
        try:
            return parse_manifest(read_small(place / "manifest.json"), f"{place}/manifest.json")
        except OSError:
            raise IntegrityError(f"there is no pipeline {place.name}") from None

    def _use(self, key: str, *, held: bool) -> TreeUse:
        """Return a tree for eviction; a damaged one keeps nothing, and counts as never used."""
        place = self._place(key)
        files = {}
        for link in _links_at(self._place(key)).links:
            with contextlib.suppress(OSError):
                status = os.stat(link.target or place / "tree" / link.path)
                files[status.st_dev, status.st_ino] = status.st_size
        try:
            used = (place / "used").stat().st_mtime_ns
        except OSError:
            return TreeUse(key, 0, files, held)
        with alone_with(place) as alone:
            return TreeUse(key, used, files, held or not alone)


def _is_key(name: str) -> bool:
    return len(name) == _KEY_LENGTH and _HEX.issuperset(name)


def _links_at(place: Path) -> TreeLinks:
    """Return the links of a tree; none if they cannot be read."""
    try:
        return parse_links(read_small(place / "links.json"))
    except (OSError, IntegrityError):
        return TreeLinks("", ())


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
