"""Pipelines on disk: folders of links to verified files, which loaders take for a model's folder.

    KEY/manifest.json   what it is (core/pipelines/build_manifest)
    KEY/links.json      where its links lead, with size and time of each file
    KEY/tree/           the links
    KEY/used            its modification time is the last use; locked by those who use it
    tmp/TOKEN/          one that is being made, or removed

A tree appears by rename, when all of its links have been checked, and is never changed. Entries of
the cache that it links to are pinned by the tree before that, so they stay as long as it does.
Opening compares sizes and times, which costs microseconds; a tree that does not hold any more is a
miss. Nothing depends on the locks: a tree that is removed while a loader reads it makes the loader
fail, and the files behind it stay, because they are leased.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pgetpy.cache.contents import digest_of
from pgetpy.cache.layout import token
from pgetpy.core.pipelines.build_manifest import (
    LONGEST_MANIFEST,
    BuildManifest,
    is_safe_path,
    parse_manifest,
)
from pgetpy.core.pipelines.tree_eviction import TreeUse, kept_bytes, trees_to_remove
from pgetpy.errors import IntegrityError
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import cache_error, map_os_errors, remove_tree, sync_folder
from pgetpy.system.logs import RoomLog
from pgetpy.weights.cache import WeightsDownloadCache

_KEY = frozenset("0123456789abcdef")
_KEY_LENGTH = 64
# What a dead process left is removed after this many seconds.
_LEFT_SECONDS = 3600.0
_LOG = RoomLog("pipelines")


class TreeSource(NamedTuple):
    """A file that a tree is to have.

    Attributes:
        path: where, below the tree.
        target: the file to link to.
        reference: the cache's entry to pin; empty for a file that is not the cache's.
    """

    path: str
    target: Path
    reference: str = ""


@dataclass(frozen=True)
class TreeLink:
    """A link, and what its target was like when it was made."""

    path: str
    target: str
    size: int
    mtime_ns: int


class ListedTree(NamedTuple):
    """A tree as listings show it: `size` counts each of its files, shared or not."""

    manifest: BuildManifest
    used: float
    size: int
    held: bool


class PipelineTree:
    """A tree in use. A context manager; eviction leaves it alone until it is closed.

    Attributes:
        path: the folder for loaders.
        manifest: what it is.
    """

    def __init__(self, path: Path, manifest: BuildManifest, fd: int) -> None:
        self.path = path
        self.manifest = manifest
        self._fd: int | None = fd

    def close(self) -> None:
        """End the use. Calling it again has no effect."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> PipelineTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


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
            with contextlib.suppress(OSError):  # a file system without locks
                if not try_lock(fd, shared=True):
                    return None  # it is being removed
            manifest = self._sound(place, key)
            if manifest is not None:
                with contextlib.suppress(OSError):  # a read-only file system
                    os.utime(fd)
                fd, used = -1, fd
                return PipelineTree(place / "tree", manifest, used)
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def publish(self, manifest: BuildManifest, sources: Sequence[TreeSource]) -> PipelineTree:
        """Make a tree of links to `sources`; return the one under its key, whoever made it.

        The caller leases the entries, and has verified their digests.

        Args:
            manifest: what it is; its subjects are the files.
            sources: the files, each named in the manifest.

        Raises:
            IntegrityError: a file is missing, or has another size than the manifest says.
            CacheError: it cannot be written.
        """
        key = manifest.base_key
        with map_os_errors(lambda error: cache_error(error, self.folder)):
            if (found := self.open(key)) is not None:
                return found
            for source in sources:
                if source.reference:
                    self._cache.pin_for(key, source.reference)
            stage = self._stage()
            try:
                self._fill(stage, manifest, sources)
                self._put(stage, self._place(key))
            finally:
                remove_tree(stage)
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
        place = self._place(key)
        with map_os_errors(lambda error: cache_error(error, self.folder)):
            with self._alone(place) as alone:
                if not alone:
                    return False
                away = self._stage()
                try:
                    os.rename(place, away / "removed")
                except FileNotFoundError:
                    return False
                finally:
                    remove_tree(away)
            # If another process has published it again meanwhile, the next use pins it again.
            if not place.exists():
                self._cache.unpin_for(key)
            return True

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
                with self._alone(place) as alone:
                    held = not alone
                size = sum(each.size for each in manifest.subjects)
                used = (place / "used").stat().st_mtime
                found.append(ListedTree(manifest, used, size, held))
        return sorted(found, key=lambda tree: -tree.used)

    def sweep(self) -> int:
        """Remove what dead processes left, and pins of trees that are gone; return how much."""
        count = 0
        for left in _entries(self.folder / "tmp"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                    remove_tree(left)
                    count += 1
        # A process that is just making a tree has its pins before the tree.
        if not _entries(self.folder / "tmp"):
            gone = {owner for owner in self._cache.pins_by_owner() if _is_key(owner)}
            count += sum(self._cache.unpin_for(owner) for owner in gone - set(self.keys()))
        return count

    # ------------------------------------------------------------------------------------ innards

    def _place(self, key: str) -> Path:
        if not _is_key(key):
            raise IntegrityError(f"{key[:100]!r} is not the key of a pipeline")
        return self.folder / key

    def _stage(self) -> Path:
        stage = self.folder / "tmp" / token()
        stage.mkdir(parents=True)
        return stage

    def _fill(self, stage: Path, manifest: BuildManifest, sources: Sequence[TreeSource]) -> None:
        tree = stage / "tree"
        tree.mkdir()
        sizes = {each.path: each.size for each in manifest.subjects}
        links = []
        for source in sources:
            link = _link_to(source, sizes.pop(source.path, -1))
            path = tree / source.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(link.target)
            links.append(asdict(link))
        if sizes:
            raise IntegrityError(f"the pipeline lacks {min(sizes)}")
        _write(stage / "links.json", json.dumps(links).encode())
        _write(stage / "manifest.json", manifest.to_json())
        _write(stage / "used", b"")
        sync_folder(stage)

    def _put(self, stage: Path, place: Path) -> None:
        """Give a finished tree its name. One that is there and does not hold is moved away."""
        made = stage.with_name(token())
        os.rename(stage, made)
        try:
            for _ in range(3):
                try:
                    os.rename(made, place)
                except OSError:
                    if not place.exists():
                        raise
                else:
                    return
                if self._sound(place, place.name) is not None:
                    return  # another process was faster
                away = self._stage()
                with contextlib.suppress(FileNotFoundError):
                    os.rename(place, away / "damaged")
                remove_tree(away)
        finally:
            remove_tree(made)

    def _sound(self, place: Path, key: str) -> BuildManifest | None:
        """Return the manifest of a tree whose links lead where they did; None otherwise."""
        try:
            manifest = self._manifest(place)
            links = _parse_links(_read(place / "links.json"))
            subjects = {each.path: each.size for each in manifest.subjects}
            holds = manifest.base_key == key and subjects == {
                each.path: each.size for each in links
            }
            return (
                manifest if holds and all(_holds(place / "tree", each) for each in links) else None
            )
        except (OSError, IntegrityError):
            return None

    def _manifest(self, place: Path) -> BuildManifest:
        try:
            return parse_manifest(_read(place / "manifest.json"), f"{place}/manifest.json")
        except OSError:
            raise IntegrityError(f"there is no pipeline {place.name}") from None

    def _use(self, key: str, *, held: bool) -> TreeUse:
        """Return a tree for eviction; a damaged one keeps nothing, and counts as never used."""
        place = self._place(key)
        try:
            used = (place / "used").stat().st_mtime_ns
            files = {}
            for link in _parse_links(_read(place / "links.json")):
                with contextlib.suppress(OSError):
                    status = os.stat(link.target)
                    files[status.st_dev, status.st_ino] = status.st_size
        except (OSError, IntegrityError):
            return TreeUse(key, 0, {}, held)
        with self._alone(place) as alone:
            return TreeUse(key, used, files, held or not alone)

    @contextlib.contextmanager
    def _alone(self, place: Path) -> Iterator[bool]:
        """Keep others from opening a tree; False if a process is using it."""
        try:
            fd = os.open(place / "used", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield True  # damaged, or gone
            return
        try:
            try:
                alone = try_lock(fd)
            except OSError:  # a file system without locks
                alone = True
            yield alone
        finally:
            os.close(fd)


def _is_key(name: str) -> bool:
    return len(name) == _KEY_LENGTH and _KEY.issuperset(name)


def _link_to(source: TreeSource, size: int) -> TreeLink:
    """Return the link to `source`, which the manifest says has `size` bytes.

    Raises:
        IntegrityError: it is not there, or not what the manifest says.
    """
    if not is_safe_path(source.path):
        raise IntegrityError(f"a pipeline cannot have a file {source.path!r}")
    try:
        status = os.stat(source.target)
    except OSError:
        raise IntegrityError(f"{source.path} is gone from the cache") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise IntegrityError(f"{source.path} has {status.st_size} bytes instead of {size}")
    return TreeLink(source.path, os.path.abspath(source.target), status.st_size, status.st_mtime_ns)


def _holds(tree: Path, link: TreeLink) -> bool:
    """Whether a link is there, and leads to the file that it led to when it was made."""
    path = tree / link.path
    if os.readlink(path) != link.target:
        return False
    status = os.stat(path)
    return (status.st_size, status.st_mtime_ns) == (link.size, link.mtime_ns)


def _parse_links(data: bytes) -> list[TreeLink]:
    """Return the links in a links.json.

    Raises:
        IntegrityError: it is damaged.
    """
    try:
        links = [TreeLink(**each) for each in json.loads(data)]
    except (TypeError, ValueError, RecursionError):
        raise IntegrityError("links.json is damaged") from None
    for link in links:
        texts = isinstance(link.path, str) and isinstance(link.target, str)
        if not (texts and type(link.size) is type(link.mtime_ns) is int):
            raise IntegrityError("links.json is damaged")
        if not is_safe_path(link.path):
            raise IntegrityError("links.json names a file outside its folder")
    return links


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LONGEST_MANIFEST + 1)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
