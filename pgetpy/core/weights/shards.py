"""The index of a checkpoint that is split over several safetensors files.

    {"metadata": {...}, "weight_map": {"TENSOR": "model-00001-of-00002.safetensors", ...}}

`save_pretrained` of transformers and diffusers writes it beside the files, under a name that ends
in `.safetensors.index.json` or `.safetensors.index.VARIANT.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from pgetpy.errors import BadSafetensorsError

SUFFIX = ".safetensors"
# The names that transformers and diffusers give the index of a model.
INDEX_NAMES = ("model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json")
_INDEX_NAME = re.compile(r"\.safetensors\.index[^/]*\.json\Z", re.IGNORECASE)


@dataclass(frozen=True)
class ShardIndex:
    """Which file beside the index holds which tensors."""

    tensors: Mapping[str, tuple[str, ...]]

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of the files, sorted."""
        return tuple(sorted(self.tensors))


def is_index_name(name: str) -> bool:
    """Whether a file, or the path of a URL, is named like an index."""
    return _INDEX_NAME.search(name) is not None


def parse_index(raw: bytes) -> ShardIndex:
    """Parse an index.

    Raises:
        BadSafetensorsError: it is not an index, or names a file in another folder.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadSafetensorsError(f"its index is not JSON ({error})") from None
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadSafetensorsError("its index has no weight_map")
    tensors: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise BadSafetensorsError(f"its index names {shard!r} as a file beside it")
        tensors.setdefault(shard, []).append(tensor)
    try:
        # A header cannot have lone surrogates, and no sentence that names one could be printed.
        "".join(weight_map).encode()
    except UnicodeEncodeError as error:
        raise BadSafetensorsError(f"its index has a name that is not Unicode ({error})") from None
    return ShardIndex({shard: tuple(names) for shard, names in tensors.items()})


def beside(url: str, name: str) -> str:
    """Return a reference to the file `name` beside the one that `url` names.

    The query is kept: some services put their token in it.
    """
    parts = urlsplit(url)
    folder = parts.path.rpartition("/")[0]
    path = f"{folder}/{quote(name)}" if folder or parts.netloc else name
    return urlunsplit(parts._replace(path=path, fragment=""))


def _is_plain(name: str) -> bool:
    """Whether `name` is a safetensors file in the same folder, and safe as a file name."""
    strange = any(char in '/\\:*?"<>|' or not char.isprintable() for char in name)
    return name.endswith(SUFFIX) and not name.startswith(".") and not strange
