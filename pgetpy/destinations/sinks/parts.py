"""Parts of an object, at their places in a file in memory; the first of them say which others.

For tensors: the header of a weight file says where the wanted tensors are, and only those ranges
are fetched. `window.only` says what may be asked for, and it changes once the header has landed:

    | header | wanted | not | wanted | not ................ |
     first     then, by `choose`
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable

from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Place, Sink
from pgetpy.system.filesystem import write_all

_ENDLESS = 1 << 62
# Given a file, its size and what has landed, returns the parts that are wanted, and whether that
# is the final choice. If not, it is asked again when more has landed.
Choose = Callable[[int, int, Spans], tuple[tuple[Span, ...], bool]]


class PartsSink(Sink):
    """Takes what `choose` wants, beginning with the first `first` bytes.

    Attributes:
        fd: where it goes; the file has holes where nothing is wanted.
    """

    def __init__(self, first: int, choose: Choose) -> None:
        self.window: Window = Window(0, only=(Span(0, first),), closed=True)
        self.fd = _memory_file()
        self._choose = choose
        self._chosen = False
        self._landed = Spans()
        self._size = 0
        self._lock = threading.Lock()

    def begin(self, size: int) -> None:
        """The object has `size` bytes."""
        self._size = size
        os.ftruncate(self.fd, size)

    def place(self, pos: int) -> Place:
        return Place(self.fd, pos, _ENDLESS)

    def write(self, pos: int, data: memoryview) -> None:
        write_all(self.fd, pos, data)

    def mark(self, start: int, stop: int) -> None:
        with self._lock:
            self._landed.add(start, stop)
            if not self._chosen:
                wanted, self._chosen = self._choose(self.fd, self._size, self._landed)
                self.window.only = wanted

    def close(self) -> None:
        """Close the file. It lives on for those who have it mapped or a descriptor of their own."""
        os.close(self.fd)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pgetpy")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
