"""LoRAs that change the base itself, or only one of two transformers, compared bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pgetpy import WeightsDownloadCache
from pgetpy.errors import (
    BadLoraError,
    BadSettingError,
    NotRestoredError,
    UsageError,
    WrongBaseModelError,
)
from pgetpy.lora import LoraComposer

from ..support.resources import Resource
from ..support.server import Server
from .interrupting import interrupted
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

NORMS = ("transformer_blocks.0.attn.norm_q", "transformer_blocks.0.attn.norm_k")
# What each LoRA changes, by its inputs and outputs.
FLUX: dict[str, dict[str, tuple[int, int]]] = {
    "same": {X_EMBEDDER: (4, WIDTH), TO_Q: (WIDTH, WIDTH)},
    "small": {X_EMBEDDER: (8, WIDTH), TO_Q: (WIDTH, WIDTH)},
    "wide": {X_EMBEDDER: (16, WIDTH)},
    "plain": {TO_Q: (WIDTH, WIDTH)},
    "inner": {TO_Q: (2 * WIDTH, WIDTH)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, (name, modules) in enumerate(FLUX.items()):
        save_adapter(folder / f"{name}.safetensors", seed, modules)
    for seed, name in enumerate(("north", "south")):
        save_adapter(folder / f"{name}.safetensors", seed, FLUX["wide"], norms=NORMS)
    for seed, name in enumerate(("high", "low")):
        modules = {WAN_TO_Q: (WIDTH, WIDTH)}
        save_adapter(folder / f"{name}.safetensors", 20 + seed, modules)
    return folder


@pytest.fixture
def urls(folder: Path, server: Server) -> dict[str, str]:
    paths = sorted(folder.glob("*.safetensors"))
    return {p.stem: server.add(f"/{p.name}", Resource(p.read_bytes())) for p in paths}


@pytest.fixture
def alone(folder: Path) -> Callable[..., bytes]:
    """What diffusers makes by itself of LoRAs that are loaded in this order."""

    def bits(*names: str, inputs: int = 4, active: tuple[str, ...] = ()) -> bytes:
        pipeline = make_flux(inputs=inputs)
        for name in names:
            pipeline.load_lora_weights(str(folder / f"{name}.safetensors"), adapter_name=name)
        if names:
            order = list(active or names)
            pipeline.set_adapters(order, adapter_weights=[0.7] * len(order))
        return flux_bits(pipeline)

    return bits


def slots(urls: dict[str, str], *names: str) -> dict[str, tuple[str, float]]:
    return {name: (urls[name], 0.7) for name in names}


# -------------------------------------------------------------------- what makes modules wider


@pytest.mark.parametrize("names", [("small", "wide"), ("wide", "small"), ("same", "small", "wide")])
def test_what_widens_most_is_loaded_first_whatever_slot_it_has(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    names: tuple[str, ...],
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, *names))
    widest_first = sorted(names, key=["wide", "small", "same"].index)
    assert flux_bits(pipeline) == alone(*widest_first, active=names)
    loras.apply({})
    assert flux_bits(pipeline) == alone()
    assert pipeline.transformer.x_embedder.in_features == 4
    assert pipeline.transformer.config.in_channels == 4


def test_a_way_through_loras_of_all_widths_is_right_at_each_step(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache, keep_loaded=2)
    way = [
        (("plain",), ("plain",)),
        (("plain", "small"), ("small", "plain")),
        (("same",), ("same",)),
        (("same", "wide"), ("wide", "same")),
        (("same", "wide", "small"), ("wide", "small", "same")),
        ((), ()),
        (("north",), ("north",)),
        (("north", "south"), ("north", "south")),
        (("south", "north"), ("south", "north")),
        (("small",), ("small",)),
        ((), ()),
    ]
    expected = [alone(*order, active=names) for names, order in way]
    assert len(set(expected)) == len(way) - 1, "the base alone is there twice"
    for (names, _), bits in zip(way, expected, strict=True):
        loras.apply(slots(urls, *names))
        assert flux_bits(pipeline) == bits, names
    loras.close()
    assert flux_bits(pipeline) == alone()


def test_modules_inside_others_are_made_narrow_again(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "inner", "wide"))
    assert pipeline.transformer.transformer_blocks[0].attn.to_q.in_features == 2 * WIDTH
    loras.apply({})
    assert flux_bits(pipeline) == alone()


def test_two_that_make_each_others_modules_wider_are_refused_before_anything_is_touched(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    server: Server,
    tmp_path: Path,
) -> None:
    path = save_adapter(
        tmp_path / "x.safetensors", 9, {X_EMBEDDER: (4, WIDTH), TO_Q: (2 * WIDTH, WIDTH)}
    )
    other = server.add("/x.safetensors", Resource(path.read_bytes()))
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "same"))
    with pytest.raises(BadLoraError, match="each widen"):
        loras.apply({"main": (urls["small"], 1), "extra": (other, 1)})
    assert flux_bits(pipeline) == alone("same")


def test_an_interrupted_widening_is_undone(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # The modules are wider by then, and diffusers has not noted what they were.
        patch.setattr(type(pipeline), "_maybe_expand_lora_state_dict", fail)
        with pytest.raises(KeyboardInterrupt):
            loras.apply(slots(urls, "wide"))
    pipeline.transformer._overwritten_params = None
    assert pipeline.transformer.x_embedder.in_features == 16
    loras.apply({})
    assert flux_bits(pipeline) == alone()


def test_an_interruption_anywhere_while_widening_is_undone_by_the_next_composition(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    change = partial(loras.apply, slots(urls, "small", "north"))
    back = partial(loras.apply, slots(urls, "plain"))
    expected = {"base": alone(), "plain": alone("plain")}
    expected["change"] = alone("north", "small", active=("small", "north"))
    back()
    number = 1
    while interrupted(change, number):
        loras.apply({})
        assert flux_bits(pipeline) == expected["base"], number
        change()
        assert flux_bits(pipeline) == expected["change"], number
        interrupted(back, number)
        back()
        assert flux_bits(pipeline) == expected["plain"], number
        number = number * 3 // 2 + 1
    assert number > 50


def test_a_base_that_cannot_be_brought_back_is_no_success(
    cache: WeightsDownloadCache, urls: dict[str, str]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "plain"))
    pipeline.transformer.x_embedder = torch.nn.Linear(16, WIDTH)
    loras.apply(slots(urls, "plain"))
    for _ in range(2):
        with pytest.raises(NotRestoredError, match="x_embedder of transformer has 16 inputs"):
            loras.apply(slots(urls, "wide"))
        with pytest.raises(NotRestoredError, match="x_embedder of transformer has 16 inputs"):
            loras.apply({})


def test_the_copies_that_were_put_back_are_where_the_pipeline_is(
    cache: WeightsDownloadCache, urls: dict[str, str]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "wide"))
    loras.apply({})
    pipeline.to(torch.float64)
    loras.apply(slots(urls, "wide"))
    loras.apply({})
    assert pipeline.transformer.x_embedder.weight.dtype == torch.float64


# ------------------------------------------------------------------------------- narrower ones


def test_a_narrower_lora_is_padded_and_history_makes_no_difference(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_flux(inputs=24)
    loras = LoraComposer(pipeline, cache)
    for names in (("small",), ("small", "wide"), ("wide",), (), ("small",)):
        loras.apply(slots(urls, *names))
        assert flux_bits(pipeline) == alone(*names, inputs=24)


def test_what_fits_does_not_depend_on_what_is_loaded(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "wide"))
    loras.apply(slots(urls, "wide", "same"))
    assert flux_bits(pipeline) == alone("wide", "same")
    loras.apply(slots(urls, "same"))
    assert flux_bits(pipeline) == alone("same")


def test_other_outputs_are_those_of_another_base(
    cache: WeightsDownloadCache, server: Server, tmp_path: Path
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    for outputs in (WIDTH // 2, WIDTH * 2):
        path = save_adapter(tmp_path / "x.safetensors", 1, {X_EMBEDDER: (4, outputs)})
        url = server.add(f"/{outputs}.safetensors", Resource(path.read_bytes()))
        with pytest.raises(WrongBaseModelError, match=f"has {outputs} outputs"):
            loras.apply({"main": (url, 1)})


# --------------------------------------------------------------------------- two transformers


def wan_alone(folder: Path, high: tuple[str, float] | None, low: tuple[str, float] | None) -> Any:
    pipeline = make_wan()
    for slot, name in ((high, "transformer"), (low, "transformer_2")):
        if slot is not None:
            part = getattr(pipeline, name)
            part.load_lora_adapter(folder, weight_name=f"{slot[0]}.safetensors", adapter_name="x")
            part.set_adapters(["x"], [slot[1]])
    return wan_bits(pipeline)


def test_a_slot_says_which_of_two_transformers_it_is_for(
    cache: WeightsDownloadCache, urls: dict[str, str], folder: Path
) -> None:
    pipeline = make_wan()
    loras = LoraComposer(pipeline, cache)
    high, low = urls["high"], urls["low"]
    way: list[tuple[dict[str, Any], Any, Any]] = [
        ({"a": (high, 1.0)}, ("high", 1.0), None),
        (
            {"a": (high, 0.5, "transformer"), "b": (low, 0.7, "transformer_2")},
            ("high", 0.5),
            ("low", 0.7),
        ),
        ({"b": (low, 0.7, "transformer_2")}, None, ("low", 0.7)),
        ({"a": (high, 0.5), "b": (high, 0.25, "transformer_2")}, ("high", 0.5), ("high", 0.25)),
        ({}, None, None),
    ]
    for chosen, first, second in way:
        loras.apply(chosen)
        assert dict(loras.active) == chosen
        assert wan_bits(pipeline) == wan_alone(folder, first, second), chosen
    with pytest.raises(BadSettingError, match="transformer_3"):
        loras.apply({"a": (high, 1.0, "transformer_3")})


def test_a_file_for_the_second_transformer_alone_is_refused_where_it_would_have_no_effect(
    cache: WeightsDownloadCache, server: Server, tmp_path: Path
) -> None:
    path = save_adapter(
        tmp_path / "x.safetensors", 1, {WAN_TO_Q: (WIDTH, WIDTH)}, prefix="transformer_2."
    )
    url = server.add("/x.safetensors", Resource(path.read_bytes()))
    pipeline = make_wan()
    with pytest.raises(BadLoraError, match=r"'main'.*transformer_2"):
        LoraComposer(pipeline, cache).apply({"main": (url, 1)})
    assert not hasattr(pipeline.transformer, "peft_config")


# ------------------------------------------------------------------ files without any effect


@pytest.mark.parametrize("prefix", ["something.else.", "transformer.other_blocks.", "diffusion."])
def test_names_that_match_nothing_are_refused_before_anything_is_touched(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    server: Server,
    tmp_path: Path,
    prefix: str,
) -> None:
    path = save_adapter(tmp_path / "x.safetensors", 1, FLUX["plain"], prefix=prefix)
    url = server.add("/x.safetensors", Resource(path.read_bytes()))
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "same"))
    with pytest.raises(BadLoraError, match=r"'main'.*/x\.safetensors") as caught:
        loras.apply({"main": (url, 1)})
    assert (caught.value.slot, caught.value.url) == ("main", url)
    assert flux_bits(pipeline) == alone("same")


@pytest.mark.parametrize("side", ["A", "B"])
def test_half_a_lora_is_refused_before_anything_is_touched(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    server: Server,
    folder: Path,
    tmp_path: Path,
    side: str,
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "same.safetensors")
    del tensors[f"transformer.{TO_Q}.lora_{side}.weight"]
    save_file(tensors, tmp_path / "x.safetensors")
    url = server.add("/x.safetensors", Resource((tmp_path / "x.safetensors").read_bytes()))
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "same"))
    with pytest.raises(BadLoraError, match=r"'main'.*/x\.safetensors.*half a LoRA.*to_q"):
        loras.apply({"main": (url, 1)})
    assert flux_bits(pipeline) == alone("same")


# ------------------------------------------------------------------------- who else is there


def test_a_pipeline_with_loras_of_its_own_is_refused(
    cache: WeightsDownloadCache, folder: Path, urls: dict[str, str]
) -> None:
    pipeline = make_flux()
    pipeline.load_lora_weights(str(folder / "plain.safetensors"), adapter_name="mine")
    with pytest.raises(BadSettingError, match=r"LoRAs of its own .mine."):
        LoraComposer(pipeline, cache)
    pipeline.unload_lora_weights()
    loras = LoraComposer(pipeline, cache)
    pipeline.load_lora_weights(str(folder / "plain.safetensors"), adapter_name="mine")
    with pytest.raises(UsageError, match=r"did not load .mine."):
        loras.apply(slots(urls, "same"))


def test_what_somebody_else_has_taken_out_is_loaded_again(
    cache: WeightsDownloadCache, urls: dict[str, str], alone: Callable[..., bytes]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    loras.apply(slots(urls, "plain"))
    pipeline.unload_lora_weights()
    loras.apply(slots(urls, "plain"))
    assert flux_bits(pipeline) == alone("plain")


def test_composers_do_not_share_modules(cache: WeightsDownloadCache, urls: dict[str, str]) -> None:
    first = make_flux()
    second = type(first)(**first.components)
    loras = LoraComposer(first, cache)
    for pipeline in (first, second):
        with pytest.raises(BadSettingError, match=r"another LoraComposer.*FluxTransformer2DModel"):
            LoraComposer(pipeline, cache)
    loras.close()
    again = LoraComposer(second, cache)
    with pytest.raises(BadSettingError, match="another LoraComposer"):
        LoraComposer(first, cache)
    del again
    LoraComposer(first, cache).close()


def test_another_component_needs_another_composer(
    cache: WeightsDownloadCache, urls: dict[str, str]
) -> None:
    pipeline = make_flux()
    loras = LoraComposer(pipeline, cache)
    pipeline.transformer = make_flux(1).transformer
    with pytest.raises(UsageError, match="transformer is not the one"):
        loras.apply(slots(urls, "plain"))


# ---------------------------------------------------------------------------------- offline


def test_offline_the_file_is_named_beside_its_folder(
    cache: WeightsDownloadCache,
    urls: dict[str, str],
    alone: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers.loaders import lora_base

    expected = alone("plain")

    def guess(*_: object, **__: object) -> None:
        # What some versions of diffusers say to a path without `weight_name`, while
        # HF_HUB_OFFLINE is set.
        raise ValueError("When using the offline mode, you must specify a `weight_name`.")

    monkeypatch.setattr(lora_base, "_best_guess_weight_name", guess)
    pipeline = make_flux()
    LoraComposer(pipeline, cache).apply(slots(urls, "plain"))
    assert flux_bits(pipeline) == expected
