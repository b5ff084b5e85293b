"""LoRAs on compiled models: the bits of those that are not, and no graph more than needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from pgetpy import WeightsDownloadCache
from pgetpy.errors import BadLoraError, BadSettingError, UsageError
from pgetpy.lora import LoraComposer

from ..support.resources import Resource
from ..support.server import Server
from .interrupting import interrupted
from .pipelines import image_of, make_pipeline, save_kohya_lora, save_lora
from .transformers import (
    TO_Q,
    WAN_TO_Q,
    WIDTH,
    X_EMBEDDER,
    flux_bits,
    make_flux,
    make_wan,
    save_adapter,
    wan_bits,
)

pytestmark = pytest.mark.usefixtures("one_thread")
# The highest of the files below, so that no padding changes the order of additions.
RANK = 4
Layer = tuple[str, float]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRAs of the UNet, `few` and `others` of some of its modules; `text` of the encoder too."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate("abc", 1):
        save_lora(folder / f"{name}.safetensors", seed, text=False, rank=RANK)
    save_lora(folder / "text.safetensors", 4, rank=RANK)
    save_lora(folder / "high.safetensors", 5, text=False, rank=2 * RANK)
    save_kohya_lora(folder / "kohya.safetensors", 6, rank=RANK)
    whole = load_file(folder / "c.safetensors")
    for name, words in (("few", "to_q"), ("others", "to_k")):
        some = {key: value for key, value in whole.items() if words in key}
        save_file(some, folder / f"{name}.safetensors")
    unet = {k: v for k, v in load_file(folder / "kohya.safetensors").items() if "unet" in k}
    alphas = {k: v / 2 for k, v in unet.items() if k.endswith("alpha")}
    save_file({**unet, **alphas}, folder / "alpha.safetensors")
    half = {key: value.half() for key, value in load_file(folder / "b.safetensors").items()}
    save_file(half, folder / "half.safetensors")
    return folder


@pytest.fixture
def urls(folder: Path, server: Server) -> dict[str, str]:
    paths = sorted(folder.glob("*.safetensors"))
    return {p.stem: server.add(f"/{p.name}", Resource(p.read_bytes())) for p in paths}


@pytest.fixture
def alone(folder: Path) -> Callable[..., bytes]:
    """The image that diffusers makes by itself, with nothing compiled."""

    def image(*layers: Layer) -> bytes:
        pipeline = make_pipeline()
        names = [f"adapter_{name}" for name, _ in layers]
        for (file, _), name in zip(layers, names, strict=True):
            pipeline.load_lora_weights(str(folder / f"{file}.safetensors"), adapter_name=name)
        if layers:
            pipeline.set_adapters(names, adapter_weights=[scale for _, scale in layers])
        return image_of(pipeline, steps=1)

    return image


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def slots(urls: dict[str, str], *layers: Layer) -> dict[str, Layer]:
    return {name: (urls[name], scale) for name, scale in layers}


# ------------------------------------------------------------------------------ wrapped, or not


def test_what_torch_compile_has_wrapped_is_refused_with_the_way_that_works(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_pipeline()
    whole = pipeline.unet
    pipeline.unet = torch.compile(whole, backend="eager")
    with pytest.raises(BadSettingError, match=r"unet is wrapped .* pipeline\.unet\.compile\(\)"):
        LoraComposer(pipeline, cache)
    pipeline.unet = whole
    whole.mid_block = torch.compile(whole.mid_block, backend="eager")
    with pytest.raises(BadSettingError, match=r"unet is wrapped"):
        LoraComposer(pipeline, cache)
    whole.mid_block = whole.mid_block._orig_mod
    loras = LoraComposer(pipeline, cache)
    pipeline.unet = torch.compile(whole, backend="eager")
    with pytest.raises(UsageError, match=r"unet is wrapped .* pipeline\.unet\.compile\(\)"):
        loras.apply(slots(urls, ("a", 1.0)))
    pipeline.unet = whole
    loras.apply({})
    assert image_of(pipeline, steps=1) == alone()


def test_in_place_compiling_changes_no_image(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_pipeline()
    pipeline.unet.mid_block.compile(backend="eager")
    pipeline.text_encoder.compile(backend="eager")
    loras = LoraComposer(pipeline, cache)
    for layers in ([("text", 0.7)], []):
        loras.apply(slots(urls, *layers))
        assert image_of(pipeline, steps=1) == alone(*layers)


# ----------------------------------------------------------------------------------- swapping


def test_going_back_and_forth_between_loras_compiles_nothing_anew(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes], folder: Path
) -> None:
    pipeline = make_pipeline()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    pipeline.unet.compile(backend="eager")
    loras.apply(slots(urls, ("a", 1.0)))
    assert image_of(pipeline, steps=1) == alone(("a", 1.0))
    loras.apply({})
    assert image_of(pipeline, steps=1) == alone()
    before = graphs()
    assert before > 0
    for layers in ([("b", 0.7)], [("a", 1.0)], [("c", -0.5)], [], [("few", 0.3)], [("a", 0.0)], []):
        loras.apply(slots(urls, *layers))
        assert image_of(pipeline, steps=1) == alone(*layers), layers
        assert [name for name in urls if urls[name] in loras.loaded] == [
            layers[0][0] if layers else name for name in urls if urls[name] in loras.loaded
        ]
    assert graphs() == before
    loras.close()
    assert image_of(pipeline, steps=1) == alone()
    assert not [name for name in pipeline.unet.state_dict() if "lora" in name]
    # What was loaded from there was overwritten in memory alone.
    cached = [path.read_bytes() for path in cache.path.rglob("*") if path.is_file()]
    digests = {hashlib.sha256(data).digest() for data in cached}
    for name in "abc":
        data = (folder / f"{name}.safetensors").read_bytes()
        assert hashlib.sha256(data).digest() in digests


def test_loras_of_different_modules_share_an_adapter_once_both_are_known(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_pipeline()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    pipeline.unet.mid_block.compile(backend="eager")
    seen = []
    for name in ("few", "others", "few", "others", "few"):
        loras.apply(slots(urls, (name, 0.7)))
        assert image_of(pipeline, steps=1) == alone((name, 0.7))
        seen.append(graphs())
    assert len(set(seen[1:])) == 1


def test_two_slots_are_swapped_as_one_is(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_pipeline()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    pipeline.unet.mid_block.compile(backend="eager")
    way: list[list[Layer]] = [
        [("a", 0.7), ("b", 0.2)],
        [("c", 0.5)],
        [],
        [("b", 0.7), ("c", 0.2)],
        [("a", 0.5)],
        [("a", 0.5), ("few", 1.0)],
        [],
    ]
    seen = []
    for layers in way:
        loras.apply(slots(urls, *layers))
        assert image_of(pipeline, steps=1) == alone(*layers), layers
        seen.append(graphs())
    assert len(set(seen[2:])) == 1, seen


def test_what_cannot_be_swapped_is_loaded_and_leaves_no_trace(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_pipeline()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    way: list[list[Layer]] = [
        [("text", 0.7)],
        [("text", 0.3)],
        [("a", 0.7)],
        [("a", 0.7), ("text", 1.0)],
        [],
        [("alpha", 0.7)],
        [("b", 1.0)],
        [("alpha", 0.5), ("b", 1.0)],
        [("half", 0.5)],
        [],
    ]
    for layers in way:
        loras.apply(slots(urls, *layers))
        assert image_of(pipeline, steps=1) == alone(*layers), layers
    loras.close()
    assert image_of(pipeline, steps=1) == alone()


def test_a_rank_above_the_prepared_one_is_refused_before_anything_is_touched(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_pipeline()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    loras.apply(slots(urls, ("a", 0.7)))
    with pytest.raises(BadLoraError, match=r"'high' cannot take .*its rank is 8.*up to 4"):
        loras.apply(slots(urls, ("high", 1.0)))
    assert image_of(pipeline, steps=1) == alone(("a", 0.7))


@pytest.mark.parametrize("rank", [0, -1, 1.5, True])
def test_a_rank_that_makes_no_sense_is_refused(cache: WeightsDownloadCache, rank: Any) -> None:
    with pytest.raises(BadSettingError, match="hotswap_rank"):
        LoraComposer(make_pipeline(), cache, hotswap_rank=rank)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_the_pipeline_was_told_itself_counts(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes], when: str
) -> None:
    pipeline = make_pipeline()
    if when == "before":
        pipeline.enable_lora_hotswap(target_rank=RANK)
    loras = LoraComposer(pipeline, cache)
    if when == "after":
        pipeline.enable_lora_hotswap(target_rank=RANK)
    pipeline.unet.mid_block.compile(backend="eager")
    seen = []
    for name in "abc":
        loras.apply(slots(urls, (name, 0.7)))
        assert image_of(pipeline, steps=1) == alone((name, 0.7))
        seen.append(graphs())
    assert len(set(seen)) == 1


def test_an_interruption_while_swapping_is_undone(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make_pipeline()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    loras.apply(slots(urls, ("a", 0.7)))

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for method in ("load_lora_weights", "load_lora_into_text_encoder"):
        with monkeypatch.context() as patch:
            patch.setattr(type(pipeline), method, fail)
            with pytest.raises(KeyboardInterrupt):
                loras.apply(slots(urls, ("b", 0.7)))
        assert (dict(loras.active), loras.loaded) == ({}, ())
        loras.apply(slots(urls, ("a", 0.7)))
        assert image_of(pipeline, steps=1) == alone(("a", 0.7))


def test_an_interruption_anywhere_while_swapping_is_undone_by_the_next_composition(
    cache: WeightsDownloadCache, server: Server, tmp_path: Path
) -> None:
    urls = {}
    for seed, name in enumerate(("x", "y")):
        path = save_adapter(tmp_path / f"{name}.safetensors", seed, {TO_Q: (WIDTH, WIDTH)})
        urls[name] = server.add(f"/{name}.safetensors", Resource(path.read_bytes()))
    pipeline, plain = make_flux(), make_flux()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    expected = LoraComposer(plain, cache)
    apply = partial(loras.apply, slots(urls, ("x", 0.5)))
    back = partial(loras.apply, slots(urls, ("y", 0.7)))
    bits = []
    for each in (("x", 0.5), ("y", 0.7)):
        expected.apply(slots(urls, each))
        bits.append(flux_bits(plain))
    back()
    number = 1
    while interrupted(apply, number):
        apply()
        assert flux_bits(pipeline) == bits[0], number
        back()
        assert flux_bits(pipeline) == bits[1], number
        number = number * 3 // 2 + 1
    assert number > 20


def test_what_changes_the_base_is_loaded_and_taken_out_again(
    cache: WeightsDownloadCache, server: Server, tmp_path: Path
) -> None:
    kinds = {"plain": {TO_Q: (WIDTH, WIDTH)}, "small": {X_EMBEDDER: (8, WIDTH)}}
    kinds["wide"] = {X_EMBEDDER: (16, WIDTH), TO_Q: (WIDTH, WIDTH)}
    urls = {}
    for seed, (name, modules) in enumerate(kinds.items()):
        path = save_adapter(tmp_path / f"{name}.safetensors", seed, modules, rank=RANK)
        urls[name] = server.add(f"/{name}.safetensors", Resource(path.read_bytes()))
    pipeline, plain = make_flux(), make_flux()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    expected = LoraComposer(plain, cache)
    way = ("plain", "wide", "plain small", "small wide", "", "plain", "wide", "")
    for names in way:
        chosen = slots(urls, *((name, 0.7) for name in names.split()))
        loras.apply(chosen)
        expected.apply(chosen)
        assert flux_bits(pipeline) == flux_bits(plain), names


def test_two_transformers_swap_each_its_own(
    cache: WeightsDownloadCache, server: Server, tmp_path: Path
) -> None:
    for seed, name in enumerate(("x", "y")):
        save_adapter(tmp_path / f"{name}.safetensors", seed, {WAN_TO_Q: (WIDTH, WIDTH)}, rank=RANK)
    x, y = (
        server.add(
            f"/{name}.safetensors", Resource((tmp_path / f"{name}.safetensors").read_bytes())
        )
        for name in ("x", "y")
    )
    pipeline, plain = make_wan(), make_wan()
    loras = LoraComposer(pipeline, cache, hotswap_rank=RANK)
    expected = LoraComposer(plain, cache)
    pipeline.transformer.compile(backend="eager")
    pipeline.transformer_2.compile(backend="eager")
    seen = []
    for first, second in ((x, y), (y, x), (x, x), (y, y)):
        chosen = {"high": (first, 0.7), "low": (second, 0.3, "transformer_2")}
        loras.apply(chosen)
        expected.apply(chosen)
        assert wan_bits(pipeline) == wan_bits(plain)
        seen.append(graphs())
    assert len(set(seen)) == 1
    loras.apply({"low": (x, 0.5, "transformer_2")})
    expected.apply({"low": (x, 0.5, "transformer_2")})
    assert wan_bits(pipeline) == wan_bits(plain)
