"""A stream (standard output, a FIFO) that gets the bytes of an object in order.

Several connections bring ranges in any order. Bytes behind the front wait in memory; the plan gives
out no range beyond the window, so they are bounded by it. The writer that brings the front writes
to the stream, and then whatever has waited behind it.

A reader may stop reading for good without closing the stream. So nothing may block in write(2): it
is called only after poll says that there is room, with no more than fits, and in between `stop` is
looked at.
"""

from __future__ import annotations

import os
import select
import stat
import threading

from pgetpy.core.http.range_request import Window
from pgetpy.core.http.reorder_buffer import ReorderBuffer
from pgetpy.core.http.sink import Sink
from pgetpy.core.references.checksums import Digest
from pgetpy.system import polling

_SLICE_MS = int(1000 * polling.SLICE)


class OrderedSink(Sink):
    """Writes to descriptor `fd` from one position on, in order.

    Args:
        fd: where to write; it is not closed.
        window: bytes that may wait in memory.
        digest: is given every byte that has been written.

    """

    def __init__(self, fd: int, window: int = 32 << 20, digest: Digest | None = None) -> None:
        self.window: Window = Window(window)
        self._fd = fd
        self._digest = digest
        self._atom = select.PIPE_BUF if _may_block(fd) else 1 << 20
        self._waiting = ReorderBuffer()
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def front(self) -> int:
        """Bytes written so far."""
        return self.window.horizon

    def write(self, pos: int, data: memoryview) -> None:
        with self._lock:
            if pos > self.front:
                self._waiting.keep(pos, data)
                return
            self._put(pos, data)
            while (piece := self._waiting.take(self.front)) is not None:
                self._put(piece[0], memoryview(piece[1]))

    def stop(self) -> None:
        """Have a write that waits for its reader give up."""
        self._stopped = True

    def _put(self, pos: int, data: memoryview) -> None:
        """Write what of `data`, the bytes from `pos` on, lies at the front."""
        data = data[max(0, self.front - pos) :]
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while data and not self._stopped:
            if not poller.poll(_SLICE_MS):
                continue
            # A pipe that polls as writable takes PIPE_BUF bytes without blocking (POSIX). More
            # might block until the reader wakes up.
            count = os.write(self._fd, data[: self._atom])
            if self._digest is not None:
                self._digest.update(data[:count])
            self.window.horizon += count
            data = data[count:]


def _may_block(fd: int) -> bool:
    kind = os.fstat(fd).st_mode
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)
