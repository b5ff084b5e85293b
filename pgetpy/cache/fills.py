"""Claims: one process fetches an entry while the others wait.

A claim saves work; correctness does not depend on it. If two processes fetch the same entry, each
publishes a complete one by rename, and the second replaces the first.

Where file locks work, a claim is a lock on `fills/KEY`. The kernel releases it when the process
dies, and the next one continues in the folder that was left. Where they do not, a claim is a file
that names its process. If that process is found dead, its claim is taken over. Two processes may do
so at once: then both fetch, each into a folder of its own.

    with locks      fills/KEY, flocked      partial/KEY/                  shared by successive runs
    without         fills/KEY, our name     partial/KEY.OWNER.TOKEN/      one run's own

The file also says how far the fetch is, so that waiting processes can show progress, and how much
room was made for it, so that others do not promise the same bytes. It is rewritten in place with
one pwrite of a fixed length: a reader sees the old line or the new one, and at worst a mixture that
does not parse and counts as unknown.
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
from pgetpy.cache.layout import KEY_LENGTH, CachePaths, discard, move_if_free, token
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import names_in, remove_tree

_LENGTH = 128
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class FillProgress:
    """The content of a claim file: who fetches, and how far it is.

    Attributes:
        owner: the id of the lease file of the process.
        token: tells this claim from others of the same process.
        done: bytes fetched.
        total: bytes in all; 0 if unknown.
        reserved: bytes that room was made for.
    """

    owner: str
    token: str
    done: int = 0
    total: int = 0
    reserved: int = 0


class Claim:
    """The right to fetch one entry, until `release`.

    Attributes:
        folder: where to fetch it to. It may hold what an earlier process left.
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
        """Show the waiting processes how far the fetch is. A full disk must not end it: ignored."""
        self.progress = progress
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _line_of(progress), 0)

    def release(self, *, keep: bool) -> None:
        """Give the claim up, and `keep` what was fetched for the next process.

        The file is removed before the lock is released, and only if it is still ours. A process
        that then locks the removed file sees that its name is gone, and tries again (`_lock_file`).
        """
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
        """Forked child: close the file, but do not release the claim; it is the parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        # A forgotten claim must not block others for the life of its process.
        with contextlib.suppress(OSError):
            self.release(keep=True)


class Fills:
    """The claims of one store, and those of other processes."""

    def __init__(
        self, layout: CachePaths, holder: LeaseFile, watch: LivenessMonitor, *, locks: bool
    ) -> None:
        self._layout = layout
        self._holder = holder
        self._watch = watch
        self._locks = locks
        self._claims: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()
        # Claims in the making: visible to others already, but not yet in `_claims`.
        self._claiming: set[str] = set()

    def claim(self, key: str) -> Claim | None:
        """Take the right to fetch `key`; None if another process has it."""
        self._holder.ensure_file()
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
        if claim.folder.is_symlink():
            # Not ours: what is at its end would be deleted as the leftovers of an earlier fetch.
            claim.folder.unlink()
        claim.folder.mkdir(parents=True, exist_ok=True)
        return claim

    def progress(self, key: str) -> FillProgress | None:
        """Return what the claim on `key` says. Its process may be dead."""
        return read_progress(self._layout.at("fills", key))

    def busy(self, key: str) -> bool:
        """Whether a living process is fetching `key`."""
        progress = self.progress(key)
        return progress is not None and self._at_work(progress)

    def others(self, claim: Claim | None) -> list[tuple[FillProgress, Path]]:
        """Return the living claims other than `claim`, with their folders."""
        found = []
        for key in names_in(self._layout.at("fills")):
            progress = self.progress(key)
            if progress is None or (claim is not None and progress.token == claim.progress.token):
                continue
            if self._at_work(progress):
                found.append((progress, self._folder(key, progress)))
        return found

    def sweep(self, written_before: float = math.inf) -> int:
        """Remove what dead processes fetched before `written_before`; return the bytes freed."""
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
        """Forked child: close all claims, but do not release them; they are the parent's."""
        for claim in list(self._claims.values()):
            claim.abandon()

    def _folder(self, key: str, progress: FillProgress) -> Path:
        """Return the folder that `key` is fetched to."""
        # Without locks, two processes may fetch the same key unseen.
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
        """Remove the claim on `key` if its process is dead."""
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
            # Moved away first and compared afterwards: a rename is the only atomic way to take it.
            if read_progress(away) != found:  # another process took it over meanwhile
                os.link(away, path)
        finally:
            discard(away)

    def _at_work(self, progress: FillProgress) -> bool:
        if progress.owner == self._holder.owner:
            # Our own process lives, so its claims are judged one by one. A claim object without
            # references is finalised at an unknown time, and then no longer in `_claims`.
            if progress.token in self._claiming:
                return True
            claim = self._claims.get(progress.token)
            return claim is not None and claim.held
        return self._watch.alive(progress.owner)

    def _lock_file(self, key: str) -> int | None:
        """Return the locked claim file of `key`; None if another process has it locked.

        Between `open` and the lock, the previous owner may have removed the file. Its lock would
        not exclude a process that creates the name again, so the name is compared and the loop
        repeats.
        """
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
        """Return our claim file on `key`; None if a living process has the claim.

        The file is written under a scratch name and moved into place, because a name that appears
        with O_EXCL would be empty for a moment, and look like that of a dead process.
        """
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
            present = read_progress(path)
            if present is None and not os.path.lexists(path):
                continue  # released meanwhile, and perhaps claimed again by now
            if present is not None and self._at_work(present):
                return False
            os.replace(own, path)
            break
        return True


def read_progress(path: str) -> FillProgress | None:
    """Return the content of the claim file at `path`; None if it is invalid."""
    try:
        with open(path, "rb") as file:
            owner, mark, *numbers = file.read(_LENGTH).decode("ascii").split()
        return FillProgress(owner, mark, *map(int, numbers))
    except (OSError, ValueError, TypeError):
        return None


def allocated(path: Path) -> tuple[int, float]:
    """Return the disk space of a file or a folder's contents, and the latest modification time.

    Blocks, not sizes: a part file is sparse, and preallocated space counts before it is written.
    """
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
    """Return the disk space of what is at `path`; 0 if there is nothing."""
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
