"""The journal of one upload, from which a later run resumes: the parts that the store confirmed.

It lies in the user's folder for state, because the store is elsewhere and the file's own folder may
be read-only. Its name is a hash of what is uploaded and where to. The first line describes the file
and the upload; each further line is one part:

    {"id": "2~abc...", "version": [dev, inode, size, mtime in ns], "part_size": 16777216}
    {"number": 3, "etag": "\\"...\\""}
    {"number": 1, "etag": "\\"...\\""}

Lines are only appended, with one write each, so a killed run damages the last one at most, and that
is skipped. Losing the journal, or a line of it, only costs sending parts again: so errors of the
disk are ignored here.

A process that uses a journal has it locked. Another that uploads the same file to the same place
keeps none, and begins an upload of its own: else the first to complete or abort would end both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pgetpy.core.objects.multipart import LARGEST_PART, SMALLEST_PART
from pgetpy.settings.folders import state_folder
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd

# What comes of reading a line that is not what was written.
_SENSELESS = (ValueError, LookupError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Upload:
    """An upload that has begun.

    Attributes:
        id: the upload ID that the store has given it.
        version: of the file: device, inode, size and time of its last change in nanoseconds.
        part_size: in bytes.
    """

    id: str
    version: tuple[int, ...]
    part_size: int


def version_of(fd: int) -> tuple[int, ...]:
    """Return what distinguishes this version of an open file from others."""
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class UploadJournal:
    """The journal of the upload of `path` to `url`; without a folder for state it keeps nothing."""

    def __init__(self, path: str, url: str, environ: Mapping[str, str]) -> None:
        state = state_folder(environ)
        name = hashlib.sha256(f"{os.path.abspath(path)}\0{url}".encode(errors="surrogateescape"))
        self.path = None if state is None else state / "uploads" / f"{name.hexdigest()}.jsonl"
        self.upload: Upload | None = None
        # The ETag of each part that the store has confirmed, by number.
        self.parts: dict[int, str] = {}
        self._locked = -1

    def read(self) -> Upload | None:
        """Return the upload that an earlier run began, which may be of another version of the file,
        and fill `parts`; None if there is none."""
        self._lock(0)
        if self.path is None:
            return None
        try:
            lines = self.path.read_text().splitlines()
            head = json.loads(lines[0])
            found = Upload(str(head["id"]), tuple(head["version"]), int(head["part_size"]))
        except (OSError, *_SENSELESS):
            return None
        if not SMALLEST_PART <= found.part_size <= LARGEST_PART:
            return None
        for line in lines[1:]:
            # The last line may have been cut off.
            with suppress(*_SENSELESS):
                part = json.loads(line)
                self.parts[int(part["number"])] = str(part["etag"])
        self.upload = found
        return found

    def begin(self, upload: Upload) -> None:
        """Replace the journal by one for `upload`, without parts."""
        self.upload, self.parts = upload, {}
        if self.path is not None:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock(os.O_CREAT)
        if self.path is not None:
            with suppress(OSError):
                self._write(self.path, json.dumps(asdict(upload)), os.O_TRUNC)

    def note(self, number: int, etag: str) -> None:
        """Note that the store has confirmed part `number`."""
        self.parts[number] = etag
        if self.path is not None:
            with suppress(OSError):
                self._write(self.path, json.dumps({"number": number, "etag": etag}), os.O_APPEND)

    def remove(self) -> None:
        """Delete the journal: the upload is completed or aborted."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process use the journal."""
        if self._locked >= 0:
            os.close(self._locked)
            self._locked = -1

    def _lock(self, create: int) -> None:
        """Lock the journal, if it exists or `create` says so; keep none if another process has."""
        if self.path is None or self._locked >= 0:
            return
        with suppress(OSError):
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | create, 0o600)
            self._locked = fd
            with suppress(OSError):  # without locks, as if there were no other process
                if not try_lock(fd):
                    self.path = None

    @staticmethod
    def _write(path: Path, line: str, how: int) -> None:
        """Write one line in one call. Only the user may read it: a URL may be private."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how
        with closing_fd(os.open(path, flags, 0o600)) as fd:
            os.write(fd, f"{line}\n".encode())
