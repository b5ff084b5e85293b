"""Stores of tiny pipelines, and the images that diffusers makes of them alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgetpy import WeightsDownloadCache
from pgetpy.pipelines import PipelineSpec, PipelineStore

from .pipelines import PROMPT, image_of, load_composed, load_pipeline, save_lora, save_pipeline

Lora = tuple[Path, float]


def quiet(pipeline: Any) -> None:
    pipeline.set_progress_bar_config(disable=True)


@contextmanager
def opened_store(folder: Path, **options: Any) -> Iterator[PipelineStore]:
    """A store whose cache is in `folder`."""
    with WeightsDownloadCache(folder / "cache", min_disk_free=0) as cache:
        yield PipelineStore(cache, **{"prepare": quiet, "device": "cpu", **options})


@dataclass
class Shop:
    """A base and two LoRAs on disk, and what diffusers makes of them alone."""

    base: Path
    first: Path
    second: Path
    _made: dict[tuple[Any, ...], bytes] = field(default_factory=dict)

    def spec(self, *loras: Lora, **options: Any) -> PipelineSpec:
        return PipelineSpec(str(self.base), loras=[(str(at), by) for at, by in loras], **options)

    def alone(self, *loras: Lora, prompt: str = PROMPT, seed: int = 7) -> bytes:
        """The image of a pipeline that has seen nothing else."""
        asked = (loras, prompt, seed)
        if asked not in self._made:
            pipeline = load_composed(self.base, *loras)
            self._made[asked] = image_of(pipeline, prompt, seed=seed)
        return self._made[asked]


def make_shop(folder: Path, scheduler: Any = None) -> Shop:
    """Make a shop whose base has a scheduler of the class `scheduler`."""
    base = save_pipeline(folder / "base")
    if scheduler is not None:
        pipeline = load_pipeline(base)
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        pipeline.save_pretrained(base)
    return Shop(
        base,
        save_lora(folder / "first.safetensors", 1),
        save_lora(folder / "second.safetensors", 2),
    )


def in_threads(works: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """Run `works` in so many threads, and return what they return, in order."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work) for work in works]
        return [future.result(240) for future in futures]
