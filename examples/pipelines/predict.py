"""Stable Diffusion with two LoRA slots, for several predictions at a time. See model.py."""

import asyncio
import pathlib
import tempfile

from cog import BasePredictor, Input, Path
from model import Model


class Predictor(BasePredictor):
    async def setup(self) -> None:
        self.model = await asyncio.to_thread(Model)

    async def predict(
        self,
        prompt: str = Input(description="What the image shows"),
        steps: int = Input(description="Denoising steps", default=30, ge=1, le=100),
        seed: int = Input(description="The same seed gives the same image", default=0),
        lora: str = Input(description="URL, hf://OWNER/NAME, civitai.com/models/ID", default=""),
        lora_scale: float = Input(description="How strong it is", default=1.0),
        extra_lora: str = Input(description="A second LoRA", default=""),
        extra_lora_scale: float = Input(description="How strong it is", default=1.0),
    ) -> Path:
        slots = [(lora, lora_scale), (extra_lora, extra_lora_scale)]
        chosen = [(reference, scale) for reference, scale in slots if reference]
        # In a thread: whatever blocks in an async predictor holds up all of its callers.
        image = await asyncio.to_thread(self.model.image, prompt, chosen, steps, seed)
        for name, value in self.model.metrics().items():
            self.record_metric(name, value)
        path = pathlib.Path(tempfile.mkdtemp()) / "image.png"
        image.save(path)
        return Path(path)
