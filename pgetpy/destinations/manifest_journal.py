"""The journal of a manifest on disk, by which a run continues one that did not get to its end.

A manifest may have thousands of lines without checksums. Run again after a kill, it must neither
fetch finished files again nor fail because they exist. But a file that merely exists proves
nothing: the user may have put it there. So each file that a run finishes is noted, and believed
later only if it is as it was left (size, time, inode).

A file is noted twice, because a kill may come between its rename and a note:

    bytes complete -- note 1: inode, no name -- verify, rename -- note 2: path -- flush -- note 3
                             |<---- a later run looks for the inode ---->|<-- it looks at the path

Where nothing was at the destination, note 1 says all about the file, and note 2 is written with the
next note. Note 3 says that the file is on stable storage. After a reboot files without it are
removed and fetched again, since they may have a name and no content.

The journal's name is a digest of the manifest's lines, so that another manifest never finds it. It
lies beside the first destination, on the volume that outlives a container, or in the user's state
folder if that cannot be written, and is removed when all files are finished. It is read only if no
other user could have written it. Two runs may append at once; each line has a checksum, and what
cannot be read is skipped. Losing the journal costs an error or a second download, never a wrong
file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pgetpy.core.destinations.manifest_journal import (
    FinishedFile,
    boot_line,
    file_line,
    manifest_digest,
    manifest_journal_name,
    parse_manifest_journal,
    unnamed_line,
)
from pgetpy.core.destinations.names import PART, journal_path, part_name
from pgetpy.core.http.ranges import Spans
from pgetpy.core.references.jobs import Follower, Job
from pgetpy.core.report.results import DownloadResult
from pgetpy.destinations.folder_fingerprint import fingerprint_of, names_below
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.settings import Settings
from pgetpy.settings.folders import state_folder
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import RealPaths, closing_fd, is_folder, mode_at, remove_tree
from pgetpy.system.threads import WORKERS

# How often finished files are flushed, so that they count after a power cut, too.
_FLUSH_EVERY = 15.0
_KEPT_FOR = 90 * 24 * 3600.0
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class ManifestJournal:
    """What is known of the lines of one manifest. Threads may note files in it.

    Args:
        jobs: the lines of the manifest.
        environ: says where the user's state folder is.
        settings: whether to resume, and whether every file is flushed anyway.
    """

    def __init__(self, jobs: Sequence[Job], environ: Mapping[str, str], settings: Settings) -> None:
        self._jobs = jobs
        self._flushed = settings.fsync
        self._fd = -1
        self._broken = False
        self._lock = threading.Lock()
        self._unflushed: list[FinishedFile] = []
        # Files that note 1 says all about, by line, with note 2, which is written with the next.
        self._told: dict[int, tuple[FinishedFile, bytes]] = {}
        self._waiting = b""
        self._flushed_at = time.monotonic()
        self._places = _places(jobs, environ)
        self._path: Path | None = None
        self._real = RealPaths()
        found = (_read_own(path) for path in self._places)
        self._data = b"\n".join(data for data in found if data is not None)
        self._known = parse_manifest_journal(self._data) if settings.resume else {}

    def finished(self, number: int) -> FinishedFile | None:
        """Return what an earlier run finished of line `number`, if it is as it was left."""
        for noted in reversed(self._known.get(number, [])):
            found = self._standing(noted)
            if found is not None:
                return found
        return None

    def tidy(self, file: FinishedFile) -> None:
        """Remove the file's own journal, which a kill right after the rename has left."""
        path = Path(file.path)
        with contextlib.suppress(OSError):
            if journal_path(path).exists() and not path.with_name(part_name(path.name)).exists():
                ledger = Ledger(path)
                (ledger.remove if ledger.acquire() else ledger.close)()

    def forget(self, file: FinishedFile) -> bool:
        """Remove what a power cut may have damaged; False if a folder holds files of others.

        Of a folder all members were noted. If there are others now, the user has worked in it, and
        nothing of it is removed.
        """
        path = Path(file.path)
        if file.fingerprint and sorted(file.members) != sorted(names_below(path)):
            return False
        remove_tree(path)
        return True

    def is_certain(self, file: FinishedFile) -> bool:
        """Whether no power cut can have damaged it."""
        return file.is_certain(boot_id())

    def followed(self, job: Job, number: int) -> Job:
        """Return `job` with a follower that notes it when its bytes are complete (note 1)."""
        if job.follow is not None or job.extract or job.dest is None:
            return job
        return Job(**{**vars(job), "follow": _WholeFile(self, number)})  # faster than `replace`

    def note_new(self, number: int, status: os.stat_result, path: str) -> None:
        """As `note_whole`, of a file that is going to be `path`, where nothing is."""
        size, mtime, inode = status.st_size, status.st_mtime_ns, status.st_ino
        file = FinishedFile(number, path, size, mtime, inode, flushed=self._flushed)
        line = file_line(file)
        self._told[number] = file, line
        with self._lock:
            self._write(unnamed_line(line))

    def note_whole(self, number: int, status: os.stat_result) -> None:
        """Note that the bytes of line `number` are complete; the name follows (note 1)."""
        dest = self._jobs[number].dest or ""
        mode = mode_at(dest)
        is_link = stat.S_ISLNK(mode)
        is_folder = dest.endswith("/") or (os.path.isdir(dest) if is_link else stat.S_ISDIR(mode))
        path = "" if is_folder else self._real.of(dest, is_link=is_link)
        if not mode and path:
            self.note_new(number, status, path)
            return
        size, mtime, inode = status.st_size, status.st_mtime_ns, status.st_ino
        self._append(FinishedFile(number, path, size, mtime, inode, named=False))

    def note_finished(self, number: int, result: DownloadResult) -> None:
        """Note that line `number` has been carried out, name included (note 2)."""
        if self._broken:
            return
        file, line = self._told.pop(number, (None, b""))
        if file is not None and file.size == result.size:
            # A rename to a name that was free has changed nothing that is noted. A kill before
            # the next note costs nothing.
            with self._lock:
                self._waiting += line
            if not file.flushed:
                self._flush_later(file)
            return
        with contextlib.suppress(OSError):
            status = os.lstat(result.dest)
            is_link = stat.S_ISLNK(status.st_mode)
            path = self._real.of(result.dest, is_link=is_link)
            if self._jobs[number].extract:
                folder = Path(path)
                names = result.members or tuple(names_below(folder))
                fingerprint, size = fingerprint_of(folder, names)
                file = FinishedFile(number, path, size, 0, members=names, fingerprint=fingerprint)
            else:
                if is_link:
                    status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    return
                file = FinishedFile(number, path, status.st_size, status.st_mtime_ns, status.st_ino)
            self._append(file)

    def _flush_later(self, file: FinishedFile) -> None:
        """Have `file` flushed together with others, in the background (note 3)."""
        with self._lock:
            self._unflushed.append(file)
            if time.monotonic() - self._flushed_at < _FLUSH_EVERY:
                return
            files, self._unflushed = self._unflushed, []
            self._flushed_at = time.monotonic()
        WORKERS.start(lambda: self._flush(files), long=True)

    def _flush(self, files: Sequence[FinishedFile]) -> None:
        for file in files:
            members = [os.path.join(file.path, name) for name in file.members]
            folders = {os.path.dirname(name) for name in members}
            names = [*members, *folders, file.path, os.path.dirname(file.path)]
            try:
                for name in names:
                    if not os.path.islink(name):
                        with closing_fd(os.open(name, _READ)) as fd:
                            os.fsync(fd)
            except OSError:
                continue  # it is fetched again after a power cut
            self._append(file._replace(flushed=True))

    def close(self, *, finished: bool, interrupted: bool) -> None:
        """Close it, and remove it or leave it where the next run finds it.

        Args:
            finished: all lines are done: remove it.
            interrupted: the run was stopped and is likely to be started again: leave it beside the
                files. After failures that may be never, so it moves to the user's state folder,
                out of the way.
        """
        with self._lock:
            if self._fd >= 0:
                self._write(b"")
                os.close(self._fd)
            # A thread that is still flushing notes nothing any more.
            self._fd, self._broken = -1, True
        kept = None
        if self._path is not None and not finished:
            kept = self._path if interrupted else self._put_away(self._path)
        if finished or kept is not None:
            for path in self._places:
                if path != kept:
                    with contextlib.suppress(OSError):
                        os.unlink(path)

    def _put_away(self, path: Path) -> Path:
        """Move the journal at `path` to the user's folder for state; return where it is."""
        *_, away = self._places
        own = away.with_name(f"{away.name}.{secrets.token_hex(4)}")
        try:
            os.makedirs(away.parent, mode=0o700, exist_ok=True)
            fd = os.open(own, _APPEND | os.O_EXCL, 0o600)
            with closing_fd(fd):
                if not _is_own(fd):
                    raise PermissionError
                os.write(fd, _read_own(path) or b"")
            os.replace(own, away)
            _sweep(away.parent)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(own)
            return path
        return away

    def _append(self, file: FinishedFile) -> None:
        """Note `file`."""
        if self._flushed and file.named and not file.flushed:
            file = file._replace(flushed=True)
        line = file_line(file)
        with self._lock:
            self._write(line)
        if file.named and not file.flushed:
            self._flush_later(file)

    def _write(self, line: bytes) -> None:
        """Write what waits and `line`. The lock is held."""
        line, self._waiting = self._waiting + line, b""
        if self._fd < 0 and not self._broken:
            self._broken = not self._open()
        if self._broken or not line:
            return
        try:
            self._broken = os.write(self._fd, line) != len(line)
        except OSError:
            self._broken = True

    def _open(self) -> bool:
        for path in self._places:
            try:
                os.makedirs(path.parent, exist_ok=True)
                fd = os.open(path, _APPEND, 0o600)
            except OSError:
                continue
            if _is_own(fd):
                self._path, self._fd = path, fd
                there = os.fstat(fd).st_size > 0
                # A line feed ends a line that was cut off. A new journal repeats what is known
                # from the other place, which is removed at the end.
                os.write(fd, (b"\n" if there else self._data + b"\n") + boot_line(boot_id()))
                return True
            # On a mount that assigns owners the next run would not believe it.
            os.close(fd)
        return False

    def _standing(self, noted: FinishedFile) -> FinishedFile | None:
        """Return `noted`, with its path, if the file there is as it was left."""
        try:
            if noted.fingerprint:
                same = fingerprint_of(Path(noted.path), noted.members)[0] == noted.fingerprint
                return noted if same else None
            path = noted.path or self._path_of(noted)
            status = os.lstat(path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        if (status.st_size, status.st_mtime_ns) != (noted.size, noted.mtime):
            return None
        # With note 1 alone, the name may have been another file's. The inode decides.
        if not noted.named and status.st_ino != noted.inode:
            return None
        return noted._replace(path=path)

    def _path_of(self, noted: FinishedFile) -> str:
        """Look for the inode of a file whose name was not known yet, in the folder it went to."""
        folder = self._jobs[noted.job].dest or ""
        with os.scandir(folder) as entries:
            for entry in entries:
                ours = entry.name.endswith(PART)
                if entry.inode() == noted.inode and not ours:
                    return os.path.realpath(entry.path)
        raise FileNotFoundError


class _WholeFile(Follower):
    """Follows one file's bytes, and notes when they are complete."""

    def __init__(self, journal: ManifestJournal, number: int) -> None:
        self._journal = journal
        self._number = number
        self._fd = -1
        self._size = 0

    def began(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size

    def landed(self, spans: Spans) -> None:
        if self._fd >= 0 and spans.size >= self._size:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                self._journal.note_whole(self._number, os.fstat(fd))

    def whole(self, fd: int, size: int, real: str) -> None:
        with contextlib.suppress(OSError):
            self._journal.note_new(self._number, os.fstat(fd), real)

    def lost(self) -> None:
        self._fd = -1

    def verified(self, path: Path) -> None:
        pass  # where a manifest's file is published, it keeps its inode


def _places(jobs: Sequence[Job], environ: Mapping[str, str]) -> list[Path]:
    """Return where the journal of `jobs` may be, the best place first."""
    first = next((job for job in jobs if job.dest is not None), None)
    if first is None or first.dest is None:
        return []
    try:
        # `abspath` fails if the current folder was removed; nothing can be written then.
        lines = [
            (
                (job.reference.key if job.reference is not None else job.url) + job.version,
                os.path.abspath(job.dest) + ("/" if job.dest.endswith("/") else ""),
                str(job.checksum or ""),
                "-x" if job.extract else "",
            )
            for job in jobs
            if job.dest is not None
        ]
        beside = Path(os.path.abspath(first.dest))
    except OSError:
        return []
    name = manifest_journal_name(manifest_digest(lines))
    folder = beside if is_folder(first.dest) and not first.extract else beside.parent
    state = state_folder(environ)
    return [place / name for place in (folder, state) if place is not None]


def _sweep(folder: Path) -> None:
    """Remove the journals of manifests that were not run again for 90 days."""
    for path in folder.glob(".*.pgetpy-manifest"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_FOR:
                path.unlink()


def _read_own(path: Path) -> bytes | None:
    """Return the content of a journal that only this user can have written, else None."""
    try:
        with closing_fd(os.open(path, _READ)) as fd:
            return os.read(fd, os.fstat(fd).st_size) if _is_own(fd) else None
    except OSError:
        return None


def _is_own(fd: int) -> bool:
    status = os.fstat(fd)
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return stat.S_ISREG(status.st_mode) and private
