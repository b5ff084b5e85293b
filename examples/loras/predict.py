"""Stable Diffusion with two LoRA slots, each filled by URL.

BASE_WEIGHTS_URL names an archive of what `save_pretrained` writes; ../README.md has the rest.
"""

import os
import tempfile

import torch
from cog import BasePredictor, Input, Path, Secret
from diffusers import StableDiffusionPipeline

import pgetpy
from pgetpy.lora import LoraComposer


class Predictor(BasePredictor):
    def setup(self) -> None:
        base = Path(os.environ.get("BASE_WEIGHTS_DIR", "base-weights"))
        # The folder appears once everything is in it, so that one that exists is whole.
        if not base.exists():
            pgetpy.extract(os.environ["BASE_WEIGHTS_URL"], base)
        cuda = torch.cuda.is_available()
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            base, torch_dtype=torch.float16 if cuda else torch.float32, local_files_only=True
        ).to("cuda" if cuda else "cpu")
        # Whoever calls a predictor names the URLs: without a policy they reach inner hosts too.
        policy = None if os.environ.get("TRUST_LORA_URLS") else pgetpy.Policy.public()
        self.cache = pgetpy.WeightsDownloadCache(policy=policy)
        self.loras = LoraComposer(self.pipeline, self.cache)
        self.image = Path(tempfile.mkdtemp()) / "image.png"

    def predict(
        self,
        prompt: str = Input(description="What the image shows"),
        steps: int = Input(description="Denoising steps", default=30, ge=1, le=100),
        seed: int = Input(description="The same seed gives the same image", default=0),
        lora: str = Input(description="URL, hf://OWNER/NAME, civitai.com/models/ID", default=""),
        lora_scale: float = Input(description="How strong it is", default=1.0),
        extra_lora: str = Input(description="A second LoRA", default=""),
        extra_lora_scale: float = Input(description="How strong it is", default=1.0),
        hf_api_token: Secret | None = Input(description="For hf:// references", default=None),
        civitai_api_token: Secret | None = Input(description="For civitai.com", default=None),
    ) -> Path:
        slots = {"main": (lora, lora_scale), "extra": (extra_lora, extra_lora_scale)}
        before = self.cache.cache_info()
        # What fails in here leaves the pipeline as it was.
        self.loras.apply(
            {name: slot for name, slot in slots.items() if slot[0]},
            hf_api_token=hf_api_token,
            civitai_api_token=civitai_api_token,
        )
        after = self.cache.cache_info()
        self.record_metric("cache.hits", after.hits - before.hits)
        self.record_metric("cache.misses", after.misses - before.misses)

        generator = torch.Generator("cpu").manual_seed(seed)
        result = self.pipeline(prompt, num_inference_steps=steps, generator=generator)
        result.images[0].save(self.image)
        return self.image
