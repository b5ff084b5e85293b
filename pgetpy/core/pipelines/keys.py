"""The key of a pipeline: made of content alone, and of all content that changes the result.

Names, paths, URLs, tokens and the device are not in it, so the same bytes have the same key from
wherever they come. The order of LoRAs is in it, because it changes the last bits of a result. Of
packages, only the versions that wrote an artifact (fused, quantised) are in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgetpy.core.pipelines.configs import canonical
from pgetpy.errors import IntegrityError

# Raised whenever what follows makes other keys of the same content.
SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ComponentContent:
    """What one component is made of.

    Attributes:
        configs: the digests of its small files, by their names within the component; normalised
            ones for configurations, see `configs.config_digest`.
        weights: the sha256 of its weights, in the order of shards.
        dtype: in which it is loaded.
    """

    configs: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    dtype: str = "auto"


@dataclass(frozen=True)
class LoraContent:
    """A LoRA, its strength, and the component it is for."""

    sha256: str
    scale: float
    component: str = ""


@dataclass(frozen=True)
class PipelineContent:
    """Everything that decides what a pipeline computes.

    Attributes:
        pipeline: its class.
        components: by name; "" has the files of the folder itself.
        quantization: as JSON values.
        loras: in the order in which they are activated.
        made_by: versions of the packages that wrote what is loaded, by name; empty unless it was
            fused or quantised before it was saved.
    """

    pipeline: str
    components: Mapping[str, ComponentContent]
    quantization: Any = None
    loras: tuple[LoraContent, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """64 hex digits.

        Raises:
            IntegrityError: a digest is missing.
        """
        return hashlib.sha256(canonical(self._values())).hexdigest()

    @property
    def base(self) -> PipelineContent:
        """What is on disk: without LoRAs, once for all compositions, unless they are fused."""
        return self if self.made_by else replace(self, loras=())

    def _values(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "pipeline": self.pipeline,
            "components": {name: _component(each) for name, each in self.components.items()},
            "quantization": self.quantization,
            "loras": [[_digest(each.sha256), each.scale, each.component] for each in self.loras],
            "made_by": dict(self.made_by),
        }


def _component(content: ComponentContent) -> dict[str, Any]:
    values: dict[str, Any] = {
        "configs": {name: _digest(each) for name, each in content.configs.items()},
        "weights": [_digest(each) for each in content.weights],
    }
    if content.weights:
        # A scheduler or a tokenizer has no dtype.
        values["dtype"] = content.dtype
    return values


def _digest(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise IntegrityError("the key of a pipeline needs the sha256 of all of its files")
    return text
