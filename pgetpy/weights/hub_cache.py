"""Whole repositories in the cache of huggingface_hub, where `from_pretrained` finds them.

The layout and the locks are those of its documentation ("Understand caching") and of its
`file_download`. Blobs appear by rename once their digest is right, git's own where there is no
sha256; then the snapshot, all of it at once where there was none of that commit; the ref last. So
there is nothing at any time that huggingface_hub would take for more than it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.hub_names import HubName, parse_hub_name
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Failed, Finished, Progressed, Remarked, Report, Waiting
from pgetpy.core.report.results import DownloadResult
from pgetpy.engine.engine import Engine
from pgetpy.errors import (
    BadReferenceError,
    ConnectionFailedError,
    NotAllowedError,
    PgetError,
    TransferError,
)
from pgetpy.settings import Settings
from pgetpy.sources.base import Located, RemoteFile
from pgetpy.sources.huggingface import HubSettings
from pgetpy.system import polling
from pgetpy.system.event_loop import wait_for, wait_uncancelled
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import disk_errors, fold_of, remove_tree
from pgetpy.system.threads import WORKERS
from pgetpy.weights.hub_at_hand import commit_at, note_whole, whole_size
from pgetpy.weights.repository import CombinedProgress, bring_all, fetch_listed, paths_below
from pgetpy.weights.size_limit import SizeBudget

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Of these names each run has its own, and needs none for so long.
_OWN = (".pgetpy-*", "blobs/.*.????????.pgetpy-part")
_DEAD_AFTER = 3600.0
# As long as huggingface_hub gives the Hub where it has something to fall back on.
_ASKING_SECONDS = 10.0


async def snapshot(reference: Reference, root: Path, settings: Settings, report: Report) -> Path:
    """Bring the repository of `reference` into the Hub's cache at `root`; return its snapshot.

    Raises:
        PgetError: it cannot be had. What has come is kept.
    """
    named = parse_hub_name(reference.text, settings.sources.of(HubSettings).endpoint)
    if reference.source != "huggingface" or named is None or not named.is_folder:
        hint = "a repository is hf://OWNER/NAME, and --include chooses of its files"
        raise BadReferenceError(str(reference), f"it is no repository of Hugging Face; {hint}")
    policy = settings.policy
    if policy is not None:
        policy.check_reference(reference)
        if policy.only_safetensors:
            raise policy.not_safetensors(str(reference), "a repository may hold anything")
    held = _held(root, named, reference)
    engine = Engine(replace(settings, force=True))
    begun = time.monotonic()
    try:
        try:
            located = await (_ask_once(reference, settings) if held else engine.locate(reference))
        except TransferError as error:
            if held is None or not _may_do(error, settings):
                raise
            report(Remarked(0, str(reference), _why_held(error)))
            seconds = time.monotonic() - begun
            report(Finished(0, _result(reference, held.snapshot, held.size, held.size, seconds)))
            return held.snapshot
        shelf = _shelf(root, named, located.version, reference)
        with engine.explaining(reference), disk_errors(shelf.folder):
            download = _SnapshotDownload(reference, shelf, engine, settings, report)
            size, there = await download.bring(_whole_names(named, located), named.path)
    except PgetError as error:
        report(Failed(0, str(reference), "", error))
        raise
    finally:
        await engine.close()
    report(Finished(0, _result(reference, shelf.snapshot, size, there, time.monotonic() - begun)))
    return shelf.snapshot


class _HeldSnapshot(NamedTuple):
    """A snapshot that is known to be whole, and the bytes of the files that are meant."""

    snapshot: Path
    size: int


def _held(root: Path, named: HubName, reference: Reference) -> _HeldSnapshot | None:
    """Return what is there of the revision that `named` was last found to mean, if it is whole."""
    folder = _repository_folder(root, named)
    fixed = _COMMIT.fullmatch(named.revision) is not None
    commit = named.revision if fixed else commit_at(folder, named.revision)
    if not _COMMIT.fullmatch(commit):
        return None
    size = whole_size(folder, commit, named.path, reference.patterns)
    return _HeldSnapshot(folder / "snapshots" / commit, size) if size is not None else None


async def _ask_once(reference: Reference, settings: Settings) -> Located:
    """Ask what is in a repository, by one short try: what is there will do as well."""
    engine = Engine(replace(settings, retries=0))
    try:
        return await wait_for(_ASKING_SECONDS, engine.locate(reference))
    except asyncio.TimeoutError:
        reason = f"no answer within {_ASKING_SECONDS:.0f} s"
        raise ConnectionFailedError(reference.service, reason) from None
    finally:
        await engine.close()


def _may_do(error: TransferError, settings: Settings) -> bool:
    """Whether what is there may be given where the Hub has answered so: it is down, does not let us
    in, or knows the repository no more. That is what huggingface_hub does."""
    if settings.sources.of(HubSettings).offline:
        return True
    code = getattr(error.__cause__, "code", "")
    return not isinstance(error, NotAllowedError) and code != "RevisionNotFound"


def _why_held(error: TransferError) -> str:
    return f"taken from what was fetched before: {error.sentence()}"


@dataclass(frozen=True)
class _SnapshotFolder:
    """Where one commit of a repository is in the cache.

    Attributes:
        folder: the repository's, as `models--OWNER--NAME`.
        revision: what the commit was found by.
    """

    folder: Path
    revision: str
    commit: str

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshots" / self.commit

    @property
    def ref(self) -> Path:
        return self.folder / "refs" / self.revision

    def blob(self, etag: str) -> Path:
        return self.folder / "blobs" / etag

    def lock(self, etag: str) -> Path:
        return self.folder.parent / ".locks" / self.folder.name / f"{etag}.lock"


def _shelf(root: Path, named: HubName, commit: str, reference: Reference) -> _SnapshotFolder:
    if not _COMMIT.fullmatch(commit):
        raise TransferError(str(reference), "the Hub's listing names no commit")
    return _SnapshotFolder(_repository_folder(root, named), named.revision, commit)


def _repository_folder(root: Path, named: HubName) -> Path:
    return root / f"{named.type}s--{named.repo.replace('/', '--')}"


def _whole_names(named: HubName, located: Located) -> list[RemoteFile]:
    """Return the objects of `located`, called as they are in their repository."""
    folder = f"{named.path}/" if named.path else ""
    objects = [replace(each, name=folder + each.name) for each in located.objects]
    for remote in objects:
        if remote.size is None or not _ETAG.fullmatch(remote.etag):
            raise TransferError(remote.url, "the Hub's listing does not say what the file is")
    return objects


def _checksum(remote: RemoteFile) -> Checksum:
    return remote.digest or Checksum.git_blob(remote.etag, remote.size or 0)


@dataclass
class _SnapshotDownload:
    """Brings the files of one commit to their shelf."""

    reference: Reference
    shelf: _SnapshotFolder
    engine: Engine
    settings: Settings
    report: Report

    def __post_init__(self) -> None:
        self.budget = SizeBudget(self.reference, self.settings.largest)
        self.workers = WORKERS

    async def bring(self, objects: Sequence[RemoteFile], path: str) -> tuple[int, int]:
        """Bring what is missing below `path`, and publish; return the bytes of all, and of what was
        there."""
        self.budget.note_all(objects)
        shelf, settings = self.shelf, self.settings
        planning = self.workers.submit(lambda: _plan(shelf, objects, settings))
        links, missing = await wait_uncancelled(planning, lambda: None)
        progress = CombinedProgress(self.report, objects, missing)

        async def bring(key: int) -> None:
            await self._bring(key, missing[key], progress)

        await bring_all(self.engine, missing, bring, settings.max_concurrent_files)
        sizes = {remote.name: remote.size or 0 for remote in objects}
        patterns = self.reference.patterns

        def publish() -> None:
            _publish(shelf, links)
            with TemporaryDirectory(prefix=".pgetpy-", dir=shelf.folder) as work:
                made = Path(work, "note")
                note_whole(shelf.folder, shelf.commit, path, patterns, sizes, made)

        publishing = self.workers.submit(publish)
        await wait_uncancelled(publishing, lambda: None)
        return progress.total or 0, progress.held

    async def _bring(self, key: int, remote: RemoteFile, progress: CombinedProgress) -> None:
        """Bring one blob, unless another process does so meanwhile."""
        blob = self.shelf.blob(remote.etag)
        lock = await self._lock(key, remote)
        try:
            if _holds(blob, remote):
                size = remote.size or 0
                progress.heard(Progressed(key, size, size, 0))
                return
            heard, checksum = progress.heard, _checksum(remote)
            await fetch_listed(self.engine, remote, blob, self.budget, heard, key, checksum)
        finally:
            if lock is not None:
                os.close(lock)

    async def _lock(self, key: int, remote: RemoteFile) -> int | None:
        """Return the descriptor of huggingface_hub's lock of a blob; None where locks fail.

        It saves work alone: blobs appear by rename.
        """
        path = self.shelf.lock(remote.etag)
        told = False
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
            except OSError:
                return None
            try:
                if try_lock(fd):
                    return fd
            except OSError:
                os.close(fd)
                return None
            os.close(fd)
            if not told:
                told = True
                self.report(Waiting(0, remote.name, "another process is fetching it"))
            await asyncio.sleep(polling.LOCK)


def _plan(
    shelf: _SnapshotFolder, objects: Sequence[RemoteFile], settings: Settings
) -> tuple[dict[Path, str], dict[int, RemoteFile]]:
    """Return which links are to lead to which blobs, and those of `objects` that are to be fetched.

    Raises:
        UnsafeMemberError, LimitExceededError: a file cannot be in the folder.
    """
    with disk_errors(shelf.folder):
        blobs = shelf.folder / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        fold: Callable[[str], str] = fold_of(blobs)
        _sweep(shelf)
    paths = paths_below(shelf.snapshot, objects, settings.limits, fold)
    links, missing, seen = {}, {}, set()
    for key, (path, remote) in enumerate(zip(paths, objects, strict=True)):
        if _holds(path, remote):
            continue
        links[path] = remote.etag
        if remote.etag not in seen and not _holds(shelf.blob(remote.etag), remote):
            seen.add(remote.etag)
            missing[key] = remote
    return links, missing


def _sweep(shelf: _SnapshotFolder) -> None:
    """Take away what runs that were killed have left and no other can use."""
    for path in [path for pattern in _OWN for path in shelf.folder.glob(pattern)]:
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _DEAD_AFTER:
                remove_tree(path)


def _holds(path: Path, remote: RemoteFile) -> bool:
    """Whether `path` leads to a file of the right size: its name says what is in it."""
    try:
        return path.is_file() and path.stat().st_size == remote.size
    except OSError:
        return False


# -------------------------------------------------------------------------------------- publishing


def _publish(shelf: _SnapshotFolder, links: dict[Path, str]) -> None:
    """Have the snapshot and the ref say what has come."""
    # What is made here and renamed is in no folder that huggingface_hub looks into.
    with disk_errors(shelf.folder), TemporaryDirectory(prefix=".pgetpy-", dir=shelf.folder) as work:
        # Where there is nothing yet all of it appears at once; else what is missing is added.
        if not _publish_at_once(shelf, links, Path(work, "snapshot")):
            made = Path(work, "link")
            for path, etag in links.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(_leading_to(shelf.blob(etag), path), made)
                os.replace(made, path)
        _write_ref(shelf, Path(work, "ref"))


def _publish_at_once(shelf: _SnapshotFolder, links: dict[Path, str], made: Path) -> bool:
    """Make the snapshot's folder, first as `made`; False where there is one already."""
    if os.path.lexists(shelf.snapshot):
        return False
    for path, etag in links.items():
        link = made / path.relative_to(shelf.snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(_leading_to(shelf.blob(etag), path), link)
    shelf.snapshot.parent.mkdir(exist_ok=True)
    try:
        os.rename(made, shelf.snapshot)
    except OSError:
        if not shelf.snapshot.is_dir():
            raise
        return False
    return True


def _leading_to(blob: Path, link: Path) -> str:
    """Return what a link says to lead to `blob`, also after the cache has been moved."""
    return os.path.relpath(blob, link.parent)


def _write_ref(shelf: _SnapshotFolder, made: Path) -> None:
    """Note which commit the revision stands for, unless it is that commit."""
    if shelf.revision == shelf.commit:
        return
    with contextlib.suppress(OSError):
        if shelf.ref.read_text() == shelf.commit:
            return
    shelf.ref.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(shelf.commit)
    os.replace(made, shelf.ref)


def _result(
    reference: Reference, path: Path, size: int, held: int, seconds: float
) -> DownloadResult:
    shown, rate = str(reference), (size - held) / seconds if seconds > 0 else 0.0
    return DownloadResult(
        shown, shown, str(path), size, None, seconds, rate, resumed=held, validator="strong"
    )
