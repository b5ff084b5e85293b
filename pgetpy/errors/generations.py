"""Errors of generations: numbered sets of weights in one folder."""

from __future__ import annotations

import errno as _errno

from pgetpy.errors.base import PgetError


class GenerationError(PgetError):
    """A generation cannot be built, used or removed.

    Attributes:
        root: the folder that holds the generations.
        name: its number, its digest, or `latest`.
        reason: a clause that begins with a verb.
    """

    def __init__(self, root: str, name: str | int, reason: str, *, hint: str = "") -> None:
        super().__init__(root, name, reason, hint=hint)
        self.root = root
        self.name = str(name)
        self.reason = reason

    def sentence(self) -> str:
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
