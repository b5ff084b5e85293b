"""Pipes that bytes are spliced through: the kernel's own buffers between a socket and a file.

recv and write copy each byte to this process and back. splice moves it inside the kernel, but one
of its two ends has to be a pipe, so a body takes two steps a block:

    socket  == fill ==>  pipe (1 MiB)  == drain ==>  page cache of the file

Invariant: a pipe at rest is empty. One that still holds bytes, after an error between the two
steps, is closed and never reused: it would put them into the next file.

Some file systems do not take a splice. That shows at the first `drain`, when the bytes are already
in the pipe: `rest` reads them out, and the transport goes on with a buffer.

Only this module calls splice. `PIPES.usable` is False where the system does not have it, or a file
system has refused it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator

from pgetpy.system.forks import call_in_children

# The largest size an unprivileged user may ask for (/proc/sys/fs/pipe-max-size). A user's quota
# covers 64 such pipes; after that the kernel gives less.
_WANTED = 1 << 20
_PAGE = 4096
_REFUSED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Pipe:
    """One pipe, used by one thread at a time.

    Attributes:
        size: bytes that fit into it: the most that one `fill` can move.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._held = 0
        self.size = _grown(self._write_end)

    @property
    def empty(self) -> bool:
        return self._held == 0

    def fill(self, fd: int, count: int) -> int:
        """Move up to `count` bytes from socket `fd` into the pipe; 0 at the end of the stream.

        Waits for the first byte. The pipe has to be empty.
        """
        self._held = os.splice(fd, self._write_end, count)
        return self._held

    def drain(self, fd: int, offset: int, landed: Callable[[int], None]) -> bool:
        """Move everything in the pipe into file `fd` at `offset`.

        `landed` is called with the bytes of each step. False means that this file cannot be spliced
        to; what is left has to be fetched by `rest`.

        Raises:
            OSError: the disk is full, say; the pipe is not empty then.
        """
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
        """Return what is left in the pipe, which is empty afterwards."""
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
    """A pool of pipes: making one and growing it costs several system calls.

    Attributes:
        usable: whether splice is worth trying.
    """

    def __init__(self) -> None:
        self.usable = hasattr(os, "splice")
        self._lock = threading.Lock()
        self._resting: list[Pipe] = []

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Pipe | None]:
        """Lend a pipe for a body; None where the process has no descriptors left for one."""
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
        """Drop all pipes, in a forked child: the parent goes on using them."""
        self._lock = threading.Lock()
        for pipe in self._resting:
            pipe.close()
        self._resting = []

    def _take_back(self, pipe: Pipe) -> None:
        """Put an empty pipe back; close any other."""
        # See the invariant at the top of the module.
        if not pipe.empty:
            pipe.close()
            return
        with self._lock:
            self._resting.append(pipe)


def _grown(fd: int) -> int:
    """Make pipe `fd` as large as the system allows and return its size in bytes."""
    # Python names these since 3.10; the numbers are Linux's.
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
