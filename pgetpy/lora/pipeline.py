"""Pipelines of diffusers, as far as LoRAs go: what they can do, and the calls that make them do it.

Nothing of diffusers, peft or torch is imported: whatever has these methods will do.
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
        BadSettingError: it lacks a method, has LoRAs, or torch.compile has wrapped a component.
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
    """Return why what torch.compile returned cannot be a component, and what can."""
    return (
        f"its {component} is wrapped by torch.compile, out of the reach of LoRAs: compile it in "
        f"place, by pipeline.{component}.compile()"
    )


def abilities(pipeline: Pipeline) -> Abilities:
    """Return what `pipeline` can do."""
    return Abilities(deletes(pipeline), disables(pipeline))


def load(pipeline: Pipeline, path: Path, name: str, *, component: str = "", **more: object) -> None:
    """Load the .safetensors at `path` as the adapter `name`.

    Args:
        component: what is to be filled, where that is not what the loader fills by itself.
        more: options that this loader is known to take.
    """
    options: dict[str, Any] = {"adapter_name": name, **more}
    if component in FLAGGED:
        options[f"load_into_{component}"] = True
    if takes(pipeline.load_lora_weights, "weight_name"):
        # A path alone is not enough for some versions of diffusers while the Hub is offline, and
        # a file that cannot be read would be tried as a pickle.
        options |= {"weight_name": path.name, "use_safetensors": True}
        path = path.parent
    pipeline.load_lora_weights(str(path), **options)


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


def translate(pipeline: object, path: Path) -> list[Tensor] | None:
    """Return the tensors of a file by the names that the pipeline's loader gives them.

    None where the loader does not say. Raises what the loader raises.
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
    """Return what gives the pipeline for as long as somebody else has it; then calls `gone`."""
    try:
        return weakref.ref(pipeline, lambda _: gone())
    except TypeError:
        return lambda: pipeline


def _has(pipeline: object, *names: str) -> bool:
    return all(callable(getattr(pipeline, name, None)) for name in names)


def takes(method: Callable[..., object], option: str) -> bool:
    """Whether `method` takes an option of that name, or of any."""
    found = _parameters(method)
    kinds = [parameter.kind for parameter in found.values()]
    return option in found or inspect.Parameter.VAR_KEYWORD in kinds


def _parameters(method: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(method).parameters
    except (TypeError, ValueError):
        return {}
