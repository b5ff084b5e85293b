"""Whole repositories in huggingface_hub's cache, where `from_pretrained` finds them.

Layout and locks follow its documentation ("Understand caching") and its `file_download`. The order
of steps ensures that huggingface_hub never sees more than is there:

    blobs/DIGEST        by rename, once the digest is right (sha256, or git's own sha1)
    snapshots/COMMIT/   links to blobs; a new folder appears all at once
    refs/REVISION       last

If the Hub does not answer, a snapshot is used only if it is known to be complete. huggingface_hub
does not know that of its own folders: a snapshot that it was killed over looks like a finished one.
So a note beside each says which files were wanted and how large they are (`note_whole`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pgetpy.core.destinations.names import OWN_PREFIX, PART
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
from pgetpy.weights.repository import CombinedProgress, fetch_listed, paths_below
from pgetpy.weights.size_limit import SizeBudget

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Of these names each run has its own, and needs none for so long.
_OWN = (f"{OWN_PREFIX}*", f"blobs/.*.????????{PART}")
_DEAD_AFTER = 3600.0
# The time that huggingface_hub allows the Hub when it has something cached to fall back on.
_ASKING_SECONDS = 10.0


async def snapshot(reference: Reference, root: Path, settings: Settings, report: Report) -> Path:
    """Fetch the repository of `reference` into the Hub's cache at `root`; return its snapshot.

    Raises:
        PgetError: it could not be fetched. What has arrived is kept.
    """
    named = parse_hub_name(reference.text, settings.sources.of(HubSettings).endpoint)
    if reference.source != "huggingface" or named is None or not named.is_folder:
        hint = "write the repository as hf://OWNER/NAME, and select files with --include"
        raise BadReferenceError(str(reference), f"it is not a repository of Hugging Face; {hint}")
    policy = settings.policy
    if policy is not None:
        policy.check_reference(reference)
        if policy.only_safetensors:
            raise policy.not_safetensors(str(reference), "a repository may hold anything")
    held = _held(root, named, reference)
    begun = time.monotonic()
    try:
        async with Engine(replace(settings, force=True)) as engine:
            asking = _ask_once(reference, settings) if held else engine.locate(reference)
            try:
                located = await asking
            except TransferError as error:
                if held is None or not _may_do(error, settings):
                    raise
                why = f"using what was downloaded before: {error.sentence()}"
                report(Remarked(0, str(reference), why))
                seconds = time.monotonic() - begun
                found = _result(reference, held.snapshot, held.size, held.size, seconds)
                report(Finished(0, found))
                return held.snapshot
            shelf = _shelf(root, named, located.version, reference)
            with engine.explaining(reference), disk_errors(shelf.folder):
                download = _SnapshotDownload(reference, shelf, engine, settings, report)
                progress = await download.bring(_whole_names(named, located), named.path)
    except PgetError as error:
        report(Failed(0, str(reference), "", error))
        raise
    size, seconds = progress.total or 0, time.monotonic() - begun
    result = _result(reference, shelf.snapshot, size, progress.held, seconds)
    report(Finished(0, replace(result, bytes_by_source=progress.by_source)))
    return shelf.snapshot


class _HeldSnapshot(NamedTuple):
    """A snapshot that is known to be complete, and the bytes of the chosen files."""

    snapshot: Path
    size: int


def _held(root: Path, named: HubName, reference: Reference) -> _HeldSnapshot | None:
    """Return the snapshot that `named` last resolved to, if it is complete."""
    folder = _repository_folder(root, named)
    fixed = _COMMIT.fullmatch(named.revision) is not None
    commit = named.revision if fixed else commit_at(folder, named.revision)
    if not _COMMIT.fullmatch(commit):
        return None
    size = whole_size(folder, commit, named.path, reference.patterns)
    return _HeldSnapshot(folder / "snapshots" / commit, size) if size is not None else None


async def _ask_once(reference: Reference, settings: Settings) -> Located:
    """List the repository with a single short attempt: a cached snapshot is good enough."""
    try:
        async with Engine(replace(settings, retries=0)) as engine:
            return await wait_for(_ASKING_SECONDS, engine.locate(reference))
    except asyncio.TimeoutError:
        reason = f"no answer within {_ASKING_SECONDS:.0f} s"
        raise ConnectionFailedError(reference.service, reason) from None


def _may_do(error: TransferError, settings: Settings) -> bool:
    """Whether a cached snapshot may be used after this error: as in huggingface_hub, if the Hub is
    down, refuses access, or no longer has the repository."""
    if settings.sources.of(HubSettings).offline:
        return True
    code = getattr(error.__cause__, "code", "")
    return not isinstance(error, NotAllowedError) and code != "RevisionNotFound"


@dataclass(frozen=True)
class _SnapshotFolder:
    """The place of one commit of a repository in the cache.

    Attributes:
        folder: the repository's folder, such as `models--OWNER--NAME`.
        revision: the branch, tag or commit that was asked for.
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
    """Return the objects of `located` under their full names in the repository."""
    folder = f"{named.path}/" if named.path else ""
    objects = [replace(each, name=folder + each.name) for each in located.objects]
    for remote in objects:
        if remote.size is None or not _ETAG.fullmatch(remote.etag):
            raise TransferError(remote.url, "the Hub's listing does not say what the file is")
    return objects


def _checksum(remote: RemoteFile) -> Checksum:
    # Small files are not in Git LFS: their name is git's sha1 of a header and the content.
    return remote.digest or Checksum.git_blob(remote.etag, remote.size or 0)


@dataclass
class _SnapshotDownload:
    """Fetches the files of one commit into their folder."""

    reference: Reference
    shelf: _SnapshotFolder
    engine: Engine
    settings: Settings
    report: Report

    def __post_init__(self) -> None:
        self.budget = SizeBudget(self.reference, self.settings.largest)
        self.workers = WORKERS

    async def bring(self, objects: Sequence[RemoteFile], path: str) -> CombinedProgress:
        """Fetch what is missing below `path` and publish it; return what has been fetched."""
        self.budget.note_all(objects)
        shelf, settings = self.shelf, self.settings
        planning = self.workers.submit(lambda: _plan(shelf, objects, settings))
        links, missing = await wait_uncancelled(planning, lambda: None)
        progress = CombinedProgress(self.report, objects, missing)

        async def bring(key: int) -> None:
            await self._bring(key, missing[key], progress)

        await self.engine.run_all([partial(bring, key) for key in missing])
        sizes = {remote.name: remote.size or 0 for remote in objects}
        patterns = self.reference.patterns

        def publish() -> None:
            _publish(shelf, links)
            with TemporaryDirectory(prefix=OWN_PREFIX, dir=shelf.folder) as work:
                made = Path(work, "note")
                note_whole(shelf.folder, shelf.commit, path, patterns, sizes, made)

        publishing = self.workers.submit(publish)
        await wait_uncancelled(publishing, lambda: None)
        return progress

    async def _bring(self, key: int, remote: RemoteFile, progress: CombinedProgress) -> None:
        """Fetch one blob, unless another process does so in the meantime."""
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
        """Return the descriptor of huggingface_hub's lock of a blob; None if locks do not work.

        The lock only saves work, since blobs appear by rename.
        """
        path = self.shelf.lock(remote.etag)
        told = False
        while True:
            try:
                fd = _open_lock(path)
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
                self.report(Waiting(0, remote.name, "another process is downloading it"))
            await asyncio.sleep(polling.LOCK)


def _open_lock(path: Path) -> int:
    """Open the lock file at `path`; both it and its folder are made if they are not there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags, 0o664)
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, flags, 0o664)


def _plan(
    shelf: _SnapshotFolder, objects: Sequence[RemoteFile], settings: Settings
) -> tuple[dict[Path, str], dict[int, RemoteFile]]:
    """Return the links to make, and the objects to fetch.

    Raises:
        UnsafeMemberError: a file's name is not allowed.
        LimitExceededError: there are too many files, or a name is too long.
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
    """Remove what killed runs left and no other run can use."""
    for path in [path for pattern in _OWN for path in shelf.folder.glob(pattern)]:
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _DEAD_AFTER:
                remove_tree(path)


def _holds(path: Path, remote: RemoteFile) -> bool:
    """Whether `path` is a file of the right size; its name is its digest."""
    try:
        return path.is_file() and path.stat().st_size == remote.size
    except OSError:
        return False


# -------------------------------------------------------------------------------------- publishing


def _publish(shelf: _SnapshotFolder, links: dict[Path, str]) -> None:
    """Create or complete the snapshot, and update the ref."""
    # What is made here and renamed is in no folder that huggingface_hub looks into.
    with disk_errors(shelf.folder), TemporaryDirectory(prefix=OWN_PREFIX, dir=shelf.folder) as work:
        # Where there is nothing yet all of it appears at once; else what is missing is added.
        if not _publish_at_once(shelf, links, Path(work, "snapshot")):
            made = Path(work, "link")
            for path, etag in links.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(_leading_to(shelf.blob(etag), path), made)
                os.replace(made, path)
        _write_ref(shelf, Path(work, "ref"))


def _publish_at_once(shelf: _SnapshotFolder, links: dict[Path, str], made: Path) -> bool:
    """Create the snapshot's folder as `made`, then rename it; False if there is one already."""
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
    """Return the relative target of a link to `blob`, which survives moving the cache."""
    return os.path.relpath(blob, link.parent)


def _write_ref(shelf: _SnapshotFolder, made: Path) -> None:
    """Record the commit that the revision points to, unless the revision is that commit."""
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
