"""One form for all the ways to write a specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pgetpy.core.pipelines.specs import LoraSpec, PipelineSpec
from pgetpy.errors import BadSettingError

BASE = "hf://owner/name"


@pytest.mark.parametrize(
    "given",
    [
        ("hf://a/b", 0.5),
        ["hf://a/b", 0.5],
        ("hf://a/b", 0.5, ""),
        {"path": "hf://a/b", "scale": 0.5},
        LoraSpec("hf://a/b", 0.5),
    ],
)
def test_a_lora_can_be_written_in_several_ways(given: object) -> None:
    assert PipelineSpec(BASE, loras=[given]) == PipelineSpec(BASE, loras=(("hf://a/b", 0.5),))


def test_a_lora_without_a_scale_has_the_scale_one() -> None:
    spec = PipelineSpec(BASE, loras=["hf://a/b", {"path": "hf://c/d"}])
    assert [lora.scale for lora in spec.loras] == [1.0, 1.0]


class Float16:
    """Prints itself as torch's dtype does."""

    def __str__(self) -> str:
        return "torch.float16"


@pytest.mark.parametrize(
    "given", ["float16", "torch.float16", Float16(), {"default": "float16", "vae": "float16"}]
)
def test_a_dtype_can_be_written_in_several_ways(given: object) -> None:
    assert PipelineSpec(BASE, dtype=given) == PipelineSpec(BASE, dtype="float16")


def test_a_component_can_have_a_dtype_of_its_own() -> None:
    spec = PipelineSpec(BASE, dtype={"vae": "float32", "default": "float16"})
    assert (spec.dtype_of("vae"), spec.dtype_of("unet")) == ("float32", "float16")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"base": ""}, "base"),
        ({"dtype": "half"}, "dtype"),
        ({"variant": "../fp16"}, "variant"),
        ({"pipeline": "a b"}, "pipeline"),
        ({"components": {"../vae": "hf://a/b"}}, "components"),
        ({"components": {"vae": 3}}, "components"),
        ({"quantization": {"bits": float("nan")}}, "quantization"),
        ({"quantization": object()}, "quantization"),
        ({"quantization": 5}, "quantization"),
        ({"quantization": {"quant_mapping": ["unet"]}}, "quantization"),
        ({"quantization": {"quant_mapping": {"unet": 5}}}, "quantization"),
        ({"quantization": {"components_to_quantize": 5}}, "quantization"),
        ({"config": 7}, "config"),
        ({"loras": [" "]}, "loras[0]"),
        ({"loras": "hf://a/b"}, "loras"),
        ({"loras": {"path": "hf://a/b"}}, "loras"),
        ({"loras": [("hf://a/b", float("inf"))]}, "loras[0]"),
        ({"loras": [("hf://a/b", True)]}, "loras[0]"),
        ({"loras": [("hf://a/b", "0.5")]}, "loras[0]"),
        ({"loras": [{"path": "hf://a/b", "weight": 1}]}, "loras[0]"),
        ({"loras": [{"scale": 1}]}, "loras[0]"),
        ({"loras": [(1, 1.0)]}, "loras[0]"),
        ({"share": "vae"}, "share"),
    ],
)
def test_an_invalid_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(BadSettingError) as caught:
        PipelineSpec(**{"base": BASE, **arguments})
    assert caught.value.name == named


@pytest.mark.parametrize("show", [repr, str, lambda spec: str(spec.shown())])
def test_no_secret_is_shown(show: Callable[[PipelineSpec], str]) -> None:
    spec = PipelineSpec(
        "https://user:hidden@example.com/model.safetensors",
        config="https://example.com/config?token=hidden",
        components={"vae": "https://example.com/vae?token=hidden"},
        loras=[("https://example.com/lora.safetensors?X-Amz-Signature=hidden", 1.0)],
    )
    assert "hidden" not in show(spec)


def test_a_bad_scale_does_not_show_a_secret() -> None:
    with pytest.raises(BadSettingError) as caught:
        PipelineSpec(BASE, loras=[("https://user:hidden@example.com/a.safetensors", "x")])
    assert "hidden" not in str(caught.value)


def test_specifications_can_be_keys_of_a_mapping() -> None:
    assert len({PipelineSpec(BASE), PipelineSpec(BASE), PipelineSpec(BASE, variant="fp16")}) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"dtype": {"unett": "float16"}}, "dtype"),
        ({"components": {"vaee": None}}, "components"),
        ({"quantization": {"quant_mapping": {"unett": {}}}}, "quantization"),
        ({"quantization": {"components_to_quantize": ["unett"]}}, "quantization"),
    ],
)
def test_a_component_that_does_not_exist_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(BadSettingError, match="there are unet, vae") as caught:
        PipelineSpec(BASE, **arguments).check_components(["vae", "unet"])
    assert caught.value.name == named


def test_components_that_the_base_or_the_specification_has_can_be_named() -> None:
    spec = PipelineSpec(
        BASE,
        dtype={"default": "float32", "unet": "float16", "controlnet": "float16"},
        components={"controlnet": "hf://a/b", "vae": None},
    )
    spec.check_components(["vae", "unet"])
