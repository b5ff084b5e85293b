"""What is certain about a LoRA is said, and nothing that a loader might take is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.lora.adapters import Base, Finding, Widths, compare
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


# How the tensors of one module are named.
NAMINGS = [
    (f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}.lora_B.weight"),
    (f"unet.{ATTENTION}.lora_A.default.weight", f"unet.{ATTENTION}.lora_B.default.weight"),
    (f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}.lora.up.weight"),
    (f"unet.{ATTENTION}.lora_down.weight", f"unet.{ATTENTION}.lora_up.weight"),
    (f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight"),
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
    flat = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"
    for name in (f"{module}.down.weight", flat, flat.replace("te1", "te")):
        assert compare(file(**{name: (4, 32)}), base) == Finding()
        assert compare(file(**{name: (4, 33)}), base).contradiction


def test_convolutions_are_compared_by_their_channels() -> None:
    name = "lora_unet_conv_in.lora_down.weight"
    assert compare(file(**{name: (4, 4, 3, 3)}), BASE) == Finding()
    assert "has 9 inputs" in compare(file(**{name: (4, 9, 3, 3)}), BASE).contradiction


@pytest.mark.parametrize(
    "name",
    [
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
        "text_encoder_2.encoder.layers.0.q_proj.lora_A.weight",
        "lora_te2_text_model_encoder_layers_0_q_proj.lora_down.weight",
    ],
)
def test_a_file_of_which_nothing_has_a_place_is_for_another_base(name: str) -> None:
    component = "transformer" if "transformer" in name else "text_encoder_2"
    found = compare(file(**{name: (4, 64)}), BASE).contradiction
    assert found == f"it changes {component}, and the pipeline's parts are unet, text_encoder"
    # Loaders leave out what has no place, if something has.
    more = file(**{name: (4, 64), f"unet.{ATTENTION}.lora_A.weight": (4, 64)})
    assert compare(more, BASE) == Finding()


def test_a_pipeline_without_its_text_encoder_takes_what_is_left() -> None:
    assert BASE.components is not None
    base = Base({"unet": BASE.components["unet"]})
    name = "text_encoder.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    assert compare(file(**{name: (4, 5)}), base).contradiction
    assert not compare(file(**{name: (4, 5), f"{FLAT}.alpha": ()}), base).contradiction


def test_kohyas_unet_is_the_transformer_where_there_is_none() -> None:
    base = Base({"transformer": {"blocks.0.to_q": Widths(64, 64)}})
    name = "lora_unet_blocks_0_to_q.lora_down.weight"
    assert compare(file(**{name: (4, 64)}), base) == Finding()
    assert "of transformer has 65" in compare(file(**{name: (4, 65)}), base).contradiction


@pytest.mark.parametrize(
    "names",
    [
        ["diffusion_model.blocks.0.q.lora_A.weight"],
        ["double_blocks.0.processor.qkv_lora1.down.weight"],
        ["base_model.model.layers.0.lora_B.weight"],
        [f"unet.{ATTENTION}.lokr_w1"],
        ["unet.down_blocks.9.other.lora_A.weight"],
        ["lora_unet_input_blocks_1_1_proj_in.lora_down.weight"],
        [f"unet.{ATTENTION}.lora_magnitude_vector", f"unet.{ATTENTION}.lora_A.weight"],
        ["transformer.a.lora_A.weight", "something.else.lora_A.weight"],
    ],
)
def test_what_is_not_understood_is_taken_to_fit(names: list[str]) -> None:
    assert compare(file(**dict.fromkeys(names, (4, 64))), BASE) == Finding()


def test_names_that_two_modules_would_have_say_nothing() -> None:
    base = Base({"unet": {"a.b_c": Widths(1, 1), "a_b.c": Widths(2, 2)}})
    assert compare(file(**{"lora_unet_a_b_c.lora_down.weight": (4, 3)}), base) == Finding()


@pytest.mark.parametrize("names", [[], ["weight"], ["unet.conv_in.weight", "unet.conv_in.bias"]])
def test_a_file_without_a_lora_is_none_whatever_the_base(names: list[str]) -> None:
    for base in (Base(), BASE):
        found = compare(file(**dict.fromkeys(names, (4, 4))), base)
        assert found.no_lora.startswith(f"none of its {len(names)} tensors")


def test_what_is_no_part_of_an_adapter_changes_the_base() -> None:
    name = f"unet.{ATTENTION}.lora_A.weight"
    for other in ("unet.norm_q.weight", "conv_in.bias"):
        assert compare(file(**{name: (4, 64), other: (4,)}), BASE) == Finding(alters=True)
    beside = file(**{name: (4, 64), f"{FLAT}.alpha": (), f"{FLAT}.dora_scale": (64,)})
    assert compare(beside, BASE) == Finding()


def test_where_modules_are_made_wider_only_the_narrower_is_wrong() -> None:
    base = Base(BASE.components, widens=True)
    name = f"unet.{ATTENTION}.lora_A.weight"
    assert compare(file(**{name: (4, 128)}), base) == Finding(alters=True)
    assert compare(file(**{name: (4, 32)}), base).contradiction


def test_of_an_unknown_base_nothing_is_contradicted() -> None:
    assert compare(file(**{"transformer.x.lora_A.weight": (4, 1)}), Base()) == Finding()


@given(
    name=st.text("unetlora_ABdwp.ih0g", min_size=1, max_size=40),
    shape=st.lists(st.integers(0, 70), max_size=4).map(tuple),
)
def test_any_name_and_shape_can_be_compared(name: str, shape: tuple[int, ...]) -> None:
    for prefix in ("", "unet.", "lora_unet_", "lora_te_", f"unet.{ATTENTION}."):
        compare([Tensor(prefix + name, "F16", shape, 0, 0)], BASE)
