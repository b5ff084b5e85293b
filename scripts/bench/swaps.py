"""What is timed of LoRAs: a program that swaps one on a pipeline and prints the seconds it took.

python -m scripts.bench.swaps apply LORA FOLDER DEVICE               by LoraComposer, from the cache
python -m scripts.bench.swaps load_lora_weights LORA FOLDER DEVICE   by the pipeline alone
python -m scripts.bench.swaps scale LORA FOLDER DEVICE               another scale, by LoraComposer:
                                                                     beyond the pipeline's own call

The pipeline has the UNet of Stable Diffusion with made-up weights; LORA is made for it, of some
100 MB, where there is none. Printed as JSON: the seconds, and a digest of what the UNet gives in
the end, which is the same for all ways.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

_BYTES = 100_000_000
_TIMES = 30
_SCALE = 0.8


def main() -> None:
    """Swap as the arguments say."""
    _, way, lora, folder, device = sys.argv
    pipeline = _pipeline(device)
    path = Path(lora).absolute()
    if not path.exists():
        _write_lora(pipeline.unet, path)
    seconds = _WAYS[way](pipeline, path, Path(folder), device)
    print(json.dumps({"seconds": seconds, "digest": _digest(pipeline.unet, device)}))


def _apply(pipeline: Any, path: Path, folder: Path, device: str) -> float:
    from pgetpy import WeightsDownloadCache
    from pgetpy.lora import LoraComposer

    cache = WeightsDownloadCache(folder / "cache", min_disk_free=0)
    cache.ensure(path.as_uri())
    cache.settle()
    composer = LoraComposer(pipeline, cache)
    return _timed(lambda: composer.apply({"main": (path.as_uri(), _SCALE)}), device)


def _load_lora_weights(pipeline: Any, path: Path, folder: Path, device: str) -> float:
    path.read_bytes()

    def load() -> None:
        pipeline.load_lora_weights(str(path), adapter_name="main")
        pipeline.set_adapters(["main"], adapter_weights=[_SCALE])

    return _timed(load, device)


def _scale(pipeline: Any, path: Path, folder: Path, device: str) -> float:
    from pgetpy import WeightsDownloadCache
    from pgetpy.lora import LoraComposer

    composer = LoraComposer(pipeline, WeightsDownloadCache(folder / "cache", min_disk_free=0))
    composer.apply({"main": (path.as_uri(), 0.1)})
    [name] = pipeline.get_active_adapters()
    ours, theirs = [], []
    for number in range(_TIMES):
        scales = [0.2 + number / 100, 0.7 + number / 100]
        slots = {"main": (path.as_uri(), scales[0])}
        ours.append(_timed(partial(composer.apply, slots), device))
        theirs.append(_timed(partial(pipeline.set_adapters, [name], [scales[1]]), device))
    composer.apply({"main": (path.as_uri(), _SCALE)})
    return statistics.median(ours) - statistics.median(theirs)


_WAYS: dict[str, Callable[[Any, Path, Path, str], float]] = {
    "apply": _apply,
    "load_lora_weights": _load_lora_weights,
    "scale": _scale,
}


def _timed(work: Callable[[], object], device: str) -> float:
    _wait_for(device)
    begin = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - begin


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _pipeline(device: str) -> Any:
    """Return a pipeline of which nothing but the UNet is there."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    unet = unet.to(torch.bfloat16).to_empty(device=device)
    for parameter in unet.parameters():
        # Random ones would take minutes to make.
        values = torch.linspace(-0.02, 0.02, parameter.numel(), device=device)
        parameter.data.copy_(values.reshape(parameter.shape))
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=unet.eval(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _write_lora(unet: Any, path: Path) -> None:
    """Write a LoRA of all attention of `unet`."""
    from safetensors.torch import save_file

    ends = (".to_q", ".to_k", ".to_v", ".to_out.0")
    linears = {name: each for name, each in unet.named_modules() if name.endswith(ends)}
    widths = sum(sum(each.weight.shape) for each in linears.values())
    rank = max(4, _BYTES // (2 * widths))
    weights = {}
    for name, each in linears.items():
        out, into = each.weight.shape
        weights[f"unet.{name}.lora_A.weight"] = torch.randn(rank, into).to(torch.bfloat16) / into
        weights[f"unet.{name}.lora_B.weight"] = torch.randn(out, rank).to(torch.bfloat16) / rank
    partial = path.with_suffix(".part")
    save_file(weights, partial)
    partial.rename(path)


def _digest(unet: Any, device: str) -> str:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        sample, text = torch.randn(1, 4, 32, 32, generator=generator), torch.ones(1, 8, 768)
        made = unet(sample.to(device, unet.dtype), 1, text.to(device, unet.dtype)).sample
    return hashlib.sha256(made.float().cpu().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()
