"""What the modules of this package share: files that still grow, and what moves their bytes."""

from __future__ import annotations

import io
import os
import queue
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.weights.safetensors import Tensor

Array = Any  # a torch.Tensor or a numpy.ndarray


class Descriptor(io.FileIO):
    """An open file that closes when its last user, a thread or a mapping, drops it.

    It is a subclass so that opening is one step: an exception injected between opening and wrapping
    would leak the descriptor.
    """

    def __del__(self) -> None:
        self.close()

    @classmethod
    def copy(cls, fd: int) -> Descriptor:
        """Return a new descriptor for the file that `fd` is open on."""
        return cls(os.dup(fd))

    @property
    def fd(self) -> int:
        """The descriptor's number."""
        return self.fileno()


@dataclass(frozen=True)
class FileSnapshot:
    """A file of `size` bytes, of which the `landed` spans are on disk.

    Attributes:
        file: the file, open for reading.
        size: its final size in bytes.
        landed: the bytes that are there.
        life: tells a file from its replacement after fetching began again.
    """

    file: Descriptor
    size: int
    landed: Spans = field(compare=False)
    life: int = 0

    @classmethod
    def whole(cls, file: Descriptor, life: int = 0) -> FileSnapshot:
        """Return a snapshot of a complete file."""
        size = os.fstat(file.fd).st_size
        return cls(file, size, Spans([Span(0, size)]), life)


class Wakeup:
    """Wakes the thread that waits for bytes.

    The waiting thread can be interrupted at any bytecode, so this uses no Python lock: one left
    locked would block the threads of the transfer. SimpleQueue's own lock is taken and released in
    C.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def tell(self) -> None:
        """Wake the waiting thread: something has happened."""
        self._told.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until `tell` was called since the last wait, for at most `seconds`."""
        with suppress(queue.Empty):
            self._told.get(timeout=seconds)
            while True:
                self._told.get_nowait()


class DeviceCopier(Protocol):
    """Moves the bytes of one file to the device of its tensors."""

    def move(self, tensor: Tensor, span: Span) -> None:
        """Move the bytes `span` of `tensor`, which have landed. Called from several threads.

        Raises:
            OSError: the file cannot be read.
        """

    def finish(self, tensor: Tensor) -> Array:
        """Return `tensor` as an array, after all of its bytes have been moved."""
