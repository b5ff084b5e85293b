"""LoRAs on a real pipeline, compared bit for bit with fresh ones that diffusers loads by itself."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from pgetpy import WeightsDownloadCache
from pgetpy.errors import BadLoraError, HttpStatusError, WrongBaseModelError
from pgetpy.lora import LoraComposer

from ..support.faults import Status
from ..support.resources import Resource
from ..support.server import Server
from .interrupting import interrupted
from .pipelines import (
    image_of,
    make_pipeline,
    save_kohya_lora,
    save_lora,
    save_transformer_lora,
)

# peft says so when what is active is deleted, and activates another: that is never to happen.
pytestmark = [
    pytest.mark.filterwarnings("error:.*was active which is now deleted"),
    pytest.mark.usefixtures("one_thread"),
]
Slots = dict[str, tuple[str, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of LoRAs: `a` to `d`, of which `b` leaves the text encoder alone, and others."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate("abcd", 1):
        save_lora(folder / f"{name}.safetensors", seed, text=name != "b", rank=2 + seed)
    save_kohya_lora(folder / "kohya.safetensors", 9)
    save_transformer_lora(folder / "transformer.safetensors", 1)
    save_lora(folder / "wide.safetensors", 1, width=64)
    return folder


@pytest.fixture
def urls(folder: Path, server: Server) -> dict[str, str]:
    paths = sorted(folder.glob("*.safetensors"))
    return {p.stem: server.add(f"/{p.name}", Resource(p.read_bytes())) for p in paths}


@pytest.fixture
def pipeline() -> StableDiffusionPipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[..., bytes]:
    """The image that diffusers makes by itself, of files with scales, in a fresh pipeline."""

    @lru_cache
    def image(*layers: tuple[str, float]) -> bytes:
        pipeline = make_pipeline()
        for name, _ in layers:
            pipeline.load_lora_weights(str(folder / f"{name}.safetensors"), adapter_name=name)
        if layers:
            names, scales = zip(*layers, strict=True)
            pipeline.set_adapters(list(names), adapter_weights=list(scales))
        return image_of(pipeline)

    return image


def adapter_tensors(pipeline: StableDiffusionPipeline) -> list[str]:
    parts = (pipeline.unet, pipeline.text_encoder)
    return [name for part in parts for name in part.state_dict() if "lora_" in name]


# Each is what a slot holds, in turn.
WAY: list[tuple[tuple[str, float], ...]] = [
    (),
    (("a", 0.7),),
    (("a", 0.7), ("b", 1.2)),
    (("a", 0.3), ("b", 1.2)),
    (),
    (("b", 1.2), ("a", 0.3)),
    (("c", 1.0),),
    (("a", 0.7),),
    (("c", 1.0), ("d", -0.5), ("b", 1.0)),
    (("kohya", 0.8),),
    (),
    (("a", 0.0),),
    (("c", 1.0),),
    (("kohya", 0.8), ("a", 0.7)),
    (),
]


@pytest.mark.parametrize("keep", [0, 1, 4])
def test_every_composition_on_the_way_is_the_one_of_a_fresh_pipeline(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    keep: int,
) -> None:
    images = {alone(*layers) for layers in WAY}
    assert len(images) == len(set(WAY)) - 1, "all differ, but for the scale 0, which is the base"
    loras = LoraComposer(pipeline, cache, keep_loaded=keep)
    for layers in WAY:
        loras.apply({name: (urls[name], scale) for name, scale in layers})
        assert image_of(pipeline) == alone(*layers), layers
        assert len(loras.loaded) <= len(layers) + keep
    loras.close()
    assert image_of(pipeline) == alone()
    assert adapter_tensors(pipeline) == []


def test_the_weights_of_the_base_are_never_touched(
    pipeline: StableDiffusionPipeline, cache: WeightsDownloadCache, urls: dict[str, str]
) -> None:
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": (urls["a"], 1), "extra": (urls["b"], 1)})
    image_of(pipeline)
    now = pipeline.unet.state_dict()
    assert all(
        torch.equal(tensor, now.get(name, now.get(_wrapped(name))))
        for name, tensor in before.items()
    )
    loras.close()
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def _wrapped(name: str) -> str:
    module, _, kind = name.rpartition(".")
    return f"{module}.base_layer.{kind}"


def test_going_back_to_a_lora_loads_nothing(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loras = LoraComposer(pipeline, cache)
    for name in "abc":
        loras.apply({"main": (urls[name], 1)})
        alone((name, 1.0))
    monkeypatch.setattr(StableDiffusionPipeline, "load_lora_weights", None)
    for name in "acb":
        loras.apply({"main": (urls[name], 1)})
        assert image_of(pipeline) == alone((name, 1.0))


@pytest.mark.parametrize("name", ["transformer", "wide"])
def test_what_is_for_another_base_is_refused_before_the_pipeline_is_touched(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    name: str,
) -> None:
    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": (urls["a"], 0.7)})
    before = adapter_tensors(pipeline)
    with pytest.raises(WrongBaseModelError):
        loras.apply({"main": (urls["a"], 0.7), "extra": (urls[name], 1)})
    assert adapter_tensors(pipeline) == before
    assert image_of(pipeline) == alone(("a", 0.7))


def test_a_url_that_fails_leaves_the_image_as_it_was(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    server: Server,
    folder: Path,
) -> None:
    base = folder.parent / "base.safetensors"
    save_file({"unet.conv_in.weight": torch.zeros(2, 2)}, base)
    gone = server.add("/gone.safetensors", Resource(b"x", faults=[Status(404)]))
    other = server.add("/base.safetensors", Resource(base.read_bytes()))
    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": (urls["a"], 0.7)})
    for url, error in ((gone, HttpStatusError), (other, BadLoraError)):
        with pytest.raises(error):
            loras.apply({"main": (urls["b"], 1), "extra": (url, 1)})
        assert image_of(pipeline) == alone(("a", 0.7))


def test_what_diffusers_refuses_itself_is_undone(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    server: Server,
    folder: Path,
    tmp_path: Path,
) -> None:
    tensors = load_file(folder / "a.safetensors")
    save_file({**tensors, "no.place.at.all": torch.zeros(2)}, tmp_path / "bad.safetensors")
    url = server.add("/bad.safetensors", Resource((tmp_path / "bad.safetensors").read_bytes()))
    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": (urls["b"], 1)})
    with pytest.raises(ValueError, match="Invalid LoRA"):
        loras.apply({"main": (url, 1)})
    loras.apply({"main": (urls["b"], 1)})
    assert image_of(pipeline) == alone(("b", 1.0))


def test_an_interruption_anywhere_in_diffusers_is_undone_by_the_next_composition(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
) -> None:
    loras = LoraComposer(pipeline, cache, keep_loaded=1)
    change = partial(loras.apply, {"main": (urls["c"], 1.0), "extra": (urls["d"], -0.5)})
    number, tries = 1, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loras.apply({"main": (urls["a"], 0.7)})
        while interrupted(change, number):
            tries += 1
            begun = loras.loaded == ()
            if tries % 2:
                loras.apply({})
                assert image_of(pipeline) == alone(), number
                assert not begun or adapter_tensors(pipeline) == []
            loras.apply({"main": (urls["a"], 0.7)})
            assert image_of(pipeline) == alone(("a", 0.7)), number
            number = number * 3 // 2 + 1
    assert tries > 10


def test_fifty_swaps_leak_nothing(
    pipeline: StableDiffusionPipeline,
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
) -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    loras = LoraComposer(pipeline, cache, keep_loaded=1)

    def swap() -> None:
        for name in "abcd":
            loras.apply({"main": (urls[name], 1)})
        loras.clear()

    swap()
    before, modules = tensors(), len(list(pipeline.unet.modules()))
    for _ in range(13):
        swap()
    assert (tensors(), len(list(pipeline.unet.modules()))) == (before, modules)
    assert image_of(pipeline) == alone()
