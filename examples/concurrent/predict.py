"""What is in a LoRA, told to several callers at a time.

While one waits for its download the others go on: of those who want the same file one fetches it.
"""

import asyncio
import json
import os
import pathlib
from collections import Counter

from cog import BasePredictor, Input, Secret
from safetensors import safe_open

import pgetpy


class Predictor(BasePredictor):
    async def setup(self) -> None:
        # Whoever calls a predictor names the URLs: without a policy they reach inner hosts too.
        policy = None if os.environ.get("TRUST_LORA_URLS") else pgetpy.Policy.public()
        self.cache = pgetpy.WeightsDownloadCache(policy=policy)

    async def predict(
        self,
        lora: str = Input(description="URL, hf://OWNER/NAME, civitai.com/models/ID"),
        hf_api_token: Secret | None = Input(description="For hf:// references", default=None),
        civitai_api_token: Secret | None = Input(description="For civitai.com", default=None),
    ) -> str:
        tokens = {"hf_api_token": hf_api_token, "civitai_api_token": civitai_api_token}
        hit = self.cache.lookup(lora, **tokens) is not None
        self.record_metric("cache.hits", int(hit))
        self.record_metric("cache.misses", int(not hit))
        path = await self.cache.ensure_async(lora, **tokens)
        # Whatever blocks in an async predictor holds up all of its callers.
        return await asyncio.to_thread(described, path)


def described(path: pathlib.Path) -> str:
    """Return, as JSON, what a safetensors file says of itself."""
    kinds: Counter[str] = Counter()
    parameters = 0
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  it is no mapping
            part = file.get_slice(name)
            kinds[part.get_dtype()] += 1
            count = 1
            for length in part.get_shape():
                count *= length
            parameters += count
        metadata = file.metadata() or {}
    return json.dumps({"tensors": kinds, "parameters": parameters, "metadata": metadata})
