"""What the names and shapes in a LoRA's file tell: which modules it changes, and whether they fit.

A LoRA adds to a module of IN inputs and OUT outputs the product of two small matrices, of shapes
(RANK, IN) and (OUT, RANK). Files name them in these ways:

    COMPONENT.MODULE.lora_A.weight               COMPONENT.MODULE.lora_B.weight      (peft)
    COMPONENT.MODULE.lora.down.weight            COMPONENT.MODULE.lora.up.weight     (diffusers)
    lora_unet_MODULE.lora_down.weight            lora_unet_MODULE.lora_up.weight     (kohya)

kohya writes MODULE with underscores for dots, and lora_te1_, lora_te2_ for the text encoders. There
are more ways, and loaders learn new ones: what is not understood here is taken to fit. Nothing is
refused but what cannot be meant for the pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pgetpy.core.weights.safetensors import Tensor

# What pipelines of diffusers call the parts that take LoRAs, and files name them by.
COMPONENTS = (
    "unet",
    "transformer",
    "transformer_2",
    "prior",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
)
# kohya says unet for whatever removes the noise.
_KOHYA = {
    "lora_unet_": ("unet", "transformer", "transformer_2", "prior"),
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
}
_IN = re.compile(r"\.(?:lora_A(?:\.default)?|lora(?:_linear_layer\.|_|\.)down)\.weight$")
_OUT = re.compile(r"\.(?:lora_B(?:\.default)?|lora(?:_linear_layer\.|_|\.)up)\.weight$")
_MARKS = ("lora", "lokr")
# What stands beside the matrices and is part of the adapter.
_BESIDE = (*_MARKS, "alpha", "dora_scale", "diff")
# The text model of CLIP lies one level deeper in some versions of transformers and in their files.
_DEEPER = "text_model."


@dataclass(frozen=True)
class Widths:
    """How many inputs and outputs a module has."""

    inputs: int
    outputs: int


@dataclass(frozen=True)
class Base:
    """What a LoRA would be loaded into.

    Attributes:
        components: the modules of each part that takes LoRAs, by name; None where that is unknown.
        widens: whether the pipeline makes modules wider for LoRAs that want it.
    """

    components: Mapping[str, Mapping[str, Widths]] | None = None
    widens: bool = False


@dataclass(frozen=True)
class Finding:
    """What came of comparing a file with a base.

    Attributes:
        no_lora: why it is no LoRA at all; empty where it is one.
        contradiction: what shows that it is for another base; empty where nothing does.
        alters: whether loading it changes the base beyond its adapter, so that only unloading all
            of them brings the base back.
    """

    no_lora: str = ""
    contradiction: str = ""
    alters: bool = False


@dataclass(frozen=True)
class _ModulePath:
    """Where a tensor belongs: the component, as one of several, and the module's name in it, which
    has underscores for dots where it is `flat`.
    """

    components: tuple[str, ...]
    module: str
    flat: bool = False


def compare(tensors: Iterable[Tensor], base: Base) -> Finding:
    """Return what the tensors of a file tell of it, and of whether it can be meant for `base`."""
    tensors = tuple(tensors)
    if not any(mark in tensor.name.lower() for tensor in tensors for mark in _MARKS):
        example = f", its first is {tensors[0].name!r}" if tensors else ""
        return Finding(no_lora=f"none of its {len(tensors)} tensors is one of a LoRA{example}")
    alters = not all(any(mark in tensor.name.lower() for mark in _BESIDE) for tensor in tensors)
    if base.components is None:
        return Finding(alters=alters)
    strange = _strange_components(tensors, base.components)
    if strange:
        return Finding(contradiction=strange)
    indexes = {name: _flat_names(modules) for name, modules in base.components.items()}
    for tensor in tensors:
        wrong, wider = _misfit(tensor, base.components, indexes)
        if wrong and not (wider and base.widens):
            return Finding(contradiction=wrong)
        alters |= bool(wrong)
    return Finding(alters=alters)


def _strange_components(tensors: Iterable[Tensor], present: Mapping[str, object]) -> str:
    """Return why nothing of the file has a place in the pipeline; empty where something may."""
    named: set[str] = set()
    for tensor in tensors:
        place = _place(tensor.name)
        if place is None or any(name in present for name in place.components):
            return ""
        named.update(place.components[:1])
    has = ", ".join(present) or "none that takes LoRAs"
    return f"it changes {', '.join(sorted(named))}, and the pipeline's parts are {has}"


def _misfit(
    tensor: Tensor,
    components: Mapping[str, Mapping[str, Widths]],
    indexes: Mapping[str, Mapping[str, str]],
) -> tuple[str, bool]:
    """Return what of the tensor's shape contradicts its module, and whether it is the wider."""
    takes, gives = _IN.search(tensor.name), _OUT.search(tensor.name)
    side = takes or gives
    if side is None or len(tensor.shape) < 2:
        return "", False
    place = _place(tensor.name[: side.start()])
    found = _look_up(place, components, indexes) if place is not None else None
    if found is None:
        return "", False
    component, module = found
    widths = components[component][module]
    there, here = (widths.inputs, tensor.shape[1]) if takes else (widths.outputs, tensor.shape[0])
    if there == here:
        return "", False
    what = "inputs" if takes else "outputs"
    reason = f"its {module} of {component} has {here} {what}, the pipeline's has {there}"
    return reason, here > there


def _place(name: str) -> _ModulePath | None:
    """Return where the tensor or module called `name` belongs; None where it does not say."""
    for prefix, components in _KOHYA.items():
        if name.startswith(prefix):
            return _ModulePath(components, name[len(prefix) :], flat=True)
    component, dot, rest = name.partition(".")
    return _ModulePath((component,), rest) if dot and component in COMPONENTS else None


def _look_up(
    place: _ModulePath,
    components: Mapping[str, Mapping[str, Widths]],
    indexes: Mapping[str, Mapping[str, str]],
) -> tuple[str, str] | None:
    """Return component and module of the pipeline, None where it has none of that very name."""
    component = next((name for name in place.components if name in components), None)
    if component is None:
        return None
    deeper = _DEEPER.replace(".", "_") if place.flat else _DEEPER
    for module in (place.module, place.module.removeprefix(deeper), deeper + place.module):
        found = indexes[component].get(module, "") if place.flat else module
        if found in components[component]:
            return component, found
    return None


def _flat_names(modules: Iterable[str]) -> dict[str, str]:
    """Return the modules by their names with underscores, but for names that two would have."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for module in modules:
        flat = module.replace(".", "_")
        if flat in found:
            twice.add(flat)
        found[flat] = module
    return {flat: module for flat, module in found.items() if flat not in twice}
