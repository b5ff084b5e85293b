"""What is timed of pipelines: a program that loads one and prints the seconds it took.

python -m scripts.bench.pipeline_tasks make MODEL                make it, unless it is there
python -m scripts.bench.pipeline_tasks bare MODEL FOLDER         from_pretrained of the folder
python -m scripts.bench.pipeline_tasks fill MODEL FOLDER         build it in a store at FOLDER
python -m scripts.bench.pipeline_tasks store MODEL FOLDER        from that store, in a new process
python -m scripts.bench.pipeline_tasks memory MODEL FOLDER       from memory, references resolved

The model is a Stable Diffusion with a UNet of some 600 MB and made-up weights. Imports are not
counted. `memory` gives the median of many.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TIMES = 200


def main() -> None:
    """Load as the arguments say."""
    _, way, model, *rest = sys.argv
    if way == "make":
        if not Path(model).exists():
            _make(Path(model))
        return
    import diffusers.loaders
    import transformers  # noqa: F401
    from diffusers import StableDiffusionPipeline  # noqa: F401

    import pgetpy.pipelines  # noqa: F401

    diffusers.utils.logging.disable_progress_bar()
    print(json.dumps({"seconds": _WAYS[way](model, *rest)}))


def _bare(model: str, folder: str) -> float:
    from diffusers import StableDiffusionPipeline

    begin = time.perf_counter()
    StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    return time.perf_counter() - begin


def _fill(model: str, folder: str) -> float:
    from pgetpy.pipelines import PipelineSpec

    begin = time.perf_counter()
    _store(folder).build(PipelineSpec(model)).close()
    return time.perf_counter() - begin


def _from_store(model: str, folder: str) -> float:
    from pgetpy.pipelines import PipelineSpec

    store = _store(folder)
    begin = time.perf_counter()
    with store.pipeline(PipelineSpec(model)):
        return time.perf_counter() - begin


def _memory(model: str, folder: str) -> float:
    from pgetpy.pipelines import PipelineSpec

    store, spec, taken = _store(folder), PipelineSpec(model), []
    with store.pipeline(spec):
        pass
    for _ in range(_TIMES):
        begin = time.perf_counter()
        with store.pipeline(spec):
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def _store(folder: str) -> Any:
    import pgetpy
    from pgetpy.pipelines import PipelineStore

    cache = pgetpy.WeightsDownloadCache(f"{folder}/cache", min_disk_free=0)
    return PipelineStore(cache, device="cpu")


_WAYS: dict[str, Callable[[str, str], float]] = {
    "bare": _bare,
    "fill": _fill,
    "store": _from_store,
    "memory": _memory,
}


def _make(folder: Path) -> None:
    """Save a pipeline whose UNet has some 150 million parameters."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    width = 768
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(256, 512, 576),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=8,
        )
    unet = unet.to_empty(device="cpu")
    for parameter in unet.parameters():
        # Random ones would take minutes to make.
        values = torch.linspace(-0.02, 0.02, parameter.numel())
        parameter.data.copy_(values.reshape(parameter.shape))
    text = CLIPTextConfig(
        vocab_size=64, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2,
        num_attention_heads=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    letters = [chr(each) for each in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(32,), norm_num_groups=8),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(
            vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=77
        ),
        unet=unet.eval(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = folder.with_suffix(".part")
    pipeline.save_pretrained(partial, safe_serialization=True)
    with contextlib.suppress(FileExistsError):
        os.rename(partial, folder)


if __name__ == "__main__":
    main()
