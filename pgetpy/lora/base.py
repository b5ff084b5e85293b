"""What a pipeline is made of, as far as LoRAs can change it, and how to restore it.

Most LoRAs add small matrices beside a module, and unloading removes them. Some change the base
itself: diffusers replaces a module by a wider one if a LoRA needs more input channels (Flux control
LoRAs), and overwrites norm vectors in place. diffusers remembers only the last replaced module, so
this module keeps references to the original modules and copies of the small vectors, and puts them
back. After each restore, all widths are compared with those recorded at the start.

Nothing here imports diffusers, peft or torch: anything with `named_modules` will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pgetpy.core.lora.adapters import Base, Widths
from pgetpy.errors import NotRestoredError

# torch.compile(module) returns a wrapper that holds the module under this name.
_WRAPPED = "_orig_mod"
# peft wraps a module that gets an adapter, and holds the original under this name.
_ADAPTED = "base_layer"
# Components that loaders fill only when told to, by the keyword `load_into_NAME`. Files name their
# tensors by the component on the right.
FLAGGED = {"transformer_2": "transformer"}


def parts_of(pipeline: object) -> dict[str, Any] | None:
    """Return the components that take LoRAs, by name; None if the pipeline does not say.

    The list is diffusers' own, under a private name: there is no public one.
    """
    names = getattr(pipeline, "_lora_loadable_modules", None)
    if not isinstance(names, list | tuple) or not names:
        return None
    parts = {str(name): getattr(pipeline, str(name), None) for name in names}
    return {name: part for name, part in parts.items() if part is not None}


def base_of(pipeline: object) -> Base:
    """Return a description of what LoRAs would be loaded into."""
    parts = parts_of(pipeline)
    if parts is None:
        return Base()
    # The presence of these private methods shows that the loader can widen modules, or pad narrower
    # LoRAs. It does so for the one component of this name.
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
    """Return the name of a component that torch.compile has wrapped; empty if there is none."""
    for component, part in (parts_of(pipeline) or {}).items():
        if any(_WRAPPED in name.split(".") for name in _modules(part)):
            return component
    return ""


def adapters_in(pipeline: object) -> frozenset[str]:
    """Return the names of all adapters in the pipeline, including those loaded by other code."""
    found: set[str] = set()
    for part in (parts_of(pipeline) or {}).values():
        configs = getattr(part, "peft_config", None)
        found.update(configs if isinstance(configs, Mapping) else ())
    return frozenset(found)


@dataclass(frozen=True)
class Originals:
    """The original parts of a pipeline, kept while a LoRA replaces some of them.

    Attributes:
        parts: the components themselves.
        modules: modules whose widths may change, by component and name. They are put back as
            objects, since widening replaces the object.
        values: copies of small parameters that may be overwritten in place.
        inputs: the `in_channels` of each component's configuration.
    """

    parts: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Mapping[str, Any]]
    inputs: Mapping[str, Any]


def keep_originals(pipeline: object) -> Originals:
    """Return what must be put back after LoRAs that change the base.

    This takes no extra memory except for the copies of the norms.
    """
    parts = parts_of(pipeline) or {}
    return Originals(
        parts,
        {name: _with_widths(part) for name, part in parts.items()},
        {name: _small_values(part) for name, part in parts.items()},
        {name: _inputs(part) for name, part in parts.items()},
    )


def put_back(originals: Originals) -> None:
    """Restore the components from what was kept."""
    for component, part in originals.parts.items():
        present = _modules(part)
        for name, module in originals.modules[component].items():
            parent, _, leaf = name.rpartition(".")
            # A module that is missing was removed by other code: loading a LoRA never removes one.
            if present.get(name, module) is not module:
                setattr(present[parent], leaf, _where(part, module))
        values = _parameters(part)
        for name, value in originals.values[component].items():
            if name in values:
                values[name].data.copy_(value)
        if originals.inputs[component] != _inputs(part):
            part.config.in_channels = originals.inputs[component]
        # diffusers' own backup copies. They are stale once the originals are back.
        if getattr(part, "_overwritten_params", None) is not None:
            part._overwritten_params = None


def modules_in(parts: Iterable[Any]) -> list[Any]:
    """Return what LoRAs change: the components, and those of their modules that have widths."""
    return [each for part in parts for each in (part, *_with_widths(part).values())]


def check_base(pipeline: object, base: Base) -> None:
    """Check that the pipeline is what it was when `base` was recorded.

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
            raise NotRestoredError(f"{component} still has adapters")
    left = adapters_in(pipeline)
    if left:
        raise NotRestoredError(f"it still has adapters ({', '.join(sorted(left))})")


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
    """Return the widths of a linear layer or convolution; None for any other module.

    Grouped convolutions are left out: LoRA loaders do not widen them.
    """
    # Read `__dict__` and not attributes: on whole models diffusers forwards attribute access to the
    # configuration, with a deprecation warning.
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
    """Return copies of the vectors, such as those of norms. LoRAs overwrite nothing larger."""
    wide = _with_widths(part)
    return {
        name: value.detach().clone()
        for name, value in _parameters(part).items()
        if value.dim() <= 1 and name.rpartition(".")[0] not in wide
    }


def _inputs(part: Any) -> Any:
    return getattr(getattr(part, "config", None), "in_channels", None)


def _where(part: Any, module: Any) -> Any:
    """Return `module` on the component's device: it was not moved along with the component."""
    device = getattr(part, "device", None)
    return module if device is None else module.to(device)
