"""What the names and shapes in a LoRA file say: which modules it changes, and with which matrices.

For a module with IN inputs and OUT outputs, a LoRA adds the product of two small matrices of shapes
(RANK, IN) and (OUT, RANK):

           IN                         RANK          IN
      +---------+                    +----+    +---------+
  OUT | weight  |  +  scale *    OUT | up |  x |  down   | RANK
      +---------+                    +----+    +---------+

Trainers name the two matrices in different ways:

    COMPONENT.MODULE.lora_A.weight               COMPONENT.MODULE.lora_B.weight      (peft)
    COMPONENT.MODULE.lora.down.weight            COMPONENT.MODULE.lora.up.weight     (diffusers)
    COMPONENT.PARENT.processor.to_q_lora.down.weight ... up.weight             (diffusers, old)
    lora_unet_MODULE.lora_down.weight            lora_unet_MODULE.lora_up.weight     (kohya)

kohya writes MODULE with underscores for dots, and uses lora_te1_ and lora_te2_ for the text
encoders. There are more schemes, and loaders learn new ones; a name that is not understood here is
left for the pipeline's own loader to judge.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pgetpy.core.weights.safetensors import Tensor

# What diffusers pipelines call the components that take LoRAs; files use the same names.
COMPONENTS = (
    "unet",
    "transformer",
    "transformer_2",
    "prior",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
)
# kohya says "unet" for any denoiser, transformers included.
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
# In old diffusers files the matrices belong to the attention's "processor", and the output
# projection (`to_out`) has since become the first element of a list.
_PROCESSOR = ".processor."
_FIRST_OF_SEVERAL = "to_out"
# A tensor with one of these in its name belongs to a LoRA.
MARKS = ("lora", "lokr")
# A tensor with one of these in its name belongs to an adapter, matrices or not.
BESIDE = (*MARKS, "alpha", "dora_scale", "diff")
# CLIP's text model is one level deeper in some versions of transformers, and in files that these
# versions wrote.
_DEEPER = "text_model."


@dataclass(frozen=True)
class ModulePath:
    """The place that a tensor's name gives.

    Attributes:
        components: the component; several where the name fits more than one.
        module: the name of the module in the component.
        flat: whether `module` has underscores for dots, as kohya writes it.
    """

    components: tuple[str, ...]
    module: str
    flat: bool = False


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module.

    Attributes:
        stem: what the names of both begin with.
        down: the shape of the matrix that takes the module's inputs, (RANK, IN, ...).
        up: the shape of the matrix that gives its outputs, (OUT, RANK, ...).
        dtype: the type of the elements, as safetensors names it.
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
    """The tensors of a file, sorted by their role.

    Attributes:
        pairs: recognised pairs of matrices.
        half: the name of a matrix without a counterpart; empty if there is none.
        overwriting: tensors that are not part of an adapter and would replace the base's own.
        others: LoRA tensors under names that are not recognised.
    """

    pairs: tuple[Pair, ...]
    half: str
    overwriting: tuple[str, ...]
    others: tuple[str, ...]


def sort_tensors(tensors: Iterable[Tensor]) -> LoraTensors:
    """Sort the tensors of a file by their role."""
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
    """Return the name of the module, with an old attention processor's in the new form."""
    parent, processor, module = name.rpartition(_PROCESSOR)
    if not processor:
        return name
    return f"{parent}.{module}.0" if module == _FIRST_OF_SEVERAL else f"{parent}.{module}"


def place_of(name: str, present: Collection[str] = ()) -> ModulePath | None:
    """Return where the tensor or module called `name` belongs; None if the name does not say.

    Args:
        present: components of the pipeline, which may have more than those known here.
    """
    for prefix, components in _KOHYA.items():
        if name.startswith(prefix):
            return ModulePath(components, name[len(prefix) :], flat=True)
    component, dot, rest = name.partition(".")
    known = component in COMPONENTS or component in present
    return ModulePath((component,), rest) if dot and known else None


class ModuleIndex:
    """Finds a pipeline's modules by the names that files give them."""

    def __init__(self, components: Mapping[str, Mapping[str, object]]) -> None:
        self._components = components
        self._flat = {name: _flat_names(modules) for name, modules in components.items()}

    def find(self, place: ModulePath) -> tuple[str, str] | None:
        """Return component and module, or None if the pipeline has no module of that name."""
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
    """Return the modules by their names with underscores, leaving out ambiguous names."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for module in modules:
        flat = module.replace(".", "_")
        if flat in found:
            twice.add(flat)
        found[flat] = module
    return {flat: module for flat, module in found.items() if flat not in twice}
