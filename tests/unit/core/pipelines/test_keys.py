"""Keys: the same for the same content under other names, another for each change of content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.pipelines.configs import config_digest
from pgetpy.core.pipelines.keys import ComponentContent, LoraContent, PipelineContent
from pgetpy.errors import IntegrityError

DIGESTS = st.integers(0, 1 << 32).map(lambda number: hashlib.sha256(b"%d" % number).hexdigest())
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(NAMES, JSON, max_size=4)
COMPONENTS = st.builds(
    ComponentContent,
    st.dictionaries(NAMES, DIGESTS, max_size=3),
    st.lists(DIGESTS, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["auto", "float16"]),
)
LORAS = st.builds(LoraContent, DIGESTS, st.floats(-2, 2), st.sampled_from(["", "unet"]))
CONTENTS = st.builds(
    PipelineContent,
    NAMES,
    st.dictionaries(NAMES, COMPONENTS, min_size=1, max_size=3),
    st.none() | st.dictionaries(NAMES, st.integers(), max_size=2),
    st.lists(LORAS, max_size=3).map(tuple),
    st.dictionaries(NAMES, st.sampled_from(["1.0", "2.0"]), max_size=2),
)
IGNORED = {
    "_name_or_path": "/home/user/model",
    "_diffusers_version": "0.42.1",
    "is_local": True,
    "local_files_only": True,
}


def digest(config: dict[str, Any], name: str = "config.json") -> str:
    return config_digest(json.dumps(config).encode(), name)


# ---------------------------------------------------------------------------- configurations


@given(CONFIGS, st.randoms())
def test_neither_order_nor_space_nor_notes_of_the_last_save_change_a_digest(
    config: dict[str, Any], random: Any
) -> None:
    items = [*config.items(), *IGNORED.items()]
    random.shuffle(items)
    saved = json.dumps(dict(items), indent=random.choice([None, 2])).encode()
    assert config_digest(saved, "config.json") == digest(config)


@given(CONFIGS, CONFIGS)
def test_other_values_have_other_digests(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) is same


def test_notes_inside_a_nested_configuration_do_not_count() -> None:
    assert digest({"text_config": {"size": 1, **IGNORED}}) == digest({"text_config": {"size": 1}})


def test_a_scheduler_may_be_saved_with_infinity() -> None:
    assert digest({"lambda_min_clipped": float("-inf")}) != digest({"lambda_min_clipped": 0})


@pytest.mark.parametrize(("version", "old"), [("0.8.1", True), ("0.9.0", False), ("0.10.0", False)])
def test_a_unet_from_before_0_9_is_loaded_differently(version: str, old: bool) -> None:
    differs = digest({"_diffusers_version": version}) != digest({})
    assert differs is old


def test_the_class_that_an_index_names_has_its_own_place_in_the_key() -> None:
    index = {"unet": ["diffusers", "UNet2DConditionModel"]}
    named = {**index, "_class_name": "StableDiffusionPipeline"}
    assert digest(named, "model_index.json") == digest(index, "model_index.json")
    assert digest(named) != digest(index)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"3"])
def test_what_is_not_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"unet/config\.json"):
        config_digest(data, "unet/config.json")


def test_a_configuration_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(IntegrityError):
        config_digest(b'{"a":' * 5000 + b"1" + b"}" * 5000, "config.json")


# --------------------------------------------------------------------------------------- keys


@given(CONTENTS, st.randoms())
def test_the_order_of_components_and_files_does_not_change_a_key(
    content: PipelineContent, random: Any
) -> None:
    def shuffled(mapping: Any) -> dict[str, Any]:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    components = {
        name: replace(each, configs=shuffled(each.configs))
        for name, each in shuffled(content.components).items()
    }
    assert replace(content, components=components).key == content.key


@given(CONTENTS, CONTENTS)
def test_other_contents_have_other_keys(one: PipelineContent, other: PipelineContent) -> None:
    # -0.0 equals 0.0 and is written differently; specifications never have it.
    if one != other:
        assert one.key != other.key


CONTENT = PipelineContent(
    "StableDiffusionPipeline",
    {
        "": ComponentContent({"model_index.json": "0" * 64}),
        "unet": ComponentContent({"config.json": "1" * 64}, ("2" * 64, "3" * 64), "float16"),
    },
    None,
    (LoraContent("4" * 64, 0.5), LoraContent("5" * 64, 1.0)),
)
UNET = CONTENT.components["unet"]


def with_unet(**changes: Any) -> PipelineContent:
    return replace(CONTENT, components={**CONTENT.components, "unet": replace(UNET, **changes)})


@pytest.mark.parametrize(
    "changed",
    [
        replace(CONTENT, pipeline="StableDiffusionImg2ImgPipeline"),
        replace(CONTENT, quantization={"bits": 8}),
        replace(CONTENT, made_by={"diffusers": "0.42.1"}),
        replace(CONTENT, loras=CONTENT.loras[::-1]),
        replace(CONTENT, loras=CONTENT.loras[:1]),
        replace(CONTENT, loras=(replace(CONTENT.loras[0], scale=0.6), CONTENT.loras[1])),
        replace(CONTENT, loras=(replace(CONTENT.loras[0], component="unet"), CONTENT.loras[1])),
        with_unet(weights=("3" * 64, "2" * 64)),
        with_unet(weights=("2" * 64,)),
        with_unet(dtype="bfloat16"),
        with_unet(configs={"config.json": "6" * 64}),
        replace(CONTENT, components={"unet": UNET}),
        replace(CONTENT, components={**CONTENT.components, "vae": UNET}),
    ],
)
def test_each_change_of_content_changes_the_key(changed: PipelineContent) -> None:
    assert changed.key != CONTENT.key


def test_the_dtype_of_what_has_no_weights_does_not_matter() -> None:
    scheduler = ComponentContent({"scheduler_config.json": "7" * 64})
    keys = {
        replace(CONTENT, components={"scheduler": replace(scheduler, dtype=dtype)}).key
        for dtype in ("auto", "float16")
    }
    assert len(keys) == 1


def test_all_compositions_share_a_base() -> None:
    other = replace(CONTENT, loras=())
    assert CONTENT.base.key == other.base.key == other.key != CONTENT.key


@pytest.mark.parametrize("bad", ["", "0" * 63, "G" * 64, "0" * 65, "sha256:" + "0" * 64])
def test_a_key_is_not_made_without_a_digest(bad: str) -> None:
    with pytest.raises(IntegrityError, match="sha256"):
        _ = with_unet(weights=(bad,)).key
