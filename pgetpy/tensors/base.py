"""What the rooms of tensors share: files of which more and more has landed, and what moves them."""

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
    """A file that stays open for as long as anybody reads from it, be he in a thread or mapped.

    Its making is one step, between whose parts no exception can be injected.
    """

    def __del__(self) -> None:
        self.close()

    @classmethod
    def copy(cls, fd: int) -> Descriptor:
        """Return one of its own for what `fd` is open on."""
        return cls(os.dup(fd))

    @property
    def fd(self) -> int:
        """Its number."""
        return self.fileno()


@dataclass(frozen=True)
class FileSnapshot:
    """A file of `size` bytes, of which `landed` is there.

    `life` tells a file from the one that took its place when its fetching began anew.
    """

    file: Descriptor
    size: int
    landed: Spans = field(compare=False)
    life: int = 0

    @classmethod
    def whole(cls, file: Descriptor, life: int = 0) -> FileSnapshot:
        """Return what `file` holds when all of it has come."""
        size = os.fstat(file.fd).st_size
        return cls(file, size, Spans([Span(0, size)]), life)


class Wakeup:
    """Wakes the one who waits for bytes when something has happened.

    He may be interrupted anywhere, so nothing here is locked by means of Python: a lock that he
    left behind would stop those who tell, and with them all that they do.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def tell(self) -> None:
        """Something has happened."""
        self._told.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until something has happened since the last call, at most `seconds`."""
        with suppress(queue.Empty):
            self._told.get(timeout=seconds)
            while True:
                self._told.get_nowait()


class DeviceCopier(Protocol):
    """Brings the bytes of one file to where its tensors are."""

    def move(self, tensor: Tensor, span: Span) -> None:
        """Bring the bytes `span`, which have landed, of `tensor`. Called in several threads.

        Raises:
            OSError: they cannot be read.
        """

    def finish(self, tensor: Tensor) -> Array:
        """Return `tensor`, all of whose bytes have been moved."""
