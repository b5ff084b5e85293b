"""The file of a LoRA: whether it may be loaded, and what its adapter is called."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pgetpy.core.lora.adapters import Base, Finding, compare
from pgetpy.core.weights.safetensors import SafetensorsHeader, read_header
from pgetpy.errors import BadLoraError, BadSafetensorsError, WrongBaseModelError


def check_lora(slot: str, reference: str, path: Path, base: Base) -> Finding:
    """Return what the file at `path` is, if it may be loaded into `base`.

    Args:
        slot, reference: what it is meant for, and where it is from; for the errors alone.

    Raises:
        WrongBaseModelError: it is for another base.
        BadLoraError: it is no LoRA.
    """
    try:
        header = _header_of(path)
    except IsADirectoryError:
        raise BadLoraError(slot, reference, "it is a folder") from None
    except BadSafetensorsError as error:
        raise BadLoraError(slot, reference, f"as safetensors, {error.reason}") from None
    finding = compare(header.tensors, base)
    if finding.no_lora:
        raise BadLoraError(slot, reference, finding.no_lora)
    if finding.contradiction:
        raise WrongBaseModelError(slot, reference, finding.contradiction)
    return finding


def _header_of(path: Path) -> SafetensorsHeader:
    with open(path, "rb") as file:
        fd = file.fileno()
        return read_header(lambda count: os.pread(fd, count, 0), os.fstat(fd).st_size)


def adapter_name(path: Path) -> str:
    """Return what the adapter of a file is called: the same for the same file, in every process.

    peft takes no dots, and diffusers looks for one name inside others.
    """
    status = os.stat(path)
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return f"pget_{hashlib.sha256(repr(file).encode()).hexdigest()[:16]}"
