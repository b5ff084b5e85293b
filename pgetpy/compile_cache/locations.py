"""Where compile caches are kept: a folder, an object store, or a web server that is read.

A location holds small immutable objects under names such as `v1/KEY/packs/SHA256.zst`. It needs no
more than list, read, and write under a new name. Nothing is locked, and nothing that is there is
changed; see `core/compile_cache/seals`.
"""

from __future__ import annotations

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.stages import create_file, fsync_file, write_whole
from pgetpy.core.compile_cache.seals import LARGEST_SEAL, SHA256
from pgetpy.errors import PgetError
from pgetpy.errors.reasons import system_reason

# How the names of folders begin that hold what is about to be stored.
UNFINISHED = ".unfinished-"


class CacheLocation(ABC):
    """Where the packs and seals of compile caches are.

    Attributes:
        shown: its name for people, without secrets.
        readable_only: whether nothing can be written there.
    """

    shown: str
    readable_only = False

    @abstractmethod
    def names(self, folder: str) -> dict[str, int]:
        """Return what is directly in `folder` and how many bytes it has; folders have a slash at
        the end of their name, and no size.

        Raises:
            PgetError: the location cannot be used.
        """

    def saved_keys(self) -> list[str]:
        """Return all keys, in order.

        Raises:
            PgetError: the location cannot be used.
        """
        names = (name.removesuffix("/") for name in self.names("v1") if name.endswith("/"))
        return sorted(name for name in names if SHA256.fullmatch(name))

    @abstractmethod
    def read(
        self, folder: str, names: Iterable[str], flag: CancelFlag, most: int = LARGEST_SEAL
    ) -> dict[str, bytes]:
        """Return the contents of small files, without those that cannot be read.

        Raises:
            PgetError: the location cannot be used.
        """

    @abstractmethod
    def fetch(self, name: str, sha256: str, spool: Path, flag: CancelFlag) -> Path:
        """Return where a file is, on this machine: in place, or in the folder `spool`.

        Raises:
            PgetError: it is not there, or cannot be read.
        """

    @abstractmethod
    def put(self, name: str, source: Path, *, replace: bool = False) -> None:
        """Store the file `source` as `name`; it may be moved away.

        Args:
            name: with slashes.
            source: a file on this machine.
            replace: whether one that is there is known to be damaged.

        Raises:
            PgetError: it cannot be stored.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            PgetError: it cannot be removed.
        """

    def put_small(self, name: str, data: bytes, spool: Path, *, replace: bool = False) -> None:
        """Store `data` as `name`, by way of a file in the folder `spool`; see `put`."""
        path = spool / name.rpartition("/")[2]
        with create_file(path) as out:
            write_whole(out, data)
            fsync_file(out)
        self.put(name, path, replace=replace)

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path]:
        """A folder for what is about to be stored, removed at the end."""
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=self.spool()) as folder:
            yield Path(folder)

    def spool(self) -> Path | None:
        """Return where packs are best written; None for the folder of temporary files."""
        return None


def reason_of(error: BaseException) -> str:
    """Return `error` as the reason of a result."""
    if isinstance(error, OSError) and not isinstance(error, PgetError):
        return f"{error.filename or 'a file'}: {system_reason(error)}"
    return str(error) or type(error).__name__
