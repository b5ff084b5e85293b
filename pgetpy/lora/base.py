"""What a pipeline is made of, as far as LoRAs can change it, and how it is made so again.

Nothing of diffusers, peft or torch is imported: whatever has modules by name will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pgetpy.core.lora.adapters import Base, Widths
from pgetpy.errors import NotRestoredError

# Where torch.compile puts a module that it is called with.
_WRAPPED = "_orig_mod"
# Where peft puts a module that it adds to.
_ADAPTED = "base_layer"
# What loaders fill only if asked, by keyword `load_into_NAME`, with what files name by the other.
FLAGGED = {"transformer_2": "transformer"}


def parts_of(pipeline: object) -> dict[str, Any] | None:
    """Return the components that take LoRAs, by name; None where that is unknown.

    It is known from the list that diffusers goes by itself, under a private name.
    """
    names = getattr(pipeline, "_lora_loadable_modules", None)
    if not isinstance(names, list | tuple) or not names:
        return None
    parts = {str(name): getattr(pipeline, str(name), None) for name in names}
    return {name: part for name, part in parts.items() if part is not None}


def base_of(pipeline: object) -> Base:
    """Return what LoRAs would be loaded into."""
    parts = parts_of(pipeline)
    if parts is None:
        return Base()
    # Whose loaders change widths have these methods, for the one component of this name.
    own = frozenset({str(getattr(pipeline, "transformer_name", "transformer"))})
    widens = hasattr(pipeline, "_maybe_expand_transformer_param_shape_or_error_")
    pads = hasattr(pipeline, "_maybe_expand_lora_state_dict")
    return Base(
        {name: _widths(part) for name, part in parts.items()},
        widens=own if widens else frozenset(),
        pads=own if pads else frozenset(),
        flagged={name: FLAGGED[name] for name in parts if name in FLAGGED},
    )


def wrapped_in(pipeline: object) -> str:
    """Return the component that is inside of what torch.compile returned; empty where none is."""
    for component, part in (parts_of(pipeline) or {}).items():
        if any(_WRAPPED in name.split(".") for name in _modules(part)):
            return component
    return ""


def adapters_in(pipeline: object) -> frozenset[str]:
    """Return the names of the adapters in the pipeline, whoever has loaded them."""
    found: set[str] = set()
    for part in (parts_of(pipeline) or {}).values():
        configs = getattr(part, "peft_config", None)
        found.update(configs if isinstance(configs, Mapping) else ())
    return frozenset(found)


@dataclass(frozen=True)
class Originals:
    """What a pipeline consists of while something else may stand in its place.

    Attributes:
        modules: those whose widths may be changed, by component and name. They are put back as
            objects: who makes one wider puts another in its place.
        values: copies of small parameters that are overwritten in place.
        inputs: what each component's configuration says of its inputs.
        parts: the components themselves.
    """

    parts: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Any]


def keep_originals(pipeline: object) -> Originals:
    """Return what has to be put back after LoRAs that change the base."""
    parts = parts_of(pipeline) or {}
    return Originals(
        parts,
        {name: _with_widths(part) for name, part in parts.items()},
        {name: _small_values(part) for name, part in parts.items()},
        {name: _inputs(part) for name, part in parts.items()},
    )


def put_back(originals: Originals) -> None:
    """Make the components consist of what was kept."""
    for component, part in originals.parts.items():
        present = _modules(part)
        for name, module in originals.modules[component].items():
            parent, _, leaf = name.rpartition(".")
            # What is not there any more was taken out by somebody else: LoRAs take nothing out.
            if present.get(name, module) is not module:
                setattr(present[parent], leaf, _where(part, module))
        values = _parameters(part)
        for name, value in originals.values[component].items():
            if name in values:
                values[name].data.copy_(value)
        if originals.inputs[component] != _inputs(part):
            part.config.in_channels = originals.inputs[component]
        # Copies of the loader's own, which are of no more use and grow old.
        if getattr(part, "_overwritten_params", None) is not None:
            part._overwritten_params = None


def modules_in(parts: Iterable[Any]) -> list[Any]:
    """Return what LoRAs change: the components, and their modules that have widths."""
    return [each for part in parts for each in (part, *_with_widths(part).values())]


def check_base(pipeline: object, base: Base) -> None:
    """Check that the pipeline is what it was when `base` was taken of it.

    Raises:
        NotRestoredError: it is not.
    """
    if base.components is None:
        return
    for component, part in (parts_of(pipeline) or {}).items():
        now = _widths(part)
        for name, was in base.components.get(component, {}).items():
            if now.get(name, was) != was:
                raise NotRestoredError(_change(f"{name} of {component}", now[name], was))
        if any(name.endswith(f".{_ADAPTED}") for name in now.keys() - base.components[component]):
            raise NotRestoredError(f"adapters are left in {component}")
    left = adapters_in(pipeline)
    if left:
        raise NotRestoredError(f"adapters are left in it ({', '.join(sorted(left))})")


def _change(module: str, now: Widths, was: Widths) -> str:
    is_now = f"{now.inputs} inputs and {now.outputs} outputs"
    return f"{module} has {is_now}, and had {was.inputs} and {was.outputs}"


def _widths(part: Any) -> Mapping[str, Widths]:
    found = ((name, _width(module)) for name, module in _modules(part).items())
    return {name: widths for name, widths in found if widths is not None}


def _with_widths(part: Any) -> dict[str, Any]:
    return {name: module for name, module in _modules(part).items() if name and _width(module)}


def _modules(part: Any) -> dict[str, Any]:
    named = getattr(part, "named_modules", None)
    return dict(named()) if callable(named) else {}


def _width(module: object) -> Widths | None:
    """Return the widths of a linear layer or a convolution, as either class calls them."""
    # Whole models answer for their configuration as well, with a warning.
    own = getattr(module, "__dict__", {})
    if own.get("groups", 1) != 1:
        return None
    kinds = ((True, "in_features", "out_features"), (False, "in_channels", "out_channels"))
    for linear, inputs, outputs in kinds:
        here, there = own.get(inputs), own.get(outputs)
        if isinstance(here, int) and isinstance(there, int):
            biased = (own.get("_parameters") or {}).get("bias") is not None
            return Widths(here, there, linear, biased)
    return None


def _parameters(part: Any) -> dict[str, Any]:
    named = getattr(part, "named_parameters", None)
    return dict(named()) if callable(named) else {}


def _small_values(part: Any) -> dict[str, Any]:
    """Return copies of the vectors, such as those of norms: LoRAs overwrite no others."""
    wide = _with_widths(part)
    return {
        name: value.detach().clone()
        for name, value in _parameters(part).items()
        if value.dim() <= 1 and name.rpartition(".")[0] not in wide
    }


def _inputs(part: Any) -> Any:
    return getattr(getattr(part, "config", None), "in_channels", None)


def _where(part: Any, module: Any) -> Any:
    """Return the module where the component is now: what stood outside was not moved with it."""
    device = getattr(part, "device", None)
    return module if device is None else module.to(device)
