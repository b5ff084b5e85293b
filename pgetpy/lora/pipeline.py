"""diffusers pipelines as far as LoRAs go: what they can do, and the calls that do it.

Nothing here imports diffusers, peft or torch: anything with these methods will do.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from pgetpy.core.lora.composition import Abilities
from pgetpy.core.weights.safetensors import Tensor
from pgetpy.errors import BadSettingError
from pgetpy.lora.base import FLAGGED, adapters_in, wrapped_in
from pgetpy.system.model_loads import loading, without_bars


class Pipeline(Protocol):
    """What every pipeline that takes LoRAs has, besides `Deletes` or `Unloads` or both."""

    def load_lora_weights(self, path: str, /, *, adapter_name: str) -> object:
        """Load the safetensors file at `path` as an adapter."""

    def set_adapters(self, adapter_names: list[str], /, *, adapter_weights: list[float]) -> object:
        """Make these adapters, and no others, active at these scales."""


class Deletes(Protocol):
    """A pipeline that can remove single adapters."""

    def delete_adapters(self, adapter_names: list[str], /) -> object:
        """Remove these adapters; names that are not loaded must be ignored."""


class Unloads(Protocol):
    """A pipeline that can remove all adapters at once."""

    def unload_lora_weights(self) -> object:
        """Remove all adapters and restore the base."""


class Disables(Protocol):
    """A pipeline that can act as its base while adapters stay loaded."""

    def disable_lora(self) -> object:
        """Ignore all adapters."""

    def enable_lora(self) -> object:
        """Use the active adapters again."""


def deletes(pipeline: object) -> TypeGuard[Deletes]:
    """Whether `pipeline` can remove single adapters."""
    return _has(pipeline, "delete_adapters")


def unloads(pipeline: object) -> TypeGuard[Unloads]:
    """Whether `pipeline` can remove all adapters at once."""
    return _has(pipeline, "unload_lora_weights")


def disables(pipeline: object) -> TypeGuard[Disables]:
    """Whether `pipeline` can ignore its adapters."""
    return _has(pipeline, "disable_lora", "enable_lora")


def check_pipeline(pipeline: object) -> None:
    """Check that LoRAs can be composed on `pipeline`.

    Raises:
        BadSettingError: it lacks a method, has LoRAs already, or torch.compile has wrapped a
            component.
    """
    kind = type(pipeline).__name__
    for name in ("load_lora_weights", "set_adapters"):
        if not _has(pipeline, name):
            raise BadSettingError("pipeline", kind, f"has no {name}")
    if not deletes(pipeline) and not unloads(pipeline):
        reason = "has neither delete_adapters nor unload_lora_weights"
        raise BadSettingError("pipeline", kind, reason)
    wrapped = wrapped_in(pipeline)
    if wrapped:
        raise BadSettingError("pipeline", kind, how_to_compile(wrapped))
    own = adapters_in(pipeline)
    if own:
        reason = (
            f"has LoRAs of its own ({', '.join(sorted(own))}): call unload_lora_weights() first"
        )
        raise BadSettingError("pipeline", kind, reason)


def how_to_compile(component: str) -> str:
    """Return why a wrapped component cannot take LoRAs, and how to compile it instead."""
    return (
        f"its {component} is wrapped by torch.compile, where LoRAs cannot reach it: compile it "
        f"in place with pipeline.{component}.compile()"
    )


def abilities(pipeline: Pipeline) -> Abilities:
    """Return what `pipeline` can do."""
    return Abilities(deletes(pipeline), disables(pipeline))


def load(pipeline: Pipeline, path: Path, name: str, *, component: str = "", **more: object) -> None:
    """Load the safetensors file at `path` as adapter `name`; no other thread loads a model then.

    Args:
        component: the component to fill, if the loader would not choose it by itself.
        more: extra options that this loader is known to take.
    """
    options: dict[str, Any] = {"adapter_name": name, **more}
    if component in FLAGGED:
        options[f"load_into_{component}"] = True
    if takes(pipeline.load_lora_weights, "weight_name"):
        # With a bare path, some versions of diffusers fail while the Hub is offline, and try a file
        # that they cannot read as a pickle.
        options |= {"weight_name": path.name, "use_safetensors": True}
        path = path.parent
    with loading(), without_bars():
        pipeline.load_lora_weights(str(path), **options)


def unload(pipeline: Pipeline, names: Sequence[str]) -> None:
    """Remove everything; `names` lists all adapters that may be loaded."""
    if not unloads(pipeline):
        assert deletes(pipeline)
        pipeline.delete_adapters(list(names))
        if disables(pipeline):
            pipeline.enable_lora()
        return
    options: dict[str, Any] = {}
    # Without this option, modules that a LoRA has widened stay wide.
    if "reset_to_overwritten_params" in _parameters(pipeline.unload_lora_weights):
        options["reset_to_overwritten_params"] = True
    pipeline.unload_lora_weights(**options)


def translate(pipeline: object, path: Path) -> list[Tensor] | None:
    """Return the tensors of a file under the names that the pipeline's loader gives them.

    diffusers converts the naming schemes of other trainers (kohya, ComfyUI and more) while it
    loads. Asking its converter avoids a second copy of these rules here.

    Returns:
        The tensors, or None if the pipeline has no `lora_state_dict`. Errors of the loader pass
        through.
    """
    read = getattr(pipeline, "lora_state_dict", None)
    if not callable(read):
        return None
    options: dict[str, Any] = {"weight_name": path.name, "use_safetensors": True}
    unet = getattr(pipeline, "unet", None)
    if unet is not None:
        options["unet_config"] = unet.config
    found = read(str(path.parent), **options)
    tensors = found[0] if isinstance(found, tuple) else found
    return [
        Tensor(name, str(tensor.dtype), tuple(tensor.shape), 0, 0)
        for name, tensor in tensors.items()
    ]


def reference_to(pipeline: Pipeline, gone: Callable[[], object]) -> Callable[[], Pipeline | None]:
    """Return a function that gives the pipeline while others keep it alive.

    Args:
        gone: is called when the pipeline has been garbage collected.
    """
    try:
        return weakref.ref(pipeline, lambda _: gone())
    except TypeError:
        return lambda: pipeline


def _has(pipeline: object, *names: str) -> bool:
    return all(callable(getattr(pipeline, name, None)) for name in names)


def takes(method: Callable[..., object], option: str) -> bool:
    """Whether `method` takes a keyword option of that name, or any keyword."""
    found = _parameters(method)
    kinds = [parameter.kind for parameter in found.values()]
    return option in found or inspect.Parameter.VAR_KEYWORD in kinds


def _parameters(method: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(method).parameters
    except (TypeError, ValueError):
        return {}
