"""Pipes that bytes are spliced through: the kernel's own buffers between a socket and a file.

Only this module calls splice. Where the system has none, `PIPES.usable` is False.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator

from pgetpy.system.forks import call_in_children

# The largest size an unprivileged user may ask for; its quota is used up by 64 such pipes, and then
# the kernel gives what it likes.
_WANTED = 1 << 20
_PAGE = 4096
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Pipe:
    """One pipe. Between calls it is empty, or it is closed and thrown away."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._held = 0
        self.size = _grown(self._write_end)

    @property
    def empty(self) -> bool:
        return self._held == 0

    def fill(self, fd: int, count: int) -> int:
        """Take up to `count` bytes from socket `fd`, waiting for the first; 0 at its end."""
        self._held = os.splice(fd, self._write_end, count)
        return self._held

    def drain(self, fd: int, offset: int, landed: Callable[[int], None]) -> bool:
        """Move all there is into file `fd` at `offset`; False where the file takes no splice."""
        while self._held:
            try:
                moved = os.splice(self._read_end, fd, self._held, offset_dst=offset)
            except OSError as error:
                if error.errno in _REFUSED:
                    return False
                raise
            self._held -= moved
            offset += moved
            landed(moved)
        return True

    def rest(self) -> bytes:
        """Return what is left in the pipe."""
        parts = []
        while self._held:
            part = os.read(self._read_end, self._held)
            parts.append(part)
            self._held -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self._write_end)


class Pipes:
    """Pipes at rest, to be borrowed by one thread at a time."""

    def __init__(self) -> None:
        self.usable = hasattr(os, "splice")
        self._lock = threading.Lock()
        self._resting: list[Pipe] = []

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Pipe | None]:
        """Lend a pipe; None where no descriptor is left for one."""
        with self._lock:
            pipe = self._resting.pop() if self._resting else None
        try:
            pipe = pipe or Pipe()
        except OSError:
            pipe = None
        try:
            yield pipe
        finally:
            if pipe is not None:
                self._take_back(pipe)

    def forget(self) -> None:
        """A fork may not put its bytes into pipes that its parent uses."""
        self._lock = threading.Lock()
        for pipe in self._resting:
            pipe.close()
        self._resting = []

    def _take_back(self, pipe: Pipe) -> None:
        # A pipe with bytes in it (a full disk, say) would put them into the next file.
        if not pipe.empty:
            pipe.close()
            return
        with self._lock:
            self._resting.append(pipe)


def _grown(fd: int) -> int:
    """Make pipe `fd` as large as the system allows and return its size in bytes."""
    set_size = getattr(fcntl, "F_SETPIPE_SZ", 1031)
    get_size = getattr(fcntl, "F_GETPIPE_SZ", 1032)
    with contextlib.suppress(OSError):
        return fcntl.fcntl(fd, set_size, _WANTED)
    try:
        return fcntl.fcntl(fd, get_size)
    except OSError:
        return _PAGE


PIPES = Pipes()
call_in_children(PIPES.forget)
