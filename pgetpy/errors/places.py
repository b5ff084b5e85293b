"""Errors of destinations, disks, caches, generations and standard output."""

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


class SourceFileError(DestinationError):
    """A file to upload cannot be read, or changed while it was read; see `DestinationError`."""

    def sentence(self) -> str:
        return f"{self.dest} {self.reason}"


class DiskFullError(PgetError, OSError):
    """There is no room on the disk (ENOSPC).

    It is raised before the first byte if the size is known, because filling a disk harms other
    programs too.

    Attributes:
        dest: the path.
        needed: bytes; None if the disk filled up midway.
        free: bytes.
        keep: bytes that `--min-free` wants to stay free.
        inodes: whether the file system ran out of inodes, so that there is no room for new files.
    """

    hint = "free some space and run it again: it continues from what has arrived"

    def __init__(
        self, dest: str, needed: int | None, free: int, *, keep: int = 0, inodes: bool = False
    ) -> None:
        super().__init__(_errno.ENOSPC, "no space left", dest)
        self.dest = dest
        self.needed = needed
        self.free = free
        self.keep = keep
        self.inodes = inodes
        if inodes:
            self.hint = "remove some files (`df -i` counts) and run it again"
        elif needed is not None:
            self.hint = "free some space or choose another destination"

    def sentence(self) -> str:
        if self.inodes:
            return f"the disk of {self.dest} has no inodes left for new files"
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


class GenerationError(PgetError):
    """A generation cannot be built, used or removed.

    Attributes:
        root: the folder that holds the generations.
        name: its number, its digest, or `latest`; empty for all of them.
        reason: a clause that begins with a verb.
    """

    def __init__(self, root: str, name: str | int, reason: str, *, hint: str = "") -> None:
        super().__init__(root, name, reason, hint=hint)
        self.root = root
        self.name = str(name)
        self.reason = reason

    def sentence(self) -> str:
        if not self.name:
            return f"the folder of generations {self.root} {self.reason}"
        return f"generation {self.name} in {self.root} {self.reason}"


class GenerationTakenError(GenerationError):
    """The number belongs to a generation with other content.

    Attributes:
        digest: of the lock that has the number.
    """

    hint = "what is published is never changed: give the new content a number of its own"

    def __init__(self, root: str, number: int, digest: str) -> None:
        super().__init__(root, number, f"has other content already: its digest is {digest}")
        self.digest = digest


class GenerationIncompleteError(GenerationError):
    """The generation is missing, or not all of its files are what was published."""

    hint = "pgetpy generation build LOCK builds it; pgetpy generation ready says what is there"


class GenerationInUseError(GenerationError):
    """The generation cannot be replaced while processes read it.

    Attributes:
        readers: the processes, as far as the system shows them.
    """

    hint = "end them, and run it again"

    def __init__(self, root: str, number: int, readers: tuple[str, ...]) -> None:
        who = ", ".join(readers) or "a process that cannot be seen from here"
        super().__init__(root, number, f"is read by {who}")
        self.readers = readers


class NotOneFileSystemError(PgetError, OSError):
    """A file of the cache cannot have a second name in a generation.

    The errno says why: EXDEV for another file system or mount, EMLINK for an inode with as many
    names as it may have, EPERM for another user's file or a file system without hard links.

    Attributes:
        cache: the file in the cache.
        root: the folder that holds the generations.
        reason: the system's words.
    """

    hint = (
        "put cache and generations on one file system with one owner, as with a cache in the "
        "generations' own folder; --copy makes copies, which take space of their own"
    )

    def __init__(self, cache: str, root: str, reason: str, *, code: int = _errno.EXDEV) -> None:
        super().__init__(code, reason, cache)
        self.cache = cache
        self.root = root
        self.reason = reason

    def sentence(self) -> str:
        return f"{self.cache} cannot be linked into {self.root}: {self.reason}"


class BadEnvironmentError(PgetError):
    """A Python environment cannot be locked or built.

    Attributes:
        name: of the environment.
        reason: a clause; what uv said, redacted, where it was uv that failed.
    """

    def __init__(self, name: str, reason: str, *, hint: str = "") -> None:
        super().__init__(name, reason, hint=hint)
        self.name = name
        self.reason = reason

    def sentence(self) -> str:
        return f"environment {self.name}: {self.reason}"


class ThreadLimitError(PgetError, RuntimeError):
    """The system refuses to start more threads for this process or user.

    Downloads need none, and go on with few. It is raised where a thread cannot be replaced: for a
    decoder, or for the event loop of a blocking call.
    """

    hint = "raise ulimit -u, or the container's pids limit"

    def sentence(self) -> str:
        return "cannot start a thread: the system's limit has been reached"
