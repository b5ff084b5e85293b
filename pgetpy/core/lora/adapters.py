"""Whether a LoRA fits its model, judged by the names and shapes in its file.

A LoRA is refused only for a contradiction, such as a matrix for 64 inputs where the module has 128.
Names that are not understood count as fitting, unless they come from the pipeline's own loader:
then a name that matches nothing would be loaded without effect, and that is refused as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pgetpy.core.lora.naming import MARKS, LoraTensors, ModuleIndex, Pair, place_of, sort_tensors
from pgetpy.core.weights.safetensors import Tensor

# Component and name of a module.
Module = tuple[str, str]


@dataclass(frozen=True)
class Widths:
    """The numbers of inputs and outputs of a module.

    Attributes:
        linear: whether it is a linear layer rather than a convolution.
        biased: whether it has a bias. Loaders do not widen the outputs of such a module.
    """

    inputs: int
    outputs: int
    linear: bool = True
    biased: bool = False


@dataclass(frozen=True)
class Base:
    """What a LoRA would be loaded into.

    Attributes:
        components: the modules of each component that takes LoRAs; None if unknown.
        widens: the components whose loader widens modules for LoRAs that need it.
        pads: the components whose loader pads narrower LoRAs with zeros.
        flagged: components that a loader fills only when told to, each with the component name that
            files use for it.
    """

    components: Mapping[str, Mapping[str, Widths]] | None = None
    widens: frozenset[str] = frozenset()
    pads: frozenset[str] = frozenset()
    flagged: Mapping[str, str] = field(default_factory=dict)

    def seen_by(self, component: str) -> Base:
        """Return the part of the base that a loader sees when told to fill `component`.

        Args:
            component: "" if the loader chooses.
        """
        if self.components is None:
            return self
        own = self.flagged.get(component)
        if own is not None:
            return replace(self, components={own: self.components[component]})
        seen = {name: each for name, each in self.components.items() if name not in self.flagged}
        return replace(self, components=seen)


@dataclass(frozen=True)
class Finding:
    """The result of comparing a file with a base.

    Attributes:
        no_lora: why the file is not a LoRA, or cannot have any effect; empty if it is one.
        contradiction: what shows that it was made for another base; empty if nothing does.
        alters: whether loading it changes the base itself, so that only unloading everything
            restores it.
        unclear: whether some names are not understood, or not found in the base.
        pairs: the matrices by the module that they change, where both are known.
        overwrites: whether it has tensors that replace the base's own.
    """

    no_lora: str = ""
    contradiction: str = ""
    alters: bool = False
    unclear: bool = field(default=False, compare=False)
    pairs: Mapping[Module, Pair] = field(default_factory=dict, compare=False)
    overwrites: bool = field(default=False, compare=False)


def compare(tensors: Iterable[Tensor], base: Base, *, translated: bool = False) -> Finding:
    """Compare the tensors of a file with `base`.

    Args:
        translated: whether the names come from the pipeline's loader, so that a tensor whose name
            is not found will not be loaded.
    """
    tensors = tuple(tensors)
    if not any(mark in tensor.name.lower() for tensor in tensors for mark in MARKS):
        example = f", its first is {tensors[0].name!r}" if tensors else ""
        return Finding(no_lora=f"none of its {len(tensors)} tensors belongs to a LoRA{example}")
    contents = sort_tensors(tensors)
    if contents.half:
        return Finding(no_lora=f"it is half a LoRA: {contents.half!r} has no counterpart")
    alters = bool(contents.overwriting)
    if base.components is None:
        return Finding(alters=alters, overwrites=alters)
    strange = _strange_components(tensors, base.components)
    if strange:
        return Finding(contradiction=strange)
    found, lost = _find(contents.pairs, base.components)
    if translated:
        nowhere = _nowhere(tensors, contents, found, base.components)
        if nowhere:
            return Finding(no_lora=nowhere)
    for (component, module), pair in found.items():
        widths = base.components[component][module]
        if not _fits(pair, widths, component, base):
            return Finding(contradiction=_misfit(pair, widths, f"{module} of {component}"))
        alters |= pair.inputs > widths.inputs or pair.outputs > widths.outputs
    return Finding(
        alters=alters,
        unclear=bool(lost or contents.others)
        or any(not place_of(n, base.components) for n in contents.overwriting),
        pairs=found,
        overwrites=bool(contents.overwriting),
    )


def _find(
    pairs: Iterable[Pair], components: Mapping[str, Mapping[str, Widths]]
) -> tuple[dict[Module, Pair], list[str]]:
    """Return the pairs by the modules that they change, and the names of those without a module."""
    index = ModuleIndex(components)
    found: dict[Module, Pair] = {}
    lost: list[str] = []
    for pair in pairs:
        place = place_of(pair.stem, components)
        module = index.find(place) if place is not None else None
        if module is None:
            lost.append(pair.stem)
        else:
            found[module] = pair
    return found, lost


def _fits(pair: Pair, widths: Widths, component: str, base: Base) -> bool:
    """Whether a loader accepts these matrices for a module of these widths.

    Exact widths always fit. Wider inputs or outputs need a loader that widens, narrower inputs one
    that pads; narrower outputs never fit.
    """
    inputs, outputs = pair.inputs - widths.inputs, pair.outputs - widths.outputs
    if not inputs and not outputs:
        return True
    if not widths.linear or outputs < 0 or (outputs > 0 and widths.biased):
        return False
    if inputs < 0:
        return outputs == 0 and component in base.pads
    return component in base.widens


def _misfit(pair: Pair, widths: Widths, module: str) -> str:
    """Return the difference between a pair and its module, as a clause."""
    if pair.inputs != widths.inputs:
        what, here, there = "inputs", pair.inputs, widths.inputs
    else:
        what, here, there = "outputs", pair.outputs, widths.outputs
    return f"its {module} has {here} {what}, the pipeline's has {there}"


def _strange_components(tensors: Iterable[Tensor], present: Mapping[str, object]) -> str:
    """Return why nothing in the file has a place in the pipeline; empty if something may have."""
    named: set[str] = set()
    for tensor in tensors:
        place = place_of(tensor.name, present)
        if place is None or any(name in present for name in place.components):
            return ""
        named.update(place.components[:1])
    return f"it changes {', '.join(sorted(named))}, but {_parts(present)}"


def _nowhere(
    tensors: Sequence[Tensor],
    contents: LoraTensors,
    found: Mapping[Module, Pair],
    present: Mapping[str, object],
) -> str:
    """Return why nothing of what a loader has read would have an effect; empty if something has."""
    if not any(tensor.name.partition(".")[0] in present for tensor in tensors):
        return f"its names ({tensors[0].name!r}) match nothing in the pipeline: {_parts(present)}"
    if contents.pairs and not contents.others and not found:
        first = contents.pairs[0].stem
        return f"none of the {len(contents.pairs)} modules it changes is the pipeline's: {first!r}"
    return ""


def _parts(present: Mapping[str, object]) -> str:
    return f"the pipeline's parts are {', '.join(present) or 'none that takes LoRAs'}"


def load_order(
    wanted: Mapping[str, Mapping[Module, Pair]], base: Base
) -> tuple[list[str], tuple[str, str] | None]:
    """Return an order in which LoRAs that widen modules can be loaded.

    A module that has an adapter cannot be widened any more, but narrower LoRAs can be padded. So
    the LoRA that widens a module most must come before all others that change it.

    Args:
        wanted: the matrices of each LoRA, by its name and by module.

    Returns:
        The names, in the order of `wanted` where it does not matter; and two names that each have
        to come before the other, or None.
    """
    order: list[str] = []
    left = list(wanted)
    while left:
        before = {name: _first_before(name, left, wanted, base) for name in left}
        free = next((name for name in left if before[name] is None), None)
        if free is None:
            return order, (left[0], before[left[0]] or "")
        order.append(free)
        left.remove(free)
    return order, None


def _first_before(
    name: str, others: Iterable[str], wanted: Mapping[str, Mapping[Module, Pair]], base: Base
) -> str | None:
    """Return one of `others` that must be loaded before `name`, or None."""
    return next(
        (each for each in others if each != name and _precedes(each, name, wanted, base)), None
    )


def _precedes(
    one: str, other: str, wanted: Mapping[str, Mapping[Module, Pair]], base: Base
) -> bool:
    """Whether `one` must be loaded before `other`."""
    here, there = wanted[one], wanted[other]
    for module in here.keys() & there.keys():
        component, name = module
        widths = (base.components or {})[component][name]
        if here[module].inputs > max(there[module].inputs, widths.inputs):
            return True
        # Outputs are never padded, so neither order works.
        if here[module].outputs != there[module].outputs:
            return True
    return False
