"""Locks between processes, whether they can be relied on, and which boot of the machine this is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from functools import lru_cache
from pathlib import Path

from pgetpy.system.filesystem import closing_fd


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return what names this boot of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        import subprocess

        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(  # noqa: S603  a fixed command
                command, capture_output=True, text=True, check=True, timeout=5
            ).stdout.strip()
    return ""


def locks_exclude(folder: Path) -> bool:
    """Whether a lock on a file in `folder` keeps others out, tried on a file of our own.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / f".{os.urandom(8).hex()}.pgetpy-lock"
    flags = os.O_RDWR | os.O_CLOEXEC
    with closing_fd(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)) as one:
        try:
            two = os.open(path, flags)  # as another process would open it
        finally:
            os.unlink(path)
        with closing_fd(two), contextlib.suppress(OSError):
            return try_lock(one) and not try_lock(two)
    return False


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take the lock of the file open at `fd`; False where another holds it.

    A `shared` one is kept out by an exclusive one alone, and keeps out that alone.

    Raises:
        OSError: the file system has no locks, or none left.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
