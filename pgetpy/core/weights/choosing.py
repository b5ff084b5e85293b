"""Which of several files are the weights, judged by their names.

Names are paths below one folder, with slashes. diffusers and transformers share a convention:
`model.safetensors` and `diffusion_pytorch_model.safetensors`, each with an index if it is split,
and `pytorch_lora_weights.safetensors`. A variant such as `fp16` comes before the last suffix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from pgetpy.core.weights.shards import INDEX_NAMES, SUFFIX, is_index_name

_LORA = "pytorch_lora_weights.safetensors"
# diffusers skips files with these words when it looks for the weights of a LoRA.
_NOT_LORA = ("scheduler", "optimizer", "checkpoint")
_STEMS = tuple(name.partition(".")[0] for name in INDEX_NAMES)
_VARIANT = re.compile(rf"((?:.*/)?(?:{'|'.join(_STEMS)}))\.[^./]+(\.safetensors)")
_INDEX_VARIANTS = (
    re.compile(r"(.+\.safetensors\.index)\.[^./]+(\.json)", re.IGNORECASE),
    re.compile(r"(.+)\.[^./]+(\.safetensors\.index\.json)", re.IGNORECASE),
)
# Parts of a split checkpoint.
_SHARD = re.compile(r".+-\d{5,}-of-\d{5,}\.safetensors", re.IGNORECASE)
_APPLE = "__MACOSX"


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or holds macOS metadata of another (AppleDouble)."""
    parts = PurePosixPath(name).parts
    return _APPLE in parts or any(part.startswith(".") and part != ".." for part in parts)


def weights_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the weights among `names`: one if the names decide it, else all candidates."""
    found = [name for name in names if name.lower().endswith(SUFFIX) and not is_hidden(name)]
    lora = _lora_among(found)
    if lora is not None:
        return (lora,)
    present = set(found)
    return tuple(name for name in found if _without_variant(name) not in present)


def indices_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the indexes among `names`, leaving out variants if the plain checkpoint is there."""
    every = [name for name in names if not is_hidden(name)]
    present = set(every)
    return tuple(name for name in every if is_index_name(name) and not _spare(name, present))


def are_shards(names: Iterable[str]) -> bool:
    """Whether all of `names` are parts of split checkpoints."""
    return all(_SHARD.fullmatch(name) for name in names)


def _lora_among(names: list[str]) -> str | None:
    """Return the file from which diffusers would load a LoRA's weights, if it is clear which."""
    ending = [name for name in names if name.endswith(_LORA)]
    found = [name for name in ending if PurePosixPath(name).name == _LORA] or ending
    found = [name for name in found if not any(word in name for word in _NOT_LORA)] or found
    depths = [name.count("/") for name in found]
    if not found or depths.count(min(depths)) > 1:
        return None
    return found[depths.index(min(depths))]


def _without_variant(name: str) -> str:
    """Return the name without its variant; empty if `name` has none."""
    match = _VARIANT.fullmatch(name)
    return f"{match[1]}{match[2]}" if match is not None else ""


def _spare(index: str, present: set[str]) -> bool:
    """Whether `index` is that of a variant while the plain checkpoint is there."""
    for pattern in _INDEX_VARIANTS:
        match = pattern.fullmatch(index)
        plain = f"{match[1]}{match[2]}" if match is not None else ""
        if plain in present or (plain and plain[: plain.rindex(".index")] in present):
            return True
    return False
