"""A CUDA device: page-locked buffers, and copies on a stream of their own."""

from __future__ import annotations

from typing import Any

from pgetpy.tensors.base import Array
from pgetpy.tensors.staging import Event


class Cuda:
    """See `staging.Accelerator`.

    Args:
        torch: the module.
        device: a torch.device of type cuda.
    """

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def empty(self, size: int) -> Array:
        """See `Accelerator.empty`."""
        torch = self._torch
        found = torch.empty(size, dtype=torch.uint8, device=self._device)
        # The allocator knows of one stream only. Work of that one may still read what stood here;
        # and should the tensor be dropped half filled, its memory is not to be given out before
        # ours has stopped writing to it.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        found.record_stream(self._stream)
        return found

    def buffer(self, size: int) -> Array:
        """See `Accelerator.buffer`."""
        return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)

    def copy(self, target: Array, source: Array) -> Event:
        """See `Accelerator.copy`."""
        with self._torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            event: Event = self._stream.record_event()
        return event
