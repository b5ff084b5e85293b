"""Where tensors are to be, and what brings them there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgetpy.errors import BadSettingError
from pgetpy.tensors.arrays import Framework, TorchFramework, framework_for
from pgetpy.tensors.base import Descriptor, DeviceCopier
from pgetpy.tensors.cuda import Cuda
from pgetpy.tensors.host import HostCopier
from pgetpy.tensors.readers import THREADS
from pgetpy.tensors.staging import Accelerator, Ring, StagedCopier


@dataclass(frozen=True)
class Device:
    """Where tensors are to be.

    Attributes:
        framework: what makes them.
        copier: returns what brings the tensors of a file, which has so many bytes, here.
    """

    framework: Framework
    copier: Callable[[Descriptor, int], DeviceCopier]


def host_device(framework: Framework, onward: Any = None) -> Device:
    """Return the host's memory.

    Where `onward` is a device of torch, one that has no way of its own here, each tensor goes on to
    it.
    """
    return Device(framework, lambda file, size: HostCopier(file, size, framework, onward))


def staged_device(framework: TorchFramework, accelerator: Accelerator) -> Device:
    """Return the memory of an accelerator, reached through one ring of buffers for all files."""
    ring = Ring(accelerator, THREADS + 2)
    return Device(framework, lambda file, _: StagedCopier(file, framework, accelerator, ring))


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
        return host_device(chosen)
    torch = chosen.torch
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadSettingError("device", str(device), "is no device of torch") from None
    if named.type == "cpu":
        return host_device(chosen)
    if named.type == "cuda":
        if not torch.cuda.is_available():
            raise BadSettingError("device", str(device), "is not there: torch sees no CUDA device")
        return staged_device(chosen, Cuda(torch, named))
    return host_device(chosen, named)
