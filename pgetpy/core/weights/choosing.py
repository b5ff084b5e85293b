"""Which of several files are the weights, as far as their names tell.

Names are paths below one folder, with slashes. diffusers and transformers agree on what is called
how: `model.safetensors` and `diffusion_pytorch_model.safetensors`, each with an index where it is
in parts, and `pytorch_lora_weights.safetensors`; a variant stands before the last suffix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from pgetpy.core.weights.shards import INDEX_NAMES, SUFFIX, is_index_name

_LORA = "pytorch_lora_weights.safetensors"
# What diffusers passes over when it looks for the weights of a LoRA.
_NOT_LORA = ("scheduler", "optimizer", "checkpoint")
_STEMS = tuple(name.partition(".")[0] for name in INDEX_NAMES)
_VARIANT = re.compile(rf"((?:.*/)?(?:{'|'.join(_STEMS)}))\.[^./]+(\.safetensors)")
_INDEX_VARIANTS = (
    re.compile(r"(.+\.safetensors\.index)\.[^./]+(\.json)", re.IGNORECASE),
    re.compile(r"(.+)\.[^./]+(\.safetensors\.index\.json)", re.IGNORECASE),
)
# The parts of a checkpoint in several files.
_SHARD = re.compile(r".+-\d{5,}-of-\d{5,}\.safetensors", re.IGNORECASE)
_APPLE = "__MACOSX"


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or holds what macOS keeps of another (AppleDouble)."""
    parts = PurePosixPath(name).parts
    return _APPLE in parts or any(part.startswith(".") and part != ".." for part in parts)


def weights_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return which of `names` are the weights: one where the names tell, else all that may be."""
    found = [name for name in names if name.lower().endswith(SUFFIX) and not is_hidden(name)]
    lora = _lora_among(found)
    if lora is not None:
        return (lora,)
    standing = set(found)
    return tuple(name for name in found if _without_variant(name) not in standing)


def indices_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return which of `names` are indexes, but for variants of a checkpoint that is there, too."""
    every = [name for name in names if not is_hidden(name)]
    standing = set(every)
    return tuple(name for name in every if is_index_name(name) and not _spare(name, standing))


def are_shards(names: Iterable[str]) -> bool:
    """Whether all of `names` are those of parts of checkpoints."""
    return all(_SHARD.fullmatch(name) for name in names)


def _lora_among(names: list[str]) -> str | None:
    """Return the file that diffusers takes a LoRA's weights from, if there is one."""
    ending = [name for name in names if name.endswith(_LORA)]
    found = [name for name in ending if PurePosixPath(name).name == _LORA] or ending
    found = [name for name in found if not any(word in name for word in _NOT_LORA)] or found
    depths = [name.count("/") for name in found]
    if not found or depths.count(min(depths)) > 1:
        return None
    return found[depths.index(min(depths))]


def _without_variant(name: str) -> str:
    """Return what the file of no variant is called; nothing where `name` is no variant's."""
    match = _VARIANT.fullmatch(name)
    return f"{match[1]}{match[2]}" if match is not None else ""


def _spare(index: str, standing: set[str]) -> bool:
    """Whether the index is a variant's, and the checkpoint of no variant is there."""
    for pattern in _INDEX_VARIANTS:
        match = pattern.fullmatch(index)
        plain = f"{match[1]}{match[2]}" if match is not None else ""
        if plain in standing or (plain and plain[: plain.rindex(".index")] in standing):
            return True
    return False
