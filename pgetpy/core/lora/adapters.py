"""Whether a LoRA fits its model, as far as the names and shapes in its file tell.

What is not understood is taken to fit, unless the loader itself has said what the names mean:
nothing is refused but what cannot be meant for the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pgetpy.core.lora.naming import MARKS, LoraTensors, ModuleIndex, Pair, place_of, sort_tensors
from pgetpy.core.weights.safetensors import Tensor

# A module of the pipeline: component and name.
Module = tuple[str, str]


@dataclass(frozen=True)
class Widths:
    """How many inputs and outputs a module has.

    Attributes:
        linear: whether it is a matrix, and no convolution.
        biased: whether there is a bias, which nobody makes wider.
    """

    inputs: int
    outputs: int
    linear: bool = True
    biased: bool = False


@dataclass(frozen=True)
class Base:
    """What a LoRA would be loaded into.

    Attributes:
        components: the modules of each part that takes LoRAs, by name; None where that is unknown.
        widens: the parts in which modules are made wider for LoRAs that want it.
        pads: those in which narrower LoRAs are made as wide as their modules.
        flagged: those that a loader fills only if it is told to, with what files name by the first.
    """

    components: Mapping[str, Mapping[str, Widths]] | None = None
    widens: frozenset[str] = frozenset()
    pads: frozenset[str] = frozenset()
    flagged: Mapping[str, str] = field(default_factory=dict)

    def seen_by(self, component: str) -> Base:
        """Return what a loader sees of it that is told to fill `component`; "" for as it likes."""
        if self.components is None:
            return self
        own = self.flagged.get(component)
        if own is not None:
            return replace(self, components={own: self.components[component]})
        seen = {name: each for name, each in self.components.items() if name not in self.flagged}
        return replace(self, components=seen)


@dataclass(frozen=True)
class Finding:
    """What came of comparing a file with a base.

    Attributes:
        no_lora: why it is no LoRA at all, or can have no effect; empty where it is one.
        contradiction: what shows that it is for another base; empty where nothing does.
        alters: whether loading it changes the base beyond its adapter, so that only unloading all
            of them brings the base back.
        unclear: whether there are names that are not understood, or that the base does not have.
        pairs: the matrices by the pipeline's module, where both are known.
        overwrites: whether it has tensors that take the place of the base's.
    """

    no_lora: str = ""
    contradiction: str = ""
    alters: bool = False
    unclear: bool = field(default=False, compare=False)
    pairs: Mapping[Module, Pair] = field(default_factory=dict, compare=False)
    overwrites: bool = field(default=False, compare=False)


def compare(tensors: Iterable[Tensor], base: Base, *, translated: bool = False) -> Finding:
    """Return what the tensors of a file tell of it, and of whether it can be meant for `base`.

    Args:
        translated: whether the names are those that the pipeline's loader goes by, so that what is
            not found will not be loaded.
    """
    tensors = tuple(tensors)
    if not any(mark in tensor.name.lower() for tensor in tensors for mark in MARKS):
        example = f", its first is {tensors[0].name!r}" if tensors else ""
        return Finding(no_lora=f"none of its {len(tensors)} tensors is one of a LoRA{example}")
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
    """Return the pairs by the modules they are for, and the names of those without one."""
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
    """Whether a loader takes the matrices for a module of these widths."""
    inputs, outputs = pair.inputs - widths.inputs, pair.outputs - widths.outputs
    if not inputs and not outputs:
        return True
    if not widths.linear or outputs < 0 or (outputs > 0 and widths.biased):
        return False
    if inputs < 0:
        return outputs == 0 and component in base.pads
    return component in base.widens


def _misfit(pair: Pair, widths: Widths, module: str) -> str:
    if pair.inputs != widths.inputs:
        what, here, there = "inputs", pair.inputs, widths.inputs
    else:
        what, here, there = "outputs", pair.outputs, widths.outputs
    return f"its {module} has {here} {what}, the pipeline's has {there}"


def _strange_components(tensors: Iterable[Tensor], present: Mapping[str, object]) -> str:
    """Return why nothing of the file has a place in the pipeline; empty where something may."""
    named: set[str] = set()
    for tensor in tensors:
        place = place_of(tensor.name, present)
        if place is None or any(name in present for name in place.components):
            return ""
        named.update(place.components[:1])
    return f"it changes {', '.join(sorted(named))}, and {_parts(present)}"


def _nowhere(
    tensors: Sequence[Tensor],
    contents: LoraTensors,
    found: Mapping[Module, Pair],
    present: Mapping[str, object],
) -> str:
    """Return why nothing of what a loader has read would have any effect; empty where some has."""
    if not any(tensor.name.partition(".")[0] in present for tensor in tensors):
        return f"its names ({tensors[0].name!r}) match nothing of the pipeline: {_parts(present)}"
    if contents.pairs and not contents.others and not found:
        first = contents.pairs[0].stem
        return f"none of the {len(contents.pairs)} modules it changes is the pipeline's: {first!r}"
    return ""


def _parts(present: Mapping[str, object]) -> str:
    return f"the pipeline's parts are {', '.join(present) or 'none that takes LoRAs'}"


def load_order(
    wanted: Mapping[str, Mapping[Module, Pair]], base: Base
) -> tuple[list[str], tuple[str, str] | None]:
    """Return in which order LoRAs have to be loaded that make modules wider.

    What makes a module widest comes before all others that change it: these are padded then, while
    a module that has an adapter is not made wider any more.

    Args:
        wanted: the matrices of each, by name and module.

    Returns:
        The names, else in the order of `wanted`; and two that no order suits, if there are such.
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
    """Return one of `others` that has to be loaded before `name`."""
    return next(
        (each for each in others if each != name and _precedes(each, name, wanted, base)), None
    )


def _precedes(
    one: str, other: str, wanted: Mapping[str, Mapping[Module, Pair]], base: Base
) -> bool:
    here, there = wanted[one], wanted[other]
    for module in here.keys() & there.keys():
        component, name = module
        widths = (base.components or {})[component][name]
        if here[module].inputs > max(there[module].inputs, widths.inputs):
            return True
        # Outputs are never padded: neither order will do.
        if here[module].outputs != there[module].outputs:
            return True
    return False
