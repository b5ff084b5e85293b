"""Errors of destinations, disks, caches and standard output."""

from __future__ import annotations

import errno as _errno

from pgetpy.errors.base import PgetError


class DestinationError(PgetError, OSError):
    """The destination is in the way or cannot be written.

    As an OSError it has an errno, so that code that handles files need not know pgetpy's classes.

    Attributes:
        dest: the path, or `standard output`.
        reason: a clause that begins with a verb.
    """

    def __init__(self, dest: str, reason: str, *, hint: str = "", code: int = _errno.EIO) -> None:
        super().__init__(code, reason, dest, hint=hint)
        self.dest = dest
        self.reason = reason

    def sentence(self) -> str:
        return f"destination {self.dest} {self.reason}"


class DiskFullError(PgetError, OSError):
    """There is no room on the disk (ENOSPC).

    It is raised before the first byte if the size is known, because filling a disk harms other
    programs too.

    Attributes:
        dest: the path.
        needed: bytes; None if the disk filled up midway.
        free: bytes.
        keep: bytes that `--min-free` wants to stay free.
    """

    hint = "free some space and run it again: it continues from what has arrived"

    def __init__(self, dest: str, needed: int | None, free: int, *, keep: int = 0) -> None:
        super().__init__(_errno.ENOSPC, "no space left", dest)
        self.dest = dest
        self.needed = needed
        self.free = free
        self.keep = keep
        if needed is not None:
            self.hint = "free some space or choose another destination"

    def sentence(self) -> str:
        if self.needed is None:
            return f"the disk of {self.dest} is full ({self.free} bytes free)"
        keep = f" with {self.keep} to stay free" if self.keep else ""
        return (
            f"not enough space for {self.dest}: {self.needed} bytes needed{keep}, {self.free} free"
        )


class OutputError(PgetError):
    """The result cannot be printed: standard output is closed or its disk is full.

    A script that reads paths must not take a missing line for success, so this is a failure.

    Attributes:
        reason: a clause.
    """

    hint = "files that were downloaded are complete"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"standard output cannot be written: {self.reason}"


class CacheError(PgetError, OSError):
    """The cache cannot do what was asked of it: its folder, or an entry, is not usable.

    Attributes:
        root: the folder.
        reason: a clause that begins with a verb.
    """

    def __init__(self, root: str, reason: str, *, hint: str = "", code: int = _errno.EIO) -> None:
        super().__init__(code, reason, root, hint=hint)
        self.root = root
        self.reason = reason

    def sentence(self) -> str:
        return f"the cache at {self.root} {self.reason}"


class CacheFullError(CacheError):
    """What may leave the cache does not make enough room.

    `.needed` bytes are needed and `.free` can be freed; `.held` names who keeps how many bytes,
    the most first. `.cause` says why what left gave no room, where that is so.
    """

    hint = "release leases, unpin entries, or give the cache more room"

    def __init__(
        self,
        root: str,
        needed: int,
        free: int,
        held: tuple[tuple[str, int], ...] = (),
        *,
        cause: str = "",
    ) -> None:
        super().__init__(root, "is full", code=_errno.ENOSPC)
        self.needed = needed
        self.free = free
        self.held = held
        self.cause = cause

    def sentence(self) -> str:
        by = "".join(f", {who} {size}" for who, size in self.held[:5])
        cause = f" ({self.cause})" if self.cause else ""
        what = f"{self.needed} bytes needed, {self.free} can be freed"
        if not self.needed:
            what = "evicting all that may go would not bring it within its limits"
        return (
            f"the cache at {self.root} is full: {what}{f'; held by{by[1:]}' if by else ''}{cause}"
        )


class ThreadLimitError(PgetError, RuntimeError):
    """The system refuses to start more threads for this process or user.

    Downloads need none, and go on with few. It is raised where a thread cannot be replaced: for a
    decoder, or for the event loop of a blocking call.
    """

    hint = "raise ulimit -u, or the container's pids limit"

    def sentence(self) -> str:
        return "cannot start a thread: the system's limit has been reached"
