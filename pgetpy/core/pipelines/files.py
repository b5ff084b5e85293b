"""Which files of a folder a pipeline consists of, decided as diffusers and transformers do.

    model_index.json                     the components, each with a library and a class
    COMPONENT/*.json, *.txt, ...         configurations, vocabularies
    COMPONENT/STEM[.VARIANT].safetensors, or its shards

Chosen files are linked into a tree of their own, so a loader cannot take another one. Weights are
safetensors alone: pickles run code when they are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pgetpy.core.pipelines.configs import MODEL_INDEX
from pgetpy.core.weights.choosing import is_hidden
from pgetpy.core.weights.shards import SUFFIX, is_index_name
from pgetpy.errors import IntegrityError, NotOneFileError

# What configurations, tokenizers and processors consist of. Python files are code, and stay away.
_SMALL = frozenset({".json", ".txt", ".model", ".jinja"})
# diffusers looks for an index before a single file, transformers the other way round.
_SHARDS_FIRST = "diffusion_pytorch_model"
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)(?:\.(?P<variant>[^./-]+))?"
    r"(?:-(?P<number>\d{5,9})-of-(?P<count>\d{5,9}))?(?:\.(?P<late>[^./-]+))?\.safetensors"
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
_MOST_COMPONENTS = 64
# A component's files are in its folder, and what is deeper belongs to other loaders.
_DEEPEST = 2


@dataclass(frozen=True)
class PipelineFiles:
    """The files of a pipeline, by their paths below its folder.

    Attributes:
        configs: configurations, vocabularies and the like, sorted.
        weights: by component, in the order of shards.
    """

    configs: tuple[str, ...] = ()
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them: what is small and decides first."""
        return (*self.configs, *(name for names in self.weights.values() for name in names))


def components_of(index: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the components that a model_index.json lists, sorted.

    Raises:
        IntegrityError: a name cannot be that of a folder, or there are too many.
    """
    found = []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2:
            continue
        if all(isinstance(each, str) and each for each in value):
            found.append(name)
    odd = [name for name in found if not name.isidentifier() or len(name) > 100]
    if odd:
        raise IntegrityError(f"{MODEL_INDEX} names a component {odd[0][:100]!r}")
    if len(found) > _MOST_COMPONENTS:
        raise IntegrityError(f"{MODEL_INDEX} names {len(found)} components")
    return tuple(sorted(found))


def class_of(index: Mapping[str, Any]) -> str:
    """Return the class that a model_index.json names; empty if it names none."""
    found = index.get("_class_name")
    return found if isinstance(found, str) and found.isidentifier() else ""


def pipeline_files(
    names: Iterable[str], components: Sequence[str], variant: str, shown: str
) -> PipelineFiles:
    """Return which of a folder's files belong to a pipeline.

    Args:
        names: all files, as paths below the folder.
        components: those that are wanted.
        variant: of the weights; empty for those without one. A component that has no such files is
            loaded without, as diffusers does, but at least one must have them.
        shown: the folder, for errors.

    Raises:
        NotOneFileError: no component has the variant.
        IntegrityError: shards are missing, or a component has pickles alone.
    """
    present = sorted(name for name in names if may_belong(name))
    configs = [name for name in present if name == MODEL_INDEX]
    weights: dict[str, tuple[str, ...]] = {}
    variants: set[str] = set()
    for component in components:
        own = component_files(present, component, variant, shown)
        configs += own.configs
        weights |= {component: own.weights} if own.weights else {}
        variants |= own.variants
    if variant and weights and variant not in variants:
        theirs = ", ".join(sorted(variants - {""}))
        hint = f"its variants are: {theirs}" if theirs else "it has no variants: name none"
        raise NotOneFileError(shown, f"{variant} variant", hint=hint)
    return PipelineFiles(tuple(configs), weights)


class ComponentFiles(NamedTuple):
    """The files of one component, and of which variants it has weights ("" is the usual one)."""

    configs: tuple[str, ...]
    weights: tuple[str, ...]
    variants: frozenset[str]


def component_files(
    names: Iterable[str], component: str, variant: str, shown: str
) -> ComponentFiles:
    """Return which files in the folder `component` belong to it; see `pipeline_files`."""
    below = [name for name in names if PurePosixPath(name).parent.as_posix() == component]
    weights, variants = _component_weights(below, variant, f"{shown}, {component}")
    return ComponentFiles(tuple(_configs_among(below, weights)), weights, variants)


def may_belong(name: str) -> bool:
    """Whether a file of a model's folder can be of interest, by its name."""
    suffix = PurePosixPath(name).suffix.lower()
    useful = suffix in _SMALL or suffix == SUFFIX or suffix in _PICKLES
    return useful and name.count("/") < _DEEPEST and not is_hidden(name)


def is_pickle(name: str) -> bool:
    """Whether a file is called like weights that run code when they are loaded."""
    return name.lower().endswith(_PICKLES)


def is_small(name: str) -> bool:
    """Whether a file is a configuration, a vocabulary or the like."""
    return PurePosixPath(name).suffix in _SMALL


def _component_weights(
    names: Collection[str], variant: str, shown: str
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the weights among the files of one component, and which variants it has.

    Args:
        names: the files, all in one folder.
        variant: see `pipeline_files`.
        shown: the component, for errors.

    Raises:
        IntegrityError: shards are missing, or there are pickles alone.
    """
    parsed = [(match, name) for name in names if (match := _WEIGHTS.fullmatch(_last(name)))]
    by_variant: dict[str, list[tuple[re.Match[str], str]]] = {}
    for match, name in parsed:
        by_variant.setdefault(match["variant"] or match["late"] or "", []).append((match, name))
    taken = by_variant.get(variant) or by_variant.get("")
    if taken:
        return _of_one_kind(taken, shown), frozenset(by_variant)
    pickles = [name for name in names if is_pickle(name)]
    if pickles and not parsed:
        raise IntegrityError(f"{shown} has no safetensors, and {_last(pickles[0])} is a pickle")
    if parsed:
        theirs = ", ".join(sorted(by_variant))
        raise NotOneFileError(shown, "usual weights", hint=f"name one of its variants: {theirs}")
    return (), frozenset()


def _of_one_kind(found: Sequence[tuple[re.Match[str], str]], shown: str) -> tuple[str, ...]:
    """Return the single file or the shards, whichever a loader would take."""
    single = [name for match, name in found if not match["number"]]
    shards = [(match, name) for match, name in found if match["number"]]
    sharded_first = any(match["stem"] == _SHARDS_FIRST for match, _ in shards)
    if single and not (shards and sharded_first):
        # A loader of transformers looks for `model`, one of diffusers for the longer name.
        return (sorted(single)[0],)
    return _complete(shards, shown)


def _complete(shards: Sequence[tuple[re.Match[str], str]], shown: str) -> tuple[str, ...]:
    counts = {int(match["count"]) for match, _ in shards}
    stems = {match["stem"] for match, _ in shards}
    numbers = sorted(int(match["number"]) for match, _ in shards)
    if len(counts) != 1 or len(stems) != 1 or len(set(numbers)) != len(numbers):
        raise IntegrityError(f"{shown} has shards of several checkpoints")
    count = counts.pop()
    if numbers != list(range(1, count + 1)):
        raise IntegrityError(f"{shown} has {len(numbers)} of {count} shards")
    return tuple(name for _, name in sorted(shards, key=lambda each: int(each[0]["number"])))


def _configs_among(names: Sequence[str], weights: tuple[str, ...]) -> list[str]:
    """Return the small files of a component; indexes only of the weights that were chosen."""
    sharded = len(weights) > 1
    variant = _variant_of(weights[0]) if weights else ""
    return [
        name
        for name in names
        if is_small(name)
        and (not is_index_name(name) or (sharded and _index_variant(name) == variant))
        and not name.endswith(".bin.index.json")
    ]


def _variant_of(name: str) -> str:
    match = _WEIGHTS.fullmatch(_last(name))
    return (match["variant"] or match["late"] or "") if match else ""


def _index_variant(name: str) -> str:
    """Return the variant in the name of an index, before `.safetensors` or before `.json`."""
    parts = _last(name).split(".")
    at = parts.index("safetensors") if "safetensors" in parts else len(parts)
    return ".".join(parts[1:at] + parts[at + 2 : -1])


def _last(name: str) -> str:
    return PurePosixPath(name).name
