"""Tensors on an accelerator, through a ring of host buffers that its copy engine can read.

    page cache --read--> [buffer] --async copy--> device
                         [buffer]   in flight
                         [buffer]   in flight
                            ^----- reused once its copy is done

A buffer is filled from the page cache while earlier ones are still being copied. Host memory is
limited to the ring, however large the file is.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Protocol

from pgetpy.core.http.ranges import Span
from pgetpy.core.weights.safetensors import Tensor
from pgetpy.tensors.arrays import TorchFramework, shape_in_torch
from pgetpy.tensors.base import Array, Descriptor
from pgetpy.tensors.readers import BLOCK


class Event(Protocol):
    """An operation that is under way on an accelerator."""

    def synchronize(self) -> None:
        """Wait until it is done."""


class Accelerator(Protocol):
    """A device with memory of its own."""

    def empty(self, size: int) -> Array:
        """Return `size` bytes of device memory, as a flat torch.uint8 tensor."""

    def buffer(self, size: int) -> Array:
        """Return `size` bytes of host memory that the device can read, as a flat torch.uint8
        tensor."""

    def copy(self, target: Array, source: Array) -> Event:
        """Start copying `source`, in a `buffer`, to `target`, in device memory."""


class Ring:
    """At most `count` buffers, made when first needed, each reused once it has been copied.

    Buffers are reused in the order in which they came back: the oldest copy is likeliest done.
    """

    def __init__(self, accelerator: Accelerator, count: int) -> None:
        self._accelerator = accelerator
        self._free: queue.SimpleQueue[tuple[Array, Event | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unmade = count

    def take(self) -> Array:
        """Return a free buffer of BLOCK bytes, waiting for one if necessary."""
        with self._lock:
            make = self._free.empty() and self._unmade > 0
            self._unmade -= make
        if make:
            return self._make()
        buffer, event = self._free.get()
        if event is not None:
            event.synchronize()
        return buffer

    def _make(self) -> Array:
        try:
            return self._accelerator.buffer(BLOCK)
        except BaseException:
            # Let another thread try: it may succeed, or a buffer may come back.
            with self._lock:
                self._unmade += 1
            raise

    def give_back(self, buffer: Array, event: Event | None) -> None:
        """Return a buffer; it is reused after `event`."""
        self._free.put((buffer, event))


@dataclass(eq=False)
class StagedCopier:
    """Moves the tensors of a file to an accelerator through the buffers of `ring`."""

    file: Descriptor
    framework: TorchFramework
    accelerator: Accelerator
    ring: Ring
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _targets: dict[Tensor, Array] = field(default_factory=dict)
    _events: dict[Tensor, list[Event]] = field(default_factory=lambda: defaultdict(list))

    def move(self, tensor: Tensor, span: Span) -> None:
        """See `DeviceCopier.move`."""
        target = self._target(tensor)
        buffer = self.ring.take()
        event = None
        try:
            source = buffer[: span.size]
            self._read(source, span)
            at = span.start - tensor.start
            event = self.accelerator.copy(target[at : at + span.size], source)
        finally:
            self.ring.give_back(buffer, event)
        with self._lock:
            self._events[tensor].append(event)

    def finish(self, tensor: Tensor) -> Array:
        """See `DeviceCopier.finish`."""
        target = self._target(tensor)
        for event in self._events.pop(tensor, ()):
            event.synchronize()
        del self._targets[tensor]
        found = target.view(self.framework.dtype_of(tensor)).reshape(shape_in_torch(tensor))
        return self.framework.convert(found)

    def _target(self, tensor: Tensor) -> Any:
        with self._lock:
            if tensor not in self._targets:
                self._targets[tensor] = self.accelerator.empty(tensor.stop - tensor.start)
            return self._targets[tensor]

    def _read(self, buffer: Array, span: Span) -> None:
        # By address, not through numpy, which need not be installed.
        at = (ctypes.c_char * span.size).from_address(buffer.data_ptr())
        view, pos = memoryview(at).cast("B"), 0
        while pos < span.size:
            count = os.preadv(self.file.fd, [view[pos:]], span.start + pos)
            if not count:
                raise OSError(errno.EIO, "has become shorter")
            pos += count
