"""Stages: folders beside the live ones, in which files are put together before they appear.

They are on the same file system, so that a rename moves a file into place in one step.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pgetpy.compile_cache.live import STAGE
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd, remove_tree


def make_folder(folder: Path | str) -> None:
    """Make a folder, and those that it is in, which only their owner may read.

    Those that are there stay as they are. `os.makedirs` gives its mode to the last one alone.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)


def create_file(path: Path | str) -> io.FileIO:
    """Open a new file that only its owner may read; its folder is made if need be."""
    try:
        return io.FileIO(path, "xb", opener=_open_own)
    except FileNotFoundError:
        make_folder(os.path.dirname(path))
        return io.FileIO(path, "xb", opener=_open_own)


def _open_own(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_whole(out: io.FileIO, data: bytes | memoryview) -> None:
    """Write all of `data`; a single call of the system may write less.

    Raises:
        OSError: it cannot be written; the file is named, which the system does not do here.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as error:
        error.filename = out.name
        raise


def fsync_file(file: io.FileIO) -> None:
    """Have what was written survive a power cut, where the file system can do that."""
    with contextlib.suppress(OSError):
        os.fsync(file.fileno())


@contextlib.contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A stage in `root`, removed at the end, and those that dead processes have left.

    A lock on the folder says that its process lives. Where there are no locks, stages of others
    stay.
    """
    make_folder(root)
    remove_dead_stages(root)
    stage, fd = _locked_stage(root)
    with closing_fd(fd):
        try:
            yield stage
        finally:
            with contextlib.suppress(OSError):
                remove_tree(stage)


def _locked_stage(root: Path) -> tuple[Path, int]:
    """Make a stage; return it, and the descriptor that holds its lock.

    Between making and locking it, another process may take it for one that a dead process has
    left. Then it goes, and the next one is made.
    """
    while True:
        stage = root / f"{STAGE}{secrets.token_hex(8)}"
        os.mkdir(stage, 0o700)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(stage, os.O_RDONLY | os.O_CLOEXEC)
            if _is_kept(stage, fd):
                return stage, fd
            os.close(fd)


def _is_kept(stage: Path, fd: int) -> bool:
    """Take the lock of a new stage; False if another process removes it, or has done so."""
    try:
        if not try_lock(fd):
            return False
    except OSError:
        return True  # without locks, who looks for dead stages removes none
    return stage.exists()


def remove_dead_stages(root: Path) -> None:
    """Remove the stages of processes that have ended."""
    with contextlib.suppress(OSError):
        for name in os.listdir(root):
            if not name.startswith(STAGE):
                continue
            with (
                contextlib.suppress(OSError),
                closing_fd(os.open(root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)) as fd,
            ):
                if try_lock(fd):
                    remove_tree(root / name)
