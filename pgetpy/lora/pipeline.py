"""Pipelines of diffusers, as far as LoRAs go: what they can do, and what they are made of.

Nothing of diffusers, peft or torch is imported: whatever has these methods will do.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from pgetpy.core.lora.adapters import Base, Widths
from pgetpy.core.lora.composition import Abilities
from pgetpy.errors import BadSettingError


class Pipeline(Protocol):
    """What every pipeline that takes LoRAs has; and one of `Deletes` and `Unloads`, or both."""

    def load_lora_weights(self, path: str, /, *, adapter_name: str) -> object:
        """Load the .safetensors at `path`."""

    def set_adapters(self, adapter_names: list[str], /, *, adapter_weights: list[float]) -> object:
        """Make these the active ones."""


class Deletes(Protocol):
    """A pipeline that takes single adapters out."""

    def delete_adapters(self, adapter_names: list[str], /) -> object:
        """Take them out; of names that are not loaded nothing is to be made."""


class Unloads(Protocol):
    """A pipeline that takes all adapters out."""

    def unload_lora_weights(self) -> object:
        """Bring the base back as it was before the first was loaded."""


class Disables(Protocol):
    """A pipeline that is its base at times while adapters stay loaded."""

    def disable_lora(self) -> object:
        """Leave all adapters out of account."""

    def enable_lora(self) -> object:
        """Take the active ones into account again."""


def deletes(pipeline: object) -> TypeGuard[Deletes]:
    """Whether `pipeline` takes single adapters out."""
    return _has(pipeline, "delete_adapters")


def unloads(pipeline: object) -> TypeGuard[Unloads]:
    """Whether `pipeline` takes all adapters out."""
    return _has(pipeline, "unload_lora_weights")


def disables(pipeline: object) -> TypeGuard[Disables]:
    """Whether `pipeline` can leave adapters out of account."""
    return _has(pipeline, "disable_lora", "enable_lora")


def check_pipeline(pipeline: object) -> None:
    """Check that LoRAs can be composed on `pipeline`.

    Raises:
        BadSettingError: it lacks a method.
    """
    kind = type(pipeline).__name__
    for name in ("load_lora_weights", "set_adapters"):
        if not _has(pipeline, name):
            raise BadSettingError("pipeline", kind, f"has no {name}")
    if not deletes(pipeline) and not unloads(pipeline):
        reason = "has neither delete_adapters nor unload_lora_weights"
        raise BadSettingError("pipeline", kind, reason)


def abilities(pipeline: Pipeline) -> Abilities:
    """Return what `pipeline` can do."""
    return Abilities(deletes(pipeline), disables(pipeline))


def unload(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Take everything out; `names` is what may have been loaded."""
    if not unloads(pipeline):
        assert deletes(pipeline)
        pipeline.delete_adapters(list(names))
        if disables(pipeline):
            pipeline.enable_lora()
        return
    options: dict[str, Any] = {}
    # Pipelines that have been made wider for a LoRA stay so unless asked.
    if "reset_to_overwritten_params" in _parameters(pipeline.unload_lora_weights):
        options["reset_to_overwritten_params"] = True
    pipeline.unload_lora_weights(**options)


def base_of(pipeline: object) -> Base:
    """Return what LoRAs would be loaded into.

    Which parts of a pipeline take them is known from the list that diffusers goes by itself, under
    a private name; without it nothing is known.
    """
    names = getattr(pipeline, "_lora_loadable_modules", None)
    if not isinstance(names, list | tuple) or not names:
        return Base()
    parts = {str(name): getattr(pipeline, str(name), None) for name in names}
    return Base(
        {name: _widths(part) for name, part in parts.items() if part is not None},
        widens=hasattr(pipeline, "_maybe_expand_transformer_param_shape_or_error_"),
    )


def reference_to(pipeline: Pipeline, gone: Callable[[], object]) -> Callable[[], Pipeline | None]:
    """Return what gives the pipeline for as long as somebody else has it; then calls `gone`."""
    try:
        return weakref.ref(pipeline, lambda _: gone())
    except TypeError:
        return lambda: pipeline


def _widths(part: Any) -> Mapping[str, Widths]:
    named = getattr(part, "named_modules", None)
    if not callable(named):
        return {}
    modules: Iterable[tuple[str, object]] = named()
    found = ((name, _width(module)) for name, module in modules)
    return {name: widths for name, widths in found if widths is not None}


def _width(module: object) -> Widths | None:
    """Return the widths of a linear layer or a convolution, as either class calls them."""
    # Whole models answer for their configuration as well, with a warning.
    own = getattr(module, "__dict__", {})
    if own.get("groups", 1) != 1:
        return None
    for inputs, outputs in (("in_features", "out_features"), ("in_channels", "out_channels")):
        here, there = own.get(inputs), own.get(outputs)
        if isinstance(here, int) and isinstance(there, int):
            return Widths(here, there)
    return None


def _has(pipeline: object, *names: str) -> bool:
    return all(callable(getattr(pipeline, name, None)) for name in names)


def _parameters(method: Callable[..., object]) -> Iterable[str]:
    try:
        return inspect.signature(method).parameters
    except (TypeError, ValueError):
        return ()
