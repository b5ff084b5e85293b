"""What is certain about a LoRA is said, and nothing that a loader might take is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.lora.adapters import Base, Finding, Widths, compare, load_order
from pgetpy.core.lora.naming import Pair
from pgetpy.core.weights.safetensors import Tensor

ATTENTION = "down_blocks.1.attn1.to_q"
BASE = Base(
    {
        "unet": {ATTENTION: Widths(64, 64), "conv_in": Widths(4, 32)},
        "text_encoder": {"encoder.layers.0.self_attn.q_proj": Widths(32, 32)},
    }
)
FLAT = "lora_unet_down_blocks_1_attn1_to_q"


def file(**shapes: tuple[int, ...]) -> list[Tensor]:
    return [Tensor(name, "F16", shape, 0, 0) for name, shape in shapes.items()]


def pair(down: str, up: str, inputs: int, outputs: int, rank: int = 4) -> list[Tensor]:
    return file(**{down: (rank, inputs), up: (outputs, rank)})


def whole(module: str, width: int) -> list[Tensor]:
    """Both matrices for a module of that width."""
    down, up = ("lora_down", "lora_up") if module.startswith("lora_") else ("lora_A", "lora_B")
    return pair(f"{module}.{down}.weight", f"{module}.{up}.weight", width, width)


# How the tensors of one module are named.
NAMINGS = [
    (f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}.lora_B.weight"),
    (f"unet.{ATTENTION}.lora_A.default.weight", f"unet.{ATTENTION}.lora_B.default.weight"),
    (f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}.lora.up.weight"),
    (f"unet.{ATTENTION}.lora_down.weight", f"unet.{ATTENTION}.lora_up.weight"),
    (f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight"),
    tuple(
        f"unet.{ATTENTION.replace('to_q', 'processor.to_q')}_lora.{side}.weight"
        for side in ("down", "up")
    ),
]


@pytest.mark.parametrize(("down", "up"), NAMINGS)
def test_widths_that_fit_are_accepted_and_others_are_not(down: str, up: str) -> None:
    assert compare(pair(down, up, 64, 64), BASE) == Finding()
    for inputs, outputs, words in [(32, 64, "has 32 inputs"), (64, 128, "has 128 outputs")]:
        found = compare(pair(down, up, inputs, outputs), BASE)
        assert f"{ATTENTION} of unet {words}, the pipeline's has 64" in found.contradiction


@pytest.mark.parametrize(
    "module",
    [
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora_linear_layer",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora",
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora",
    ],
)
@pytest.mark.parametrize("deeper", ["", "text_model."])
def test_text_encoders_are_known_with_and_without_their_text_model(
    module: str, deeper: str
) -> None:
    base = Base({"text_encoder": {f"{deeper}encoder.layers.0.self_attn.q_proj": Widths(32, 32)}})
    flat = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_"
    for name in (f"{module}.", flat, flat.replace("te1", "te")):
        assert compare(pair(f"{name}down.weight", f"{name}up.weight", 32, 32), base) == Finding()
        wrong = compare(pair(f"{name}down.weight", f"{name}up.weight", 33, 32), base)
        assert wrong.contradiction


def test_convolutions_are_compared_by_their_channels() -> None:
    name = "lora_unet_conv_in.lora_"
    for inputs, words in ((4, ""), (9, "has 9 inputs")):
        shapes = {f"{name}down.weight": (4, inputs, 3, 3), f"{name}up.weight": (32, 4, 1, 1)}
        assert words in compare(file(**shapes), BASE).contradiction
        assert bool(compare(file(**shapes), BASE).contradiction) == bool(words)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.transformer_blocks.0.attn.to_q",
        "text_encoder_2.encoder.layers.0.q_proj",
        "lora_te2_text_model_encoder_layers_0_q_proj",
    ],
)
def test_a_file_of_which_nothing_has_a_place_is_for_another_base(name: str) -> None:
    component = "transformer" if "transformer" in name else "text_encoder_2"
    tensors = whole(name, 64)
    found = compare(tensors, BASE).contradiction
    assert found == f"it changes {component}, but the pipeline's parts are unet, text_encoder"
    # Loaders leave out what has no place, if something has.
    assert compare([*tensors, *whole(f"unet.{ATTENTION}", 64)], BASE) == Finding()


def test_a_pipeline_without_its_text_encoder_takes_what_is_left() -> None:
    assert BASE.components is not None
    base = Base({"unet": BASE.components["unet"]})
    tensors = whole("text_encoder.encoder.layers.0.self_attn.q_proj", 5)
    assert compare(tensors, base).contradiction
    assert not compare([*tensors, *file(**{f"{FLAT}.alpha": ()})], base).contradiction


def test_kohyas_unet_is_the_transformer_where_there_is_none() -> None:
    base = Base({"transformer": {"blocks.0.to_q": Widths(64, 64)}})
    assert compare(whole("lora_unet_blocks_0_to_q", 64), base) == Finding()
    wrong = compare(whole("lora_unet_blocks_0_to_q", 65), base).contradiction
    assert "of transformer has 65" in wrong


@pytest.mark.parametrize(
    "names",
    [
        ["diffusion_model.blocks.0.q.lora_A.weight", "diffusion_model.blocks.0.q.lora_B.weight"],
        ["double_blocks.0.processor.qkv_lora1.down.weight"],
        [f"unet.{ATTENTION}.lokr_w1"],
        ["unet.blocks.9.other.lora_A.weight", "unet.blocks.9.other.lora_B.weight"],
        [f"lora_unet_input_blocks_1_1.lora_{side}.weight" for side in ("down", "up")],
        [f"unet.{ATTENTION}.lora_magnitude_vector"],
        ["transformer.a.lora_A.default_0.weight", "something.else.lora_A.default_0.weight"],
    ],
)
def test_what_is_not_understood_is_taken_to_fit(names: list[str]) -> None:
    found = compare(file(**dict.fromkeys(names, (4, 64))), BASE)
    assert found == Finding()
    assert found.unclear


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diffusion_model.blocks.0.q", "'diffusion_model.blocks.0.q.lora_A.weight'. match nothing"),
        ("unet.blocks.9.other", "none of the 1 modules.*: 'unet.blocks.9.other'"),
    ],
)
def test_what_a_loader_has_read_is_there_or_has_no_effect(name: str, words: str) -> None:
    assert re.search(words, compare(whole(name, 64), BASE, translated=True).no_lora)
    both = [*whole(name, 64), *whole(f"unet.{ATTENTION}", 64)]
    assert compare(both, BASE, translated=True) == Finding()


@pytest.mark.parametrize(("down", "up"), NAMINGS)
def test_half_a_lora_is_none_whatever_the_base(down: str, up: str) -> None:
    for name in (down, up):
        more = whole("unet.conv_in", 4)
        for base in (Base(), BASE):
            found = compare([*more, *file(**{name: (64, 64)})], base)
            assert found.no_lora == f"it is half a LoRA: {name!r} has no counterpart"


def test_names_that_two_modules_would_have_say_nothing() -> None:
    base = Base({"unet": {"a.b_c": Widths(1, 1), "a_b.c": Widths(2, 2)}})
    assert compare(whole("lora_unet_a_b_c", 3), base) == Finding()


@pytest.mark.parametrize("names", [[], ["weight"], ["unet.conv_in.weight", "unet.conv_in.bias"]])
def test_a_file_without_a_lora_is_none_whatever_the_base(names: list[str]) -> None:
    for base in (Base(), BASE):
        found = compare(file(**dict.fromkeys(names, (4, 4))), base)
        assert found.no_lora.startswith(f"none of its {len(names)} tensors")


def test_what_is_no_part_of_an_adapter_changes_the_base() -> None:
    tensors = whole(f"unet.{ATTENTION}", 64)
    for other in ("unet.norm_q.weight", "conv_in.bias"):
        assert compare([*tensors, *file(**{other: (4,)})], BASE) == Finding(alters=True)
    beside = file(**{f"{FLAT}.alpha": (), f"{FLAT}.dora_scale": (64,)})
    assert compare([*tensors, *beside], BASE) == Finding()


@pytest.mark.parametrize(
    ("inputs", "outputs", "alters"),
    [(64, 64, False), (128, 64, True), (32, 64, False), (64, 128, True), (64, 32, None),
     (32, 128, None), (128, 32, None)],
)  # fmt: skip
def test_where_loaders_widen_and_pad_what_they_cannot_do_is_wrong(
    inputs: int, outputs: int, alters: bool | None
) -> None:
    here = frozenset({"unet"})
    base = replace(BASE, widens=here, pads=here)
    tensors = pair(*NAMINGS[0], inputs, outputs)
    found = compare(tensors, base)
    assert found.alters == bool(alters)
    assert bool(found.contradiction) == (alters is None)
    # Elsewhere in the pipeline, and in others, nothing is made to fit.
    for strict in (BASE, replace(base, widens=frozenset(), pads=frozenset({"text_encoder"}))):
        assert bool(compare(tensors, strict).contradiction) == ((inputs, outputs) != (64, 64))


def test_what_has_a_bias_gets_no_more_outputs_and_a_convolution_nothing() -> None:
    here = frozenset({"unet"})
    for widths in (Widths(64, 64, biased=True), Widths(64, 64, linear=False)):
        base = Base({"unet": {ATTENTION: widths}}, widens=here, pads=here)
        assert compare(pair(*NAMINGS[0], 64, 128), base).contradiction
        wider = compare(pair(*NAMINGS[0], 128, 64), base)
        assert bool(wider.contradiction) == (not widths.linear)


def test_of_an_unknown_base_nothing_is_contradicted() -> None:
    assert compare(whole("transformer.x", 1), Base()) == Finding()


def test_a_loader_sees_one_of_two_transformers() -> None:
    parts = {"transformer": {"a": Widths(1, 1)}, "transformer_2": {"a": Widths(2, 2)}}
    base = Base(parts, flagged={"transformer_2": "transformer"})
    assert base.seen_by("").components == {"transformer": {"a": Widths(1, 1)}}
    assert base.seen_by("transformer").components == {"transformer": {"a": Widths(1, 1)}}
    assert base.seen_by("transformer_2").components == {"transformer": {"a": Widths(2, 2)}}
    assert compare(whole("transformer_2.a", 2), base.seen_by("")).contradiction


# ------------------------------------------------------------------------------- the order


def wanted(**loras: dict[str, tuple[int, int]]) -> dict[str, dict[tuple[str, str], Pair]]:
    return {
        name: {
            ("unet", module): Pair(module, (4, i), (o, 4), "F16") for module, (i, o) in each.items()
        }
        for name, each in loras.items()
    }


ORDERED = Base({"unet": {"x": Widths(4, 8), "y": Widths(8, 8)}})


@pytest.mark.parametrize(
    ("loras", "order"),
    [
        (wanted(a={"x": (4, 8)}, b={"y": (8, 8)}), ["a", "b"]),
        (wanted(a={"x": (4, 8)}, b={"x": (8, 8)}), ["b", "a"]),
        (wanted(a={"x": (2, 8)}, b={"x": (4, 8)}), ["a", "b"]),
        (wanted(a={"x": (4, 8)}, b={"x": (8, 8)}, c={"x": (16, 8)}), ["c", "b", "a"]),
        (wanted(a={"x": (8, 8)}, b={"y": (16, 8)}), ["a", "b"]),
        (wanted(a={"x": (8, 8), "y": (8, 8)}, b={"y": (16, 8)}), ["b", "a"]),
    ],
)
def test_what_makes_a_module_widest_is_loaded_before_what_changes_it_too(
    loras: dict[str, dict[tuple[str, str], Pair]], order: list[str]
) -> None:
    assert load_order(loras, ORDERED) == (order, None)


@pytest.mark.parametrize(
    "loras",
    [
        wanted(a={"x": (8, 8), "y": (8, 8)}, b={"x": (4, 8), "y": (16, 8)}),
        wanted(a={"y": (8, 8)}, b={"y": (8, 16)}),
    ],
)
def test_two_that_no_order_suits_are_named(loras: dict[str, dict[tuple[str, str], Pair]]) -> None:
    assert load_order(loras, ORDERED)[1] == ("a", "b")


@given(
    name=st.text("unetlora_ABdwp.ih0g", min_size=1, max_size=40),
    shape=st.lists(st.integers(0, 70), max_size=4).map(tuple),
)
def test_any_name_and_shape_can_be_compared(name: str, shape: tuple[int, ...]) -> None:
    for prefix in ("", "unet.", "lora_unet_", "lora_te_", f"unet.{ATTENTION}."):
        compare([Tensor(prefix + name, "F16", shape, 0, 0)], BASE)
