"""Flags of PyTorch and of the Hub's libraries, set for speed and set back on request."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pgetpy.system.logs import RoomLog

_LOG = RoomLog("pipelines")
# What diffusers recommends for compiled pipelines; compiling takes longer with it.
_INDUCTOR = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "epilogue_fusion": False,
}
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# Libraries read the variables when they are imported, and these values afterwards.
_OFFLINE_VALUES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    ("transformers.utils.hub", "_is_offline_mode"),
)


@dataclass(frozen=True)
class _Flag:
    """A value of a library or of the environment; None as a value means that it is not set."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


@dataclass
class Tuning:
    """Flags that were changed. `undo` sets them back; so does the end of a `with` block.

    Attributes:
        changed: by the name of the flag, its values before and after.
        skipped: why other flags were left as they are, by their names.
    """

    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    _flags: list[_Flag] = field(default_factory=list, repr=False)

    def set(self, flag: _Flag, value: Any) -> None:
        """Change a flag, and note its value before."""
        try:
            before = flag.read()
            if before != value:
                flag.write(value)
        except (
            Exception
        ) as error:  # flags differ between releases, and none is worth a failed start
            self.skipped[flag.name] = f"{type(error).__name__}: {error}"
            return
        if before != value:
            self.changed[flag.name] = (before, value)
            self._flags.append(flag)
            _LOG.debug("%s is now %s, and was %s", flag.name, str(value), str(before))

    def undo(self) -> None:
        """Set the flags back, except those that something else has changed since."""
        while self._flags:
            flag = self._flags.pop()
            before, after = self.changed[flag.name]
            if flag.read() == after:
                flag.write(before)

    def __enter__(self) -> Tuning:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def tune(
    *,
    tf32: bool = True,
    benchmark: bool = False,
    inductor: bool = False,
    threads: int | None = None,
) -> Tuning:
    """Set PyTorch's flags for speed. Without torch, nothing is done.

    They change results in the last digits, so use the same ones wherever images have to agree.

    Args:
        tf32: let float32 matrix products on a GPU use TensorFloat-32, which has 10 bits of
            mantissa; models in float16 and bfloat16 are not affected.
        benchmark: let cuDNN measure which convolutions are fastest. Which one wins, and so the
            last digits of images, can change from start to start.
        inductor: what diffusers recommends for torch.compile; compiling takes longer.
        threads: how many threads PyTorch uses on the CPU.

    Returns:
        What was changed; its `undo` sets it back.
    """
    tuning = Tuning()
    try:
        torch: Any = import_module("torch")
    except ImportError:
        tuning.skipped["torch"] = "it is not installed"
        return tuning
    if tf32:
        # The one function that sets the old names of this flag and the new ones.
        get, put = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
        tuning.set(_Flag("float32_matmul_precision", get, put), "high")
    if benchmark:
        tuning.set(_attribute(torch.backends.cudnn, "torch.backends.cudnn", "benchmark"), True)
    if threads is not None:
        tuning.set(_Flag("num_threads", torch.get_num_threads, torch.set_num_threads), threads)
    for name, value in _INDUCTOR.items() if inductor else ():
        config = import_module("torch._inductor.config")
        tuning.set(_attribute(config, "torch._inductor.config", name), value)
    return tuning


def go_offline() -> Tuning:
    """Keep huggingface_hub, transformers and diffusers from asking the Hub from now on.

    Call it once everything is loaded: a pipeline that then lacks a file fails at once, and no
    request waits for the Hub. Libraries that were imported before learn of it too.

    Returns:
        What was changed; its `undo` sets it back.
    """
    tuning = Tuning()
    for name in _OFFLINE_VARIABLES:
        tuning.set(_variable(name), "1")
    for module, name in _OFFLINE_VALUES:
        found = sys.modules.get(module)
        if found is not None and hasattr(found, name):
            tuning.set(_attribute(found, module, name), True)
    return tuning


def _attribute(owner: Any, path: str, name: str) -> _Flag:
    return _Flag(
        f"{path}.{name}", lambda: getattr(owner, name), lambda value: setattr(owner, name, value)
    )


def _variable(name: str) -> _Flag:
    def write(value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    return _Flag(name, lambda: os.environ.get(name), write)
