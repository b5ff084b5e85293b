"""From a lock to a published generation.

    pins, cached files --> what is missing is fetched --> linked, checked --> recorded --> flushed
        --> the tree gets its name --> its number --> latest

Each step may be the last: what a killed builder left is removed by the next one (`sweep`), and a
tree without a number gets it when the same lock is built again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pgetpy.cache.contents import Entry
from pgetpy.cache.layout import token
from pgetpy.core.generations.lock import FileLine, GenerationLock, LockedEnvironment
from pgetpy.core.generations.record import (
    ENVIRONMENTS,
    FILES,
    GenerationRecord,
    RecordedEnvironment,
)
from pgetpy.errors import (
    ArchiveError,
    GenerationIncompleteError,
    GenerationInUseError,
    GenerationTakenError,
)
from pgetpy.errors.redact import redact
from pgetpy.generations.checking import Fault, faults_of
from pgetpy.generations.layout import RECORD, GenerationPaths, open_to_all
from pgetpy.generations.linking import TreeLinker
from pgetpy.generations.readers import alone_with, lock_shared, make_lock, readers_of
from pgetpy.generations.removal import TreeRemover
from pgetpy.system.event_loop import gather_limited, run_blocking
from pgetpy.system.filesystem import closing_fd, remove_tree, sync_folder, system_call
from pgetpy.system.logs import RoomLog
from pgetpy.weights.cache import WeightsDownloadCache
from pgetpy.weights.maintenance import KeptEntry

# Files that are fetched at the same time.
_AT_A_TIME = 20
# How often to begin again when another process removes what was found.
_TRIES = 5
_LOG = RoomLog("generations")


class CachedFile(NamedTuple):
    """Where the content of a line is; `size` is None for a folder."""

    path: str
    size: int | None


@dataclass(frozen=True)
class GenerationBuilder:
    """Builds generations in one folder.

    Args:
        paths: the folder.
        cache: has the files, or fetches them.
        remover: takes away what is damaged, or was left.
        copies: whether to copy what cannot be linked.
        fsync: whether to wait until a generation is on stable storage before it is published.
        clean_uv_cache: whether to empty uv's cache before environments are built.
    """

    paths: GenerationPaths
    cache: WeightsDownloadCache
    remover: TreeRemover
    copies: bool
    fsync: bool
    clean_uv_cache: bool

    def build(self, lock: GenerationLock, maximum: int | None = None) -> GenerationRecord:
        """Publish the generation of `lock`, unless it is there already; return what it is.

        Args:
            lock: what it consists of.
            maximum: see `GenerationPaths.point_latest`.

        Raises:
            GenerationTakenError: its number has other content.
            GenerationInUseError: it is there, damaged, and read.
            NotOneFileSystemError: a file cannot be linked.
            GenerationError: a process keeps readers out of it.
            PgetError: a file cannot be fetched, or an environment cannot be built.
        """
        with self.paths.errors():
            self.paths.make()
            self.remover.sweep()
            self._check_free(lock)
            for _ in range(_TRIES):
                with self._standing(lock) as standing:
                    if standing:
                        self._name(lock, maximum)
                        return self.paths.record(lock.digest)
        raise GenerationIncompleteError(
            str(self.paths.root), lock.number, "is removed by another process again and again"
        )

    def _check_free(self, lock: GenerationLock) -> None:
        bound = self.paths.digest_of(lock.number)
        if bound not in ("", lock.digest):
            raise GenerationTakenError(str(self.paths.root), lock.number, bound)

    @contextmanager
    def _standing(self, lock: GenerationLock) -> Iterator[bool]:
        """Have the tree of `lock` at its place, and keep it from being pruned within the block.

        False if another process took it away at that moment.
        """
        held = lock_shared(self.paths, lock.digest, lock.number)
        if held is not None:
            with closing_fd(held):
                faults = faults_of(self.paths, lock.digest)
                if not faults:
                    yield True
                    return
            self._distrust(lock, faults)
        with self._staged(lock) as stage:
            yield self._publish(stage, lock)

    def _distrust(self, lock: GenerationLock, faults: Sequence[Fault]) -> None:
        """Prepare for building a damaged generation again.

        Raises:
            GenerationInUseError: the generation is read.
        """
        tree = self.paths.tree(lock.digest)
        with alone_with(tree) as alone:
            if not alone and tree.is_dir():
                raise GenerationInUseError(str(self.paths.root), lock.number, readers_of(tree))
        _LOG.warning("generation %d is damaged (%s): building it again", lock.number, faults[0])
        distrust(self.cache, lock, faults)

    def _publish(self, stage: Path, lock: GenerationLock) -> bool:
        """Give a finished tree its name; False if another process was faster.

        Raises:
            GenerationInUseError: a damaged one has the name, and is read.
        """
        tree = self.paths.tree(lock.digest)
        damaged = tree.is_dir() and faults_of(self.paths, lock.digest)
        if damaged and not self.remover.remove(lock.digest) and tree.is_dir():
            raise GenerationInUseError(str(self.paths.root), lock.number, readers_of(tree))
        try:
            os.rename(stage, tree)
        except OSError:
            if not tree.is_dir():
                raise
            return False
        if self.fsync:
            sync_folder(tree.parent)
        return True

    def _name(self, lock: GenerationLock, maximum: int | None) -> None:
        """Give a tree that has its place its number.

        Raises:
            GenerationTakenError: another lock has got the number meanwhile.
        """
        bound = self.paths.bind(lock.number, lock.digest)
        if bound != lock.digest:
            # The next prune removes the tree, which has no number.
            raise GenerationTakenError(str(self.paths.root), lock.number, bound)
        self.paths.point_latest(maximum)
        if self.fsync:
            sync_folder(self.paths.number(lock.number).parent)
            sync_folder(self.paths.root)

    # ----------------------------------------------------------------------------------- the stage

    @contextmanager
    def _staged(self, lock: GenerationLock) -> Iterator[Path]:
        """Build the tree of `lock` in a folder that others leave alone within the block."""
        stage, fd = self._open_stage()
        with closing_fd(fd):
            try:
                self._fill(stage, lock)
                yield stage
            finally:
                # Not if it has been published: then it has another name.
                if stage.is_dir():
                    self.remover.discard(stage.name)

    def _open_stage(self) -> tuple[Path, int]:
        while True:
            stage = self.paths.stage(token())
            stage.mkdir()
            try:
                open_to_all(stage)
                fd = make_lock(stage, self.paths.owner(stage.name))
            except OSError:  # such as a full disk
                remove_tree(stage)
                raise
            if fd is not None:
                return stage, fd

    def _fill(self, stage: Path, lock: GenerationLock) -> None:
        linker = TreeLinker(stage, self.paths.root, copies=self.copies)
        (stage / FILES).mkdir()
        open_to_all(stage / FILES)
        owner = self.paths.owner(stage.name)
        for line, found in zip(lock.files, self._files(owner, lock.files), strict=True):
            path = f"{FILES}/{line.dest}"
            if found.size is None:
                linker.add_folder(Path(found.path), path)
            else:
                linker.add(found.path, path, found.size, line.digest.removeprefix("sha256:"))
        environments = self._environments(stage, lock.environments) if lock.environments else ()
        record = GenerationRecord(
            lock.number,
            lock.digest,
            lock.text,
            tuple(linker.files),
            tuple(linker.links),
            time.time(),
            environments,
        )
        written = stage / RECORD
        written.write_bytes(record.to_json())
        written.chmod(0o444)
        if self.fsync:
            flush_file_system(stage)

    def _environments(
        self, stage: Path, locked: Sequence[LockedEnvironment]
    ) -> tuple[RecordedEnvironment, ...]:
        """Build Python environments in `stage`."""
        # Imported here: few generations have environments.
        from pgetpy.generations.environments import EnvironmentBuilder

        builder = EnvironmentBuilder(
            self.paths.uv_cache,
            self.paths.environments(),
            copy=self.copies,
            clean=self.clean_uv_cache,
        )
        built = []
        for each in locked:
            folder = stage / ENVIRONMENTS / each.name
            folder.mkdir(parents=True)
            built.append(builder.build(each, folder))
        for above, _, _ in os.walk(stage / ENVIRONMENTS):
            open_to_all(above)
        return tuple(built)

    # ----------------------------------------------------------------------------------- the files

    def _files(self, owner: str, lines: Sequence[FileLine]) -> list[CachedFile]:
        """Return where the content of each line is, pinned for `owner`."""
        kept = self.cache.keep(owner, [(each.url, _wanted(each)) for each in lines])
        found = [_usable(line, each.entry) for line, each in zip(lines, kept, strict=True)]
        missing = [at for at, each in enumerate(found) if each is None]
        if missing:
            fetched = self._fetch([lines[at] for at in missing], [kept[at] for at in missing])
            for at, file in zip(missing, fetched, strict=True):
                found[at] = file
        return [each for each in found if each is not None]

    def _fetch(self, lines: Sequence[FileLine], kept: Sequence[KeptEntry]) -> list[CachedFile]:
        works = [partial(self._ensure, each, number) for number, each in enumerate(lines)]
        paths = run_blocking(gather_limited(works, _AT_A_TIME))
        # A new name changes a file's ctime, after which the cache would not compute a digest.
        self.cache.settle()
        for each in kept:
            self.cache.settle_one(each.key)
        return [
            CachedFile(str(path), None if line.extract else path.stat().st_size)
            for line, path in zip(lines, paths, strict=True)
        ]

    async def _ensure(self, line: FileLine, number: int) -> Path:
        try:
            return await self.cache.ensure_async(
                line.url,
                digest=line.digest,
                any_file=True,  # its digest says what it is
                wanted=_wanted(line),
                number=number,
            )
        except ArchiveError as error:
            error.hint = f"the archive is {redact(line.url)}"
            raise


def distrust(cache: WeightsDownloadCache, lock: GenerationLock, faults: Sequence[Fault]) -> None:
    """Have the cache hash the entries of damaged files, which may be the same files.

    It does not give out what it finds damaged, and fetches it again.
    """
    for line in lock.files:
        whole, below = f"{FILES}/{line.dest}", f"{FILES}/{line.dest}/"
        if any(each.path == whole or each.path.startswith(below) for each in faults):
            cache.verify(line.url, repair=False, wanted=_wanted(line))


def _wanted(line: FileLine) -> str:
    return "folder" if line.extract else "file"


def _usable(line: FileLine, entry: Entry | None) -> CachedFile | None:
    """Return the entry's content, if it is known to be what the line says."""
    if entry is None:
        return None
    if line.extract:
        known = entry.record.about.details.get("archive")
        is_settled = bool(entry.record.digest)
        return CachedFile(entry.file, None) if is_settled and known == line.digest else None
    return CachedFile(entry.file, entry.size) if entry.record.digest == line.digest else None


def flush_file_system(folder: Path) -> None:
    """Flush everything on the file system of `folder`: one call for thousands of links.

    A flush of each file would commit the journal of the file system as often.
    """
    syncfs = system_call("syncfs", 32)
    if syncfs is None:
        os.sync()
        return
    with closing_fd(os.open(folder, os.O_RDONLY | os.O_CLOEXEC)) as fd:
        syncfs(fd)
