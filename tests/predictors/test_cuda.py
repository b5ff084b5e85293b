"""Tensors and LoRAs on a GPU, judged by safetensors and diffusers; on the CPU where there is none.

Nothing here is made up: what is slow to copy, or queued behind other work, is so by CUDA itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.errors import NotWeightsError
from pgetpy.lora import LoraComposer
from tests.support.weights import serve

from ..support.resources import Resource
from ..support.server import Server
from .pipelines import image_of, make_pipeline, save_lora

PATH = "/model.safetensors"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# More than all buffers on the way together, so that each is filled several times.
LARGE = 40_000_001


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A checkpoint of tensors of many sizes, few of which begin at a multiple of 8."""
    generator = torch.Generator().manual_seed(1)
    sizes = [LARGE, 1, 70_001, 0, 3 << 20, 5, 9_999_999]
    made = {
        f"{at:02}": torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
        for at, size in enumerate(sizes)
    }
    path = tmp_path / "large.safetensors"
    save_file({**made, "half": torch.randn(1001, 77, generator=generator).bfloat16()}, path)
    return path


def same(found: dict[str, Any], judge: dict[str, Any]) -> bool:
    """Whether all tensors are on the device, with names, dtypes and values of the judge."""
    return found.keys() == judge.keys() and all(
        each.device.type == DEVICE and each.dtype == judge[name].dtype and each.equal(judge[name])
        for name, each in found.items()
    )


def test_from_a_url_and_from_the_cache_they_are_what_safetensors_loads(
    server: Server, cache: WeightsDownloadCache, large: Path
) -> None:
    judge = load_file(large, device=DEVICE)
    url = serve(server, large.read_bytes(), PATH)
    for _ in range(2):
        assert same(tensors.load(url, DEVICE, cache=cache), judge)


def test_those_of_a_file_and_of_a_choice_are_too(cache: WeightsDownloadCache, large: Path) -> None:
    judge = load_file(large, device=DEVICE)
    assert same(tensors.load(large, DEVICE, cache=cache), judge)
    found = tensors.load(large, DEVICE, only=["02", "half"], cache=cache)
    assert same(found, {name: judge[name] for name in ("02", "half")})
    half = tensors.load(large, DEVICE, dtype=torch.float32, cache=cache)["half"]
    assert half.equal(judge["half"].float())


def test_memory_that_work_in_the_queue_still_reads_is_not_written_to(
    cache: WeightsDownloadCache, large: Path
) -> None:
    judge = load_file(large, device=DEVICE)
    for _ in range(4):
        # All of it is queued before the first multiplication is done. Torch's allocator already
        # gives its memory to the next request.
        block = torch.ones(2000, 2000, device=DEVICE)
        values = torch.arange(LARGE, device=DEVICE) % 251
        expected = int(values.sum())
        for _ in range(10):
            block = block @ block / 2000
        total = values.sum() + block.sum().to(torch.int64) * 0
        del values
        assert same(tensors.load(large, DEVICE, cache=cache), judge)
        assert int(total) == expected


def test_a_stream_that_is_left_midway_harms_nothing_that_is_made_next(
    server: Server, cache: WeightsDownloadCache, large: Path
) -> None:
    judge = load_file(large, device=DEVICE)
    url = serve(server, large.read_bytes(), PATH)
    for _ in range(5):
        found = tensors.stream(url, DEVICE, cache=cache)
        name, tensor = next(iter(found))
        assert tensor.equal(judge[name])
        del found, tensor
        made = [torch.full((size,), 7, dtype=torch.uint8, device=DEVICE) for size in (LARGE, 1000)]
        assert all(bool((each == 7).all()) for each in made)
        cache.remove(url)
    assert same(tensors.load(url, DEVICE, cache=cache), judge)


def test_a_file_that_ends_early_is_refused(
    server: Server, cache: WeightsDownloadCache, large: Path
) -> None:
    url = serve(server, large.read_bytes()[:-1000], PATH)
    with pytest.raises(NotWeightsError):
        tensors.load(url, DEVICE, cache=cache)


@pytest.mark.usefixtures("one_thread")
def test_a_lora_gives_the_image_that_diffusers_makes_of_it(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    torch.backends.cudnn.deterministic = True
    paths = [save_lora(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate("ab", 1)]
    urls = [server.add(f"/{path.name}", Resource(path.read_bytes())) for path in paths]
    plain = make_pipeline().to(DEVICE)
    without = image_of(plain)
    judge = make_pipeline().to(DEVICE)
    for path in paths:
        judge.load_lora_weights(str(path), adapter_name=path.stem)
    judge.set_adapters(["a", "b"], adapter_weights=[0.8, 0.5])
    composer = LoraComposer(plain, cache)
    composer.apply({"a": (urls[0], 0.8), "b": (urls[1], 0.5)})
    assert image_of(plain) == image_of(judge) != without
    composer.apply({})
    assert image_of(plain) == without
