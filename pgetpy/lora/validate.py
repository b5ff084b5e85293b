"""Checks on a LoRA file: whether it may be loaded, and the name of its adapter."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pgetpy.core.lora.adapters import Base, Finding, compare
from pgetpy.core.weights.safetensors import SafetensorsHeader, Tensor, read_header
from pgetpy.errors import BadLoraError, BadSafetensorsError, BadSettingError, WrongBaseModelError

# Loaders' messages may list every tensor of the file; this many characters are enough.
LONGEST_WORDS = 200
# Returns the tensors of a file by the names that the loader gives them, None where it cannot say.
Translation = Callable[[Path], Sequence[Tensor] | None]


def check_lora(
    slot: str, reference: str, path: Path, base: Base, translate: Translation, component: str = ""
) -> Finding:
    """Check that the file at `path` may be loaded into `base`, and return what it is.

    Args:
        slot: the slot that it is for, used in errors only.
        reference: where it is from, used in errors only.
        base: the pipeline's modules.
        translate: called if the names in the file are not clear by themselves.
        component: the only component that it may change; "" for any.

    Raises:
        WrongBaseModelError: it was made for another base model.
        BadLoraError: it is not a LoRA, or would have no effect.
    """
    try:
        header = _header_of(path)
    except IsADirectoryError:
        raise BadLoraError(slot, reference, "it is a folder") from None
    except BadSafetensorsError as error:
        raise BadLoraError(slot, reference, f"as safetensors, {error.reason}") from None
    seen = base.seen_by(component)
    finding = compare(header.tensors, seen)
    if finding.unclear and not finding.no_lora:
        finding = _translated(slot, reference, path, seen, translate) or finding
    if finding.no_lora:
        raise BadLoraError(slot, reference, finding.no_lora)
    if finding.contradiction:
        raise WrongBaseModelError(slot, reference, finding.contradiction)
    if component in base.flagged:
        pairs = {(component, module): pair for (_, module), pair in finding.pairs.items()}
        finding = replace(finding, pairs=pairs)
    others = {part for part, _ in finding.pairs} - {component}
    if component and others:
        raise BadLoraError(slot, reference, f"it changes {', '.join(sorted(others))} as well")
    return finding


def _translated(
    slot: str, reference: str, path: Path, base: Base, translate: Translation
) -> Finding | None:
    """Return the finding for the tensors as the pipeline's loader names them; None if it cannot."""
    try:
        tensors = translate(path)
    except Exception as error:  # whatever the loader raises for what it cannot read
        words = " ".join(str(error).split())[:LONGEST_WORDS]
        reason = f"the pipeline cannot read it ({type(error).__name__}: {words})"
        raise BadLoraError(slot, reference, reason) from error
    return None if tensors is None else compare(tensors, base, translated=True)


def check_component(slot: str, component: str, base: Base) -> None:
    """Check that the pipeline has the component that a slot names.

    Raises:
        BadSettingError: it does not.
    """
    if component and base.components is not None and component not in base.components:
        has = ", ".join(base.components) or "none"
        what = f"the component of slot {slot!r}"
        raise BadSettingError(
            what, component, f"is not a part of the pipeline that takes LoRAs: {has}"
        )


def _header_of(path: Path) -> SafetensorsHeader:
    with open(path, "rb") as file:
        fd = file.fileno()
        return read_header(lambda count: os.pread(fd, count, 0), os.fstat(fd).st_size)


def adapter_name(path: Path, component: str = "") -> str:
    """Return the adapter name for a file: the same for the same file, in every process.

    It is a hash since peft allows no dots in names, and diffusers searches for one name inside
    others.
    """
    status = os.stat(path)
    file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, component)
    return f"pget_{hashlib.sha256(repr(file).encode()).hexdigest()[:16]}"
