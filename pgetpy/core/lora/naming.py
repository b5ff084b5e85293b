"""What the names and shapes in a LoRA's file say: which modules it changes, and by what matrices.

A LoRA adds to a module of IN inputs and OUT outputs the product of two small matrices, of shapes
(RANK, IN) and (OUT, RANK). Files name them in these ways:

    COMPONENT.MODULE.lora_A.weight               COMPONENT.MODULE.lora_B.weight      (peft)
    COMPONENT.MODULE.lora.down.weight            COMPONENT.MODULE.lora.up.weight     (diffusers)
    COMPONENT.PARENT.processor.to_q_lora.down.weight ... up.weight                 (diffusers, once)
    lora_unet_MODULE.lora_down.weight            lora_unet_MODULE.lora_up.weight     (kohya)

kohya writes MODULE with underscores for dots, and lora_te1_, lora_te2_ for the text encoders. There
are more ways, and loaders learn new ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
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
_IN = re.compile(
    r"(?:\.lora_A(?:\.default)?|\.lora(?:_linear_layer\.|_|\.)down|(?<=to_[qkv])_lora\.down"
    r"|(?<=to_out)_lora\.down)\.weight$"
)
_OUT = re.compile(
    r"(?:\.lora_B(?:\.default)?|\.lora(?:_linear_layer\.|_|\.)up|(?<=to_[qkv])_lora\.up"
    r"|(?<=to_out)_lora\.up)\.weight$"
)
# What attention's matrices were part of, and the one that has become the first of several.
_PROCESSOR = ".processor."
_FIRST_OF_SEVERAL = "to_out"
# What stands in the name of a tensor that is a LoRA's.
MARKS = ("lora", "lokr")
# What stands beside the matrices and is part of the adapter.
BESIDE = (*MARKS, "alpha", "dora_scale", "diff")
# The text model of CLIP lies one level deeper in some versions of transformers and in their files.
_DEEPER = "text_model."


@dataclass(frozen=True)
class ModulePath:
    """Where a tensor belongs: the component, as one of several, and the module's name in it, which
    has underscores for dots where it is `flat`.
    """

    components: tuple[str, ...]
    module: str
    flat: bool = False


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module, by the name that both begin with.

    Attributes:
        down: the shape of the one that takes the module's inputs, (RANK, IN, ...).
        up: that of the one that gives its outputs, (OUT, RANK, ...).
    """

    stem: str
    down: tuple[int, ...]
    up: tuple[int, ...]
    dtype: str

    @property
    def inputs(self) -> int:
        return self.down[1]

    @property
    def outputs(self) -> int:
        return self.up[0]

    @property
    def rank(self) -> int:
        return self.down[0]


@dataclass(frozen=True)
class LoraTensors:
    """The tensors of a file, sorted by what they are.

    Attributes:
        pairs: those whose names are known to be the two matrices of a module.
        half: a matrix whose other one is missing; empty where there is none.
        overwriting: what is no part of an adapter, and takes the place of the base's.
        others: LoRAs' tensors that are named in other ways.
    """

    pairs: tuple[Pair, ...]
    half: str
    overwriting: tuple[str, ...]
    others: tuple[str, ...]


def sort_tensors(tensors: Iterable[Tensor]) -> LoraTensors:
    """Return what the tensors of a file are."""
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    overwriting: list[str] = []
    others: list[str] = []
    for tensor in tensors:
        takes, gives = _IN.search(tensor.name), _OUT.search(tensor.name)
        side = takes or gives
        if side is not None and len(tensor.shape) >= 2:
            (downs if takes else ups)[_stem(tensor.name[: side.start()])] = tensor
        elif not any(mark in tensor.name.lower() for mark in BESIDE):
            overwriting.append(tensor.name)
        elif not tensor.name.endswith(("alpha", "dora_scale")):
            others.append(tensor.name)
    all_of = {**downs, **ups}
    lonely = next((all_of[stem] for stem in all_of if (stem in downs) != (stem in ups)), None)
    pairs = tuple(
        Pair(stem, down.shape, ups[stem].shape, down.dtype)
        for stem, down in downs.items()
        if stem in ups
    )
    return LoraTensors(pairs, lonely.name if lonely else "", tuple(overwriting), tuple(others))


def _stem(name: str) -> str:
    parent, processor, module = name.rpartition(_PROCESSOR)
    if not processor:
        return name
    return f"{parent}.{module}.0" if module == _FIRST_OF_SEVERAL else f"{parent}.{module}"


def place_of(name: str, present: Collection[str] = ()) -> ModulePath | None:
    """Return where the tensor or module called `name` belongs; None where it does not say.

    Args:
        present: components of the pipeline, which may be more than those known here.
    """
    for prefix, components in _KOHYA.items():
        if name.startswith(prefix):
            return ModulePath(components, name[len(prefix) :], flat=True)
    component, dot, rest = name.partition(".")
    known = component in COMPONENTS or component in present
    return ModulePath((component,), rest) if dot and known else None


class ModuleIndex:
    """The modules of a pipeline, to be found by the names that files give them."""

    def __init__(self, components: Mapping[str, Mapping[str, object]]) -> None:
        self._components = components
        self._flat = {name: _flat_names(modules) for name, modules in components.items()}

    def find(self, place: ModulePath) -> tuple[str, str] | None:
        """Return component and module, None where there is none of that very name."""
        component = next((name for name in place.components if name in self._components), None)
        if component is None:
            return None
        deeper = _DEEPER.replace(".", "_") if place.flat else _DEEPER
        for module in (place.module, place.module.removeprefix(deeper), deeper + place.module):
            found = self._flat[component].get(module, "") if place.flat else module
            if found in self._components[component]:
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
