"""Images of Stable Diffusion with up to two LoRAs, for several callers at a time.

BASE names the model: s3://BUCKET/FOLDER, hf://OWNER/NAME@REVISION or a folder. torch and diffusers
are imported while it is fetched, so nothing here imports them at the top.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pgetpy
from pgetpy.pipelines import PipelineSpec, PipelineStore, attention, boot

BASE = os.environ["BASE"]
DTYPE = os.environ.get("DTYPE", "auto")
Lora = tuple[str, float]


class Model:
    """Makes images; any number of threads may call it."""

    def __init__(self) -> None:
        boot.tune()
        # The operator's credentials open the base.
        self.store = PipelineStore(
            pgetpy.WeightsDownloadCache(progress=boot.progress), prepare=self._prepare
        )
        # Callers name the LoRAs. Without a policy, their URLs could reach internal hosts.
        policy = None if os.environ.get("TRUST_LORA_URLS") else pgetpy.Policy.public()
        self.loras = pgetpy.WeightsDownloadCache(policy=policy)
        self.choice = attention.AttentionChoice("")
        spec = PipelineSpec(BASE, dtype=DTYPE)
        with boot.import_ahead("torch", "diffusers:StableDiffusionPipeline"):
            built = self.store.build(spec)
        with built, boot.stage("pipeline", "load"), self.store.pipeline(spec):
            pass  # in memory from now on
        boot.go_offline()
        if "BOOT_REPORT" in os.environ:
            boot.report("pipelines").save(os.environ["BOOT_REPORT"])

    def image(self, prompt: str, loras: Sequence[Lora], steps: int, seed: int) -> Any:
        """Return the image as a PIL one."""
        import torch

        with ExitStack() as held:
            # Leased: a cache that fills up must not evict a LoRA before it is loaded.
            leased = self.loras.hold_many([reference for reference, _ in loras])
            for each in leased:
                held.enter_context(each.lease)
            scales = [scale for _, scale in loras]
            files = [(str(at.path), by) for at, by in zip(leased, scales, strict=True)]
            # Callers with the same LoRAs run side by side, others take turns.
            pipe = held.enter_context(
                self.store.pipeline(PipelineSpec(BASE, dtype=DTYPE, loras=files))
            )
            generator = torch.Generator("cpu").manual_seed(seed)
            return pipe(prompt, num_inference_steps=steps, generator=generator).images[0]

    def metrics(self) -> dict[str, str | float]:
        """Return what is worth a look beside each image."""
        return {**self.choice.metrics(), "memory_bytes": sum(self.store.memory())}

    def _prepare(self, pipeline: Any) -> None:
        pipeline.set_progress_bar_config(disable=True)
        model = getattr(pipeline, "transformer", None) or pipeline.unet
        self.choice = attention.choose(model)
