"""Where tensors are to be, and what brings them there."""

from __future__ import annotations

import os
from typing import Any, Protocol

from pgetpy.core.weights.safetensors import Tensor
from pgetpy.errors import BadSettingError
from pgetpy.tensors.arrays import Framework, TorchFramework, framework_for
from pgetpy.tensors.base import Array, Descriptor, DeviceCopier
from pgetpy.tensors.cuda import Cuda
from pgetpy.tensors.host import HostCopier
from pgetpy.tensors.staging import Accelerator, Ring, StagedCopier

# More of them gain nothing; each has a buffer, where there is a ring.
_MOST_THREADS = 8


class Device(Protocol):
    """Where tensors are to be.

    Attributes:
        threads: how many of them move bytes at one time.
    """

    threads: int

    @property
    def framework(self) -> Framework:
        """What makes them."""

    def copier(self, file: Descriptor, size: int) -> DeviceCopier:
        """Return what brings the tensors of `file`, which has `size` bytes, here."""


class HostDevice:
    """The host's memory."""

    def __init__(self, framework: Framework) -> None:
        self.framework = framework
        self.threads = _threads()

    def copier(self, file: Descriptor, size: int) -> DeviceCopier:
        """See `Device.copier`."""
        return HostCopier(file, size, self.framework)


class StagedDevice:
    """The memory of an accelerator, reached through one ring of buffers for all files."""

    def __init__(self, framework: TorchFramework, accelerator: Accelerator) -> None:
        self.framework = framework
        self.threads = _threads()
        self._accelerator = accelerator
        self._ring = Ring(accelerator, self.threads + 2)

    def copier(self, file: Descriptor, size: int) -> DeviceCopier:
        """See `Device.copier`."""
        return StagedCopier(file, self.framework, self._accelerator, self._ring)


class OtherDevice:
    """A device of torch that has no way of its own here: by the host's memory, tensor by tensor."""

    def __init__(self, framework: TorchFramework, device: Any) -> None:
        self.framework = framework
        self.threads = _threads()
        self._device = device

    def copier(self, file: Descriptor, size: int) -> DeviceCopier:
        """See `Device.copier`."""
        return _Onward(HostCopier(file, size, self.framework), self._device)


class _Onward:
    """What `copier` brings to the host, on another device."""

    def __init__(self, copier: DeviceCopier, device: Any) -> None:
        self.move = copier.move
        self._copier = copier
        self._device = device

    def finished(self, tensor: Tensor) -> Array:
        """See `DeviceCopier.finished`."""
        return self._copier.finished(tensor).to(self._device)


def device_for(device: Any, dtype: Any, framework: str | None) -> Device:
    """Return the device that a caller names.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, or a torch.device.
        dtype, framework: see `arrays.framework_for`.

    Raises:
        BadSettingError: there is no such device.
        MissingPackageError: what it takes is not installed.
    """
    chosen = framework_for(framework, dtype)
    if not isinstance(chosen, TorchFramework):
        if str(device) != "cpu":
            raise BadSettingError("device", str(device), "is for torch; numpy has cpu alone")
        return HostDevice(chosen)
    torch = chosen.torch
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadSettingError("device", str(device), "is no device of torch") from None
    if named.type == "cpu":
        return HostDevice(chosen)
    if named.type == "cuda":
        if not torch.cuda.is_available():
            raise BadSettingError("device", str(device), "is not there: torch sees no CUDA device")
        return StagedDevice(chosen, Cuda(torch, named))
    return OtherDevice(chosen, named)


def _threads() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)
