"""CUDA devices: page-locked buffers, and copies on a stream of their own.

Only page-locked memory can be read by the GPU's copy engine while the CPU goes on, and a separate
stream keeps the copies from queueing behind the caller's kernels.
"""

from __future__ import annotations

from typing import Any

from pgetpy.tensors.base import Array
from pgetpy.tensors.staging import Event


class Cuda:
    """A CUDA device; see `staging.Accelerator`.

    Args:
        torch: the torch module, imported by the caller.
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
        # torch's caching allocator tracks one stream only. The memory it returns may still be read
        # by work queued on the current stream, so our stream waits for that first. And if the
        # tensor is dropped half filled, its memory must not be reused before our stream has stopped
        # writing to it: record_stream says so.
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
