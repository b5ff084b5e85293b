"""What the rooms of tensors share: files of which more and more has landed, and what moves them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pgetpy.core.ranges import Span, Spans
from pgetpy.core.safetensors import Tensor

Array = Any  # a torch.Tensor or a numpy.ndarray


class Descriptor:
    """A file that stays open for as long as anybody reads from it, be he in a thread or mapped."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)

    @classmethod
    def copied(cls, fd: int) -> Descriptor:
        """Return one of its own for what `fd` is open on."""
        return cls(os.dup(fd))


@dataclass(frozen=True)
class Holding:
    """A file of `size` bytes, of which `landed` is there.

    `life` tells a file from the one that took its place when its fetching began anew.
    """

    file: Descriptor
    size: int
    landed: Spans = field(compare=False)
    life: int = 0

    @classmethod
    def whole(cls, file: Descriptor, life: int = 0) -> Holding:
        """Return what `file` holds when all of it has come."""
        size = os.fstat(file.fd).st_size
        return cls(file, size, Spans([Span(0, size)]), life)


class News:
    """Wakes whoever waits for bytes when something has happened."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = threading.Condition()

    def tell(self) -> None:
        """Something has happened."""
        with self._moved:
            self.count += 1
            self._moved.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until more has happened than `seen`, at most `seconds`."""
        with self._moved:
            if self.count == seen:
                self._moved.wait(seconds)


class Mover(Protocol):
    """Brings the bytes of one file to where its tensors are."""

    def move(self, tensor: Tensor, span: Span) -> None:
        """Bring the bytes `span`, which have landed, of `tensor`. Called in several threads.

        Raises:
            OSError: they cannot be read.
        """

    def finished(self, tensor: Tensor) -> Array:
        """Return `tensor`, all of whose bytes have been moved."""
