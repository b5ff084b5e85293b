"""One process fetches an entry, the others wait for it: a lock for each key.

The lock saves work and carries no correctness. Where locks exclude, the kernel lets go of a dead
filler's, and the next one goes on in the folder it has left. Elsewhere a claim is a file that names
its filler; whoever finds it dead takes the claim over, should two do so at once both fetch, each in
a folder of its own, and the entry appears by rename: one of the two, whole.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

from pgetpy.cache.contents import all_in
from pgetpy.cache.holders import LeaseFile, LivenessMonitor
from pgetpy.cache.layout import KEY_LENGTH, CachePaths, discard, move_if_free, names_in, token
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import remove_tree

_LENGTH = 128
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class FillProgress:
    """How far a filler has come.

    Attributes:
        owner: its holder.
        token: tells this filling from others by the same holder.
        done: bytes that have come, of `total`; 0 where that is not known.
        reserved: bytes for which room was made.
    """

    owner: str
    token: str
    done: int = 0
    total: int = 0
    reserved: int = 0


class Claim:
    """The right to fetch one entry, held until `release`.

    Attributes:
        folder: where to fetch it to; what an earlier filler has left may be there.
    """

    def __init__(
        self, layout: CachePaths, key: str, fd: int, progress: FillProgress, folder: Path
    ) -> None:
        self.key = key
        self.folder = folder
        self.progress = progress
        self._path = layout.at("fills", key)
        self._fd = fd
        self.tell(progress)

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def tell(self, progress: FillProgress) -> None:
        """Show those who wait how far it has come."""
        self.progress = progress
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _line_of(progress), 0)

    def release(self, *, keep: bool) -> None:
        """Let the next one in; `keep` what has been fetched for it."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            if not keep or not names_in(os.fspath(self.folder)):
                remove_tree(self.folder)
        finally:
            if _same_file(fd, self._path):
                discard(self._path)
            os.close(fd)

    def abandon(self) -> None:
        """Let go without a word: this is the copy of a process that lives on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        # Who forgot it must not keep others out for as long as his process lives.
        with contextlib.suppress(OSError):
            self.release(keep=True)


class Fills:
    """The claims of one store, and what is known of those of others."""

    def __init__(
        self, layout: CachePaths, holder: LeaseFile, watch: LivenessMonitor, *, locks: bool
    ) -> None:
        self._layout = layout
        self._holder = holder
        self._watch = watch
        self._locks = locks
        self._claims: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()
        # Claims that others may see before they are among those.
        self._claiming: set[str] = set()

    def claim(self, key: str) -> Claim | None:
        """Take the right to fetch `key`; None where another has it."""
        self._holder.stand()
        progress = FillProgress(self._holder.owner, token())
        self._claiming.add(progress.token)
        try:
            fd = self._lock_file(key) if self._locks else self._claim_name(key, progress)
            if fd is None:
                return None
            claim = Claim(self._layout, key, fd, progress, self._folder(key, progress))
            self._claims[progress.token] = claim
        finally:
            self._claiming.discard(progress.token)
        claim.folder.mkdir(parents=True, exist_ok=True)
        return claim

    def progress(self, key: str) -> FillProgress | None:
        """Return how far the filler of `key` says to have come; it may be dead."""
        return read_progress(self._layout.at("fills", key))

    def busy(self, key: str) -> bool:
        """Whether somebody alive is at work on `key`."""
        progress = self.progress(key)
        return progress is not None and self._at_work(progress)

    def others(self, claim: Claim | None) -> list[tuple[FillProgress, Path]]:
        """Return the living fillers but `claim`, and their folders."""
        found = []
        for key in names_in(self._layout.at("fills")):
            progress = self.progress(key)
            if progress is None or (claim is not None and progress.token == claim.progress.token):
                continue
            if self._at_work(progress):
                found.append((progress, self._folder(key, progress)))
        return found

    def sweep(self, written_before: float = math.inf) -> int:
        """Take away what dead fillers wrote before that time; return the bytes gained."""
        gained = 0
        for name in names_in(self._layout.at("partial")):
            folder = self._layout.at("partial", name)
            with contextlib.suppress(OSError):
                size, latest = allocated(Path(folder))
                if latest < written_before:
                    gained += size if self._sweep_folder(name, folder) else 0
        for key in names_in(self._layout.at("fills")):
            with contextlib.suppress(OSError):
                self._forget(key)
        return gained

    def abandon(self) -> None:
        """Let go of all without a word: this is the copy of a process that lives on."""
        for claim in list(self._claims.values()):
            claim.abandon()

    def _folder(self, key: str, progress: FillProgress) -> Path:
        """Return where the filler of `key` fetches it to."""
        # Without locks another may be at work on the same key without being seen.
        own = "" if self._locks else f".{progress.owner}.{progress.token}"
        return Path(self._layout.at("partial", f"{key}{own}"))

    def _sweep_folder(self, name: str, folder: str) -> bool:
        if not self._locks:
            _, owner, mark = name.split(".") if name.count(".") == 2 else ("", "", "")
            if self._at_work(FillProgress(owner, mark)):
                return False
            remove_tree(folder)
            return True
        fd = self._lock_file(name[:KEY_LENGTH])
        if fd is None:
            return False
        try:
            remove_tree(folder)
            discard(self._layout.at("fills", name[:KEY_LENGTH]))
        finally:
            os.close(fd)
        return True

    def _forget(self, key: str) -> None:
        """Take away the claim on `key` of a filler that is dead."""
        path = self._layout.at("fills", key)
        if self._locks:
            if (fd := self._lock_file(key)) is not None:
                discard(path)
                os.close(fd)
            return
        found = read_progress(path)
        if found is not None and self._at_work(found):
            return
        away = self._layout.scratch(self._holder.owner)
        os.rename(path, away)
        try:
            if read_progress(away) != found:  # somebody has taken it over meanwhile
                os.link(away, path)
        finally:
            discard(away)

    def _at_work(self, progress: FillProgress) -> bool:
        if progress.owner == self._holder.owner:
            # An object that nobody has any more gives its claim back at an unknown time.
            if progress.token in self._claiming:
                return True
            claim = self._claims.get(progress.token)
            return claim is not None and claim.held
        return self._watch.alive(progress.owner)

    def _lock_file(self, key: str) -> int | None:
        """Return the locked file of `key`; None where another has locked it."""
        path = self._layout.at("fills", key)
        while True:
            fd = os.open(path, _FLAGS, 0o666)
            ours = False
            try:
                if not try_lock(fd):
                    return None
                ours = _same_file(fd, path)
                if ours:
                    return fd
            finally:
                if not ours:
                    os.close(fd)

    def _claim_name(self, key: str, progress: FillProgress) -> int | None:
        """Return the file that says that `key` is ours; None where it is another's, who lives."""
        path = self._layout.at("fills", key)
        own = self._layout.scratch(self._holder.owner)
        fd = os.open(own, _FLAGS | os.O_EXCL, 0o666)
        taken = False
        try:
            os.write(fd, _line_of(progress))
            taken = self._put(own, path)
        finally:
            discard(own)
            if not taken:
                os.close(fd)
        return fd if taken else None

    def _put(self, own: str, path: str) -> bool:
        while not move_if_free(own, path):
            standing = read_progress(path)
            if standing is None and not os.path.lexists(path):
                continue  # given back meanwhile, and perhaps another's by now
            if standing is not None and self._at_work(standing):
                return False
            os.replace(own, path)
            break
        return True


def read_progress(path: str) -> FillProgress | None:
    """Return what a filler has told in the file at `path`; None where that makes no sense."""
    try:
        with open(path, "rb") as file:
            owner, mark, *numbers = file.read(_LENGTH).decode("ascii").split()
        return FillProgress(owner, mark, *map(int, numbers))
    except (OSError, ValueError, TypeError):
        return None


def allocated(path: Path) -> tuple[int, float]:
    """Return the bytes that a file, or what is in a folder, takes on the disk, and when something
    of it was written."""
    own = os.lstat(path)
    size = 0 if stat.S_ISDIR(own.st_mode) else getattr(own, "st_blocks", 0) * 512
    latest = own.st_mtime
    for below in all_in(path):
        with contextlib.suppress(OSError):
            status = os.lstat(below)
            size += getattr(status, "st_blocks", 0) * 512
            latest = max(latest, status.st_mtime)
    return size, latest


def bytes_at(path: str) -> int:
    """Return the bytes that what stands at `path` takes on the disk; 0 where nothing does."""
    try:
        return allocated(Path(path))[0]
    except OSError:
        return 0


def _line_of(progress: FillProgress) -> bytes:
    text = " ".join(str(value) for value in vars(progress).values())
    return text.encode().ljust(_LENGTH)


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
