"""Hot swapping on a diffusers pipeline: the calls, and peft's scales as tensors.

After `enable_lora_hotswap`, diffusers prepares each adapter as it loads it: matrices padded to one
rank, scales held in tensors. `set_adapters` would replace these tensors by Python numbers, which
the compiled graph has baked in as constants, and it computes them from the rank and alpha of the
first adapter. So this module sets the scales itself, in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from pgetpy.errors import BadSettingError
from pgetpy.lora.base import parts_of
from pgetpy.lora.pipeline import Pipeline


class Swaps(Pipeline, Protocol):
    """A pipeline whose adapters can be replaced in place."""

    def enable_lora_hotswap(self, *, target_rank: int, check_compiled: str) -> object:
        """Prepare adapters loaded from now on for ranks up to `target_rank`."""


def swaps(pipeline: object) -> TypeGuard[Swaps]:
    """Whether the adapters of `pipeline` can be replaced in place."""
    return callable(getattr(pipeline, "enable_lora_hotswap", None))


def check_rank(pipeline: Pipeline, rank: int | None) -> None:
    """Check that the pipeline can swap adapters up to this rank.

    Raises:
        BadSettingError: the rank is not a whole number above 0, or the pipeline cannot swap.
    """
    if rank is None:
        return
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise BadSettingError("hotswap_rank", rank, "is not a whole number above 0")
    if not swaps(pipeline):
        kind = type(pipeline).__name__
        raise BadSettingError("hotswap_rank", rank, f"{kind} has no enable_lora_hotswap")


def prepared_rank(pipeline: object) -> int | None:
    """Return the rank that the caller enabled hot swapping for; None if not enabled."""
    for part in (parts_of(pipeline) or {}).values():
        # diffusers records it nowhere else.
        options = getattr(part, "_prepare_lora_hotswap_kwargs", None)
        if isinstance(options, Mapping) and isinstance(options.get("target_rank"), int):
            return int(options["target_rank"])
    return None


def swapping_parts(pipeline: object) -> dict[str, bool]:
    """Return for each component whether its adapters can be replaced in place."""
    parts = parts_of(pipeline) or {}
    return {
        name: callable(getattr(part, "enable_lora_hotswap", None)) for name, part in parts.items()
    }


def prepare(pipeline: Pipeline, rank: int) -> None:
    """Have adapters loaded from now on prepared for hot swapping.

    `check_compiled="ignore"`: diffusers would warn that the model may be compiled already, which is
    the normal case here.
    """
    assert swaps(pipeline)
    pipeline.enable_lora_hotswap(target_rank=rank, check_compiled="ignore")


def activate(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Make these adapters the active ones without touching their scales."""
    for part in (parts_of(pipeline) or {}).values():
        here = getattr(part, "peft_config", None)
        if here:
            part.set_adapter([name for name in names if name in here])


def reset_scales(pipeline: Pipeline, name: str) -> None:
    """Set the scales of an adapter to 1.

    Swapping sets the scale of each module that the new LoRA changes. Modules that it does not
    change would keep the scale of the LoRA before.
    """
    for scale in _scales(pipeline, name):
        scale.fill_(1.0)


def multiply_scales(pipeline: Pipeline, name: str, factor: float) -> None:
    """Multiply the scales of an adapter, which hold the file's own alpha / rank."""
    for scale in _scales(pipeline, name):
        scale.mul_(factor)


def _scales(pipeline: Pipeline, name: str) -> Iterator[Any]:
    """Yield the scale tensors of an adapter, one for each module that it changes."""
    for part in (parts_of(pipeline) or {}).values():
        for module in part.modules():
            scaling = getattr(module, "scaling", None)
            if isinstance(scaling, dict) and name in scaling:
                yield scaling[name]
