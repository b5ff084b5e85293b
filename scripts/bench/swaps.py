"""What is timed of LoRAs: a program that swaps one on a pipeline and prints the seconds it took.

python -m scripts.bench.swaps make LORA                   make it, unless it is there
python -m scripts.bench.swaps apply LORA URL FOLDER DEVICE       by LoraComposer, from the cache
python -m scripts.bench.swaps cold LORA URL FOLDER DEVICE        by LoraComposer, from the network
python -m scripts.bench.swaps load LORA URL FOLDER DEVICE        by the pipeline alone, from disk
python -m scripts.bench.swaps download LORA URL FOLDER DEVICE    by pgetpy.download, then the same
python -m scripts.bench.swaps scale LORA URL FOLDER DEVICE       another scale, beyond the
                                                                 pipeline's own call for it

LORA, of some 100 MB, is what URL serves. The pipeline has the UNet of Stable Diffusion with made-up
weights. Printed as JSON: the seconds, and a digest of what the UNet gives in the end, which is the
same for all ways. With BENCH_SMALL in the environment the UNet has a tenth of the widths, to try
things out, and LORA some 2 MB.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pgetpy
from pgetpy import WeightsDownloadCache
from pgetpy.lora import LoraComposer

_SMALL = "BENCH_SMALL" in os.environ
_BYTES = 2_000_000 if _SMALL else 100_000_000
_WIDTHS = (32, 64, 128, 128) if _SMALL else (320, 640, 1280, 1280)
_TIMES = 30
_SCALE = 0.8


def main() -> None:
    """Swap as the arguments say."""
    _, way, lora, *rest = sys.argv
    if way == "make":
        if not Path(lora).exists():
            _write_lora(_pipeline("meta").unet, Path(lora))
        return
    url, folder, device = rest
    swap = Swap(_pipeline(device), Path(lora), url, Path(folder), device)
    seconds = _WAYS[way](swap)
    print(json.dumps({"seconds": seconds, "digest": _digest(swap.pipeline.unet, device)}))


@dataclass(frozen=True)
class Swap:
    """A pipeline, and a LoRA as a file and by its URL."""

    pipeline: Any
    lora: Path
    url: str
    folder: Path
    device: str

    def composer(self) -> LoraComposer:
        """Return a composer with an empty cache."""
        cache = WeightsDownloadCache(self.folder / "cache", min_disk_free=0)
        return LoraComposer(self.pipeline, cache)

    def slots(self, scale: float) -> dict[str, tuple[str, float]]:
        """Return what is to be composed."""
        return {"main": (self.url, scale)}

    def load(self, path: Path) -> None:
        """Load `path` by the pipeline alone."""
        self.pipeline.load_lora_weights(str(path), adapter_name="main")
        self.pipeline.set_adapters(["main"], adapter_weights=[_SCALE])


def _apply(swap: Swap) -> float:
    cache = WeightsDownloadCache(swap.folder / "cache", min_disk_free=0)
    cache.ensure(swap.url)
    cache.settle()
    composer = LoraComposer(swap.pipeline, cache)
    return _timed(partial(composer.apply, swap.slots(_SCALE)), swap.device)


def _cold(swap: Swap) -> float:
    composer = swap.composer()
    return _timed(partial(composer.apply, swap.slots(_SCALE)), swap.device)


def _load(swap: Swap) -> float:
    swap.lora.read_bytes()
    return _timed(partial(swap.load, swap.lora), swap.device)


def _download(swap: Swap) -> float:
    def both() -> None:
        dest = swap.folder / "lora.safetensors"
        pgetpy.download(swap.url, dest)
        swap.load(dest)

    return _timed(both, swap.device)


def _scale(swap: Swap) -> float:
    composer = swap.composer()
    composer.apply(swap.slots(0.1))
    [name] = swap.pipeline.get_active_adapters()
    ours, theirs = [], []
    for number in range(_TIMES):
        slots, scales = swap.slots(0.2 + number / 100), [0.7 + number / 100]
        ours.append(_timed(partial(composer.apply, slots), swap.device))
        theirs.append(_timed(partial(swap.pipeline.set_adapters, [name], scales), swap.device))
    composer.apply(swap.slots(_SCALE))
    return statistics.median(ours) - statistics.median(theirs)


_WAYS: dict[str, Callable[[Swap], float]] = {
    "apply": _apply,
    "cold": _cold,
    "load": _load,
    "download": _download,
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
        unet = UNet2DConditionModel(
            block_out_channels=_WIDTHS, cross_attention_dim=768, attention_head_dim=8
        )
    # Few processors compute with bfloat16, and the others take minutes for it.
    unet = unet.to(torch.float32 if device == "cpu" else torch.bfloat16)
    if device != "meta":
        unet = unet.to_empty(device=device)
        _fill(unet, device)
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


def _fill(unet: Any, device: str) -> None:
    for parameter in unet.parameters():
        # Random ones would take minutes to make.
        values = torch.linspace(-0.02, 0.02, parameter.numel(), device=device)
        parameter.data.copy_(values.reshape(parameter.shape))


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
    # Each way is a process of its own, and cuDNN may choose another algorithm in each.
    torch.backends.cudnn.deterministic = True
    with torch.no_grad():
        sample, text = torch.randn(1, 4, 32, 32, generator=generator), torch.ones(1, 8, 768)
        made = unet(sample.to(device, unet.dtype), 1, text.to(device, unet.dtype)).sample
    return hashlib.sha256(made.float().cpu().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    main()
