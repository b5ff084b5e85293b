"""A predictor for the tests: images of one base with two LoRA slots, several at a time."""

import asyncio
import os
import tempfile

import torch
from cog import BasePredictor, Input, Path

from pgetpy.pipelines import PipelineSpec, PipelineStore


class Predictor(BasePredictor):
    async def setup(self) -> None:
        torch.set_num_threads(1)
        self.store = PipelineStore(device="cpu")
        await asyncio.to_thread(self._warm)

    def _warm(self) -> None:
        with self.store.pipeline(PipelineSpec(os.environ["BASE"])):
            pass

    async def predict(
        self,
        prompt: str = Input(description="What the image shows"),
        seed: int = Input(default=0),
        lora: str = Input(default=""),
        lora_scale: float = Input(default=1.0),
        extra_lora: str = Input(default=""),
        extra_lora_scale: float = Input(default=1.0),
    ) -> Path:
        loras = [(lora, lora_scale), (extra_lora, extra_lora_scale)]
        spec = PipelineSpec(os.environ["BASE"], loras=[each for each in loras if each[0]])
        return await asyncio.to_thread(self._make, spec, prompt, seed)

    def _make(self, spec: PipelineSpec, prompt: str, seed: int) -> Path:
        with self.store.pipeline(spec) as pipe:
            generator = torch.Generator("cpu").manual_seed(seed)
            image = pipe(prompt, num_inference_steps=2, generator=generator).images[0]
        path = Path(tempfile.mkdtemp()) / "image.png"
        image.save(path)
        return path
