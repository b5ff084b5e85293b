"""A program that chooses an attention backend for a tiny transformer, and says what it found."""

from __future__ import annotations

import json
import sys

import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from pgetpy.pipelines import attention

from .transformers import flux_bits, make_flux


def main(names: list[str]) -> None:
    """Print the choice, the default backend before and after, and whether images are the same."""
    pipeline, other = make_flux(), make_flux()
    dtype = torch.float16 if "half" in names else torch.float32
    before = _AttentionBackendRegistry._active_backend.value
    alone = flux_bits(other).hex()
    torch.manual_seed(1)
    drawn = torch.rand(1).item()
    torch.manual_seed(1)
    choice = attention.choose(
        pipeline.transformer.to(dtype), tuple(name for name in names if name != "half")
    )
    found = {
        **choice.record(),
        "default": [before, _AttentionBackendRegistry._active_backend.value],
        "others": flux_bits(other).hex() == alone,
        "random": torch.rand(1).item() == drawn,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
