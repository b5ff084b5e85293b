"""What is timed of a start: a program that does one and prints the seconds it took.

python -m scripts.bench.boot_tasks beside URL FOLDER      imports while the weights arrive
python -m scripts.bench.boot_tasks after URL FOLDER       imports once they are there
python -m scripts.bench.boot_tasks compiled KEPT FOLDER  a warm-up with the compiled code in KEPT
python -m scripts.bench.boot_tasks cold FOLDER            the same without

`beside` and `after` fetch into a new cache in FOLDER, at 150 MB/s as from a store on the network,
and count from the start of the process: torch and diffusers are all that they import. `compiled`
and `cold` count from when a small UNet is in memory to the end of its warm-up, with compilers'
folders of their own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RATE = 150_000_000
_CLASS = "diffusers:StableDiffusionPipeline"
_SIZE = 64


def main() -> None:
    """Start as the arguments say."""
    _, way, *rest = sys.argv
    print(json.dumps({"seconds": _WAYS[way](*rest)}))


def _beside(url: str, folder: str) -> float:
    from pgetpy.pipelines import boot
    from pgetpy.system.process_clock import seconds_running

    with boot.import_ahead("torch", _CLASS):
        _fetch(url, folder)
    return seconds_running()


def _after(url: str, folder: str) -> float:
    from pgetpy.pipelines import boot
    from pgetpy.system.process_clock import seconds_running

    _fetch(url, folder)
    boot.import_ahead("torch", _CLASS).wait()
    return seconds_running()


def _fetch(url: str, folder: str) -> None:
    import pgetpy
    from pgetpy.settings import Settings

    settings = Settings(limit_rate=_RATE)
    cache = pgetpy.WeightsDownloadCache(
        f"{folder}/cache", min_disk_free=0, any_file=True, settings=settings
    )
    cache.ensure(url, wanted="file")


def _compiled(kept: str, folder: str) -> float:
    from pgetpy.compile_cache import CompileCache

    _use_compilers_folders(folder)
    return _warm_up(CompileCache(kept, name="bench"))


def _cold(folder: str) -> float:
    _use_compilers_folders(folder)
    return _warm_up(None)


def _use_compilers_folders(folder: str) -> None:
    """Have torch keep what it compiles in `folder`; before torch is imported."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        path = Path(folder, name.lower())
        path.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(path)


def _warm_up(cache: Any) -> float:
    """Return the seconds that compiling a small UNet and running it once take."""
    import torch
    from diffusers import UNet2DConditionModel

    from pgetpy.pipelines import boot

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        # Each kind of block takes the compiler some ten seconds.
        block_out_channels=(_SIZE,),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=_SIZE,
        attention_head_dim=8,
    ).eval()
    unet.compile()

    def step(model: Any, height: int, width: int) -> None:
        with torch.inference_mode():
            model(torch.zeros(1, 4, height, width), 1, torch.zeros(1, 16, _SIZE))

    begin = time.perf_counter()
    boot.warm_up(unet, [_SIZE // 8], cache=cache, call=step)
    return time.perf_counter() - begin


_WAYS: dict[str, Callable[..., float]] = {
    "beside": _beside,
    "after": _after,
    "compiled": _compiled,
    "cold": _cold,
}


if __name__ == "__main__":
    main()
