"""The sha256 of files, computed once as long as they are the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from pgetpy.cache.contents import digest_of
from pgetpy.cache.layout import token
from pgetpy.errors import IntegrityError
from pgetpy.errors.reasons import system_reason

# Smaller files are hashed in less time than it takes to keep the result on disk.
_LARGE = 16 << 20
# A file that changed this recently may change again without another time.
_SETTLED_SECONDS = 2.0
_LONGEST_RECORD = 1000


class _Identity(NamedTuple):
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class FileDigests:
    """Hashes files, and remembers what they hashed to: for this process, and large ones on disk.

    A file counts as the same while its inode, size and times are: a program cannot set the time of
    the last change of status.

    Args:
        folder: has a record for each large file; None to keep none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[_Identity, str] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return the sha256 of a file in hex.

        Raises:
            IntegrityError: it cannot be read, or changes while it is.
        """
        try:
            before = _identity(path)
            with self._lock:
                if before in self._known:
                    return self._known[before]
            found = self._recorded(path, before)
            if not found:
                found = (digest_of(path) or "").partition(":")[2]
                if _identity(path) != before:
                    raise IntegrityError(f"{path.name} changed while it was read")
                self._record(path, before, found)
        except OSError as error:
            raise IntegrityError(f"{path.name} cannot be read: {system_reason(error)}") from None
        with self._lock:
            self._known[before] = found
        return found

    def _recorded(self, path: Path, identity: _Identity) -> str:
        """Return what an earlier process has hashed; empty if none has."""
        place = self._place(path)
        if place is None or identity.size < _LARGE:
            return ""
        try:
            with place.open("rb") as file:
                record = json.loads(file.read(_LONGEST_RECORD))
            if record["file"] == _lasting(path, identity):
                return str(bytes.fromhex(record["sha256"]).hex())
        except (OSError, ValueError, LookupError, TypeError):
            pass  # there is none, or it is damaged
        return ""

    def _record(self, path: Path, identity: _Identity, found: str) -> None:
        place = self._place(path)
        settled = time.time() - identity.changed_ns / 1e9 > _SETTLED_SECONDS
        if place is None or identity.size < _LARGE or not settled:
            return
        with contextlib.suppress(OSError):  # hashing again is all that it costs
            place.parent.mkdir(parents=True, exist_ok=True)
            own = place.with_name(f"{place.name}.{token()}")
            own.write_text(json.dumps({"file": _lasting(path, identity), "sha256": found}))
            os.replace(own, place)

    def _place(self, path: Path) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / hashlib.sha256(os.path.abspath(path).encode()).hexdigest()


def _identity(path: Path) -> _Identity:
    status = os.stat(path)
    return _Identity(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _lasting(path: Path, identity: _Identity) -> list[object]:
    """Return what is the same after a restart: the number of a device need not be."""
    return [os.path.abspath(path), *identity[1:]]
