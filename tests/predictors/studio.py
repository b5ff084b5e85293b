"""A tiny base model and two LoRAs, and the pictures that diffusers makes of them alone."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch

from .cogs import pixels_of
from .pipelines import PROMPT, load_composed, save_lora, save_pipeline

STEPS, SEED = 2, 7
Lora = tuple[Path, float]


@dataclass(frozen=True)
class Studio:
    """The base model as a folder and as an archive, and two LoRAs of it."""

    base: Path
    archive: bytes
    first: Path
    second: Path

    def picture(self, *loras: Lora) -> bytes:
        """The image of diffusers itself, on a pipeline that has seen nothing else."""
        pipeline = load_composed(self.base, *loras)
        generator = torch.Generator("cpu").manual_seed(SEED)
        image = pipeline(PROMPT, num_inference_steps=STEPS, generator=generator).images[0]
        file = io.BytesIO()
        image.save(file, "PNG")
        return pixels_of(file)


def make_studio(folder: Path) -> Studio:
    base = save_pipeline(folder / "base")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(base, ".")
    first = save_lora(folder / "first.safetensors", 1)
    second = save_lora(folder / "second.safetensors", 2)
    return Studio(base, file.getvalue(), first, second)
