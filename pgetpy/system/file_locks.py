"""Locks between processes, whether they can be relied on, and which boot of the machine this is.

The locks are flock(2)'s. They belong to an open file description, that is to one call of open:

- Two descriptors from two calls of open exclude each other, even within one process. So
  `locks_exclude` can try locks out without a second process.
- The kernel releases the lock when the last copy of the descriptor is closed, at the latest when
  the process dies. Nothing is left behind, and no lock has to be broken.
- A forked child has a copy, and keeps the lock until it closes it as well.

POSIX locks (fcntl) would be lost as soon as any descriptor of the file is closed in the process.

File systems differ. NFS maps flock to locks of the server or keeps it to one machine, some FUSE
file systems refuse it, and some accept every lock and exclude no one. Hence the test. It cannot see
locks that hold on one machine only: nothing may depend on them for correctness.

The boot tells whether what was written and not flushed can have been lost since: after a kill the
kernel still has it, after a reboot it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from functools import lru_cache
from pathlib import Path

from pgetpy.core.destinations.names import LOCK
from pgetpy.system.filesystem import closing_fd


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return an identifier of this boot of the machine; empty if the system has none.

    An empty one equals no other: journals then count as if there had been a power cut.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
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
    """Whether locks in `folder` exclude, tried out on a file of our own.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / f".{os.urandom(8).hex()}{LOCK}"
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
    """Take the lock of the file open at `fd`; False if another descriptor holds it.

    Args:
        fd: closing it, and all copies of it, releases the lock.
        shared: any number of shared locks go together; an exclusive one goes with none.

    Raises:
        OSError: the file system has no locks, or none left.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
