"""Devices that tensors can be on, and what moves bytes there."""

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
    """A place for tensors.

    Attributes:
        framework: what makes the arrays.
        copier: makes the copier for an open file of the given size in bytes.
    """

    framework: Framework
    copier: Callable[[Descriptor, int], DeviceCopier]


def host_device(framework: Framework, onward: Any = None) -> Device:
    """Return a device for the host's memory.

    Args:
        onward: a torch device without a path of its own here (mps, xpu): each tensor is made on the
            host and then moved there by torch.
    """
    return Device(framework, lambda file, size: HostCopier(file, size, framework, onward))


def staged_device(framework: TorchFramework, accelerator: Accelerator) -> Device:
    """Return a device for an accelerator's memory, with one ring of buffers for all files."""
    ring = Ring(accelerator, THREADS + 2)
    return Device(framework, lambda file, _: StagedCopier(file, framework, accelerator, ring))


def device_for(device: Any, dtype: Any, framework: str | None) -> Device:
    """Return the device that a caller names.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, or a torch.device.
        dtype: see `arrays.framework_for`.
        framework: see `arrays.framework_for`.

    Raises:
        BadSettingError: the device does not exist.
        MissingPackageError: a package that it needs is not installed.
    """
    chosen = framework_for(framework, dtype)
    if not isinstance(chosen, TorchFramework):
        if str(device) != "cpu":
            raise BadSettingError("device", str(device), "needs torch; numpy has the cpu only")
        return host_device(chosen)
    torch = chosen.torch
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        raise BadSettingError("device", str(device), "is not a torch device") from None
    if named.type == "cpu":
        return host_device(chosen)
    if named.type == "cuda":
        if not torch.cuda.is_available():
            raise BadSettingError("device", str(device), "is not available: torch finds no GPU")
        return staged_device(chosen, Cuda(torch, named))
    return host_device(chosen, named)
