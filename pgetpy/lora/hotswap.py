"""Hot swapping on a pipeline of diffusers: the calls, and peft's scales where they are tensors.

diffusers prepares an adapter for it (matrices of one rank, scales in tensors) as it is loaded, once
`enable_lora_hotswap` was called. Its `set_adapters` would put numbers in the place of the tensors,
computed from the rank and alpha of the first adapter: the scales are set here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from pgetpy.errors import BadSettingError
from pgetpy.lora.base import parts_of
from pgetpy.lora.pipeline import Pipeline


class Swaps(Pipeline, Protocol):
    """A pipeline whose adapters can become other ones."""

    def enable_lora_hotswap(self, *, target_rank: int, check_compiled: str) -> object:
        """Prepare what is loaded next for ranks up to `target_rank`."""


def swaps(pipeline: object) -> TypeGuard[Swaps]:
    """Whether adapters of `pipeline` can become other ones."""
    return callable(getattr(pipeline, "enable_lora_hotswap", None))


def check_rank(pipeline: Pipeline, rank: int | None) -> None:
    """Check that adapters up to that rank can be swapped.

    Raises:
        BadSettingError: it is no natural number, or the pipeline swaps nothing.
    """
    if rank is None:
        return
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise BadSettingError("hotswap_rank", rank, "is no natural number above 0")
    if not swaps(pipeline):
        kind = type(pipeline).__name__
        raise BadSettingError("hotswap_rank", rank, f"{kind} has no enable_lora_hotswap")


def prepared_rank(pipeline: object) -> int | None:
    """Return the rank up to which the caller has enabled hot swapping; None if they have not."""
    for part in (parts_of(pipeline) or {}).values():
        # The only place where diffusers says so.
        options = getattr(part, "_prepare_lora_hotswap_kwargs", None)
        if isinstance(options, Mapping) and isinstance(options.get("target_rank"), int):
            return int(options["target_rank"])
    return None


def swapping_parts(pipeline: object) -> dict[str, bool]:
    """Return of each component whether its adapters can become other ones."""
    parts = parts_of(pipeline) or {}
    return {
        name: callable(getattr(part, "enable_lora_hotswap", None)) for name, part in parts.items()
    }


def prepare(pipeline: Pipeline, rank: int) -> None:
    """Have what is loaded next prepared. That the model may be compiled already is known."""
    assert swaps(pipeline)
    pipeline.enable_lora_hotswap(target_rank=rank, check_compiled="ignore")


def activate(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Make these adapters the active ones, and leave their scales alone."""
    for part in (parts_of(pipeline) or {}).values():
        here = getattr(part, "peft_config", None)
        if here:
            part.set_adapter([name for name in names if name in here])


def reset_scales(pipeline: Pipeline, name: str) -> None:
    """Set the scales of an adapter to 1: where the next one changes nothing, nobody else does."""
    for scale in _scales(pipeline, name):
        scale.fill_(1.0)


def multiply_scales(pipeline: Pipeline, name: str, factor: float) -> None:
    """Multiply the scales of an adapter, which are as its file says."""
    for scale in _scales(pipeline, name):
        scale.mul_(factor)


def _scales(pipeline: Pipeline, name: str) -> Iterator[Any]:
    for part in (parts_of(pipeline) or {}).values():
        for module in part.modules():
            scaling = getattr(module, "scaling", None)
            if isinstance(scaling, dict) and name in scaling:
                yield scaling[name]
