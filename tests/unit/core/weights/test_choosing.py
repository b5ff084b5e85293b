from __future__ import annotations

import pytest

from pgetpy.core.weights.choosing import are_shards, indices_among, is_hidden, weights_among

LORA = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("._lora.safetensors", True),
        ("a/._lora.safetensors", True),
        ("__MACOSX/a/lora.safetensors", True),
        ("__MACOSX/._lora.safetensors", True),
        (".cache/lora.safetensors", True),
        (".lora.safetensors", True),
        ("a/b/lora.safetensors", False),
        ("./lora.safetensors", False),
        ("a.b/_lora.safetensors", False),
        ("MACOSX/lora.safetensors", False),
    ],
)
def test_what_is_hidden_is_no_weights(name: str, hidden: bool) -> None:
    assert is_hidden(name) == hidden
    assert weights_among(["x/y.safetensors", name])[1:] == (() if hidden else (name,))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([LORA, "style.safetensors", "other/x.safetensors"], LORA),
        (["a/x.safetensors", f"a/{LORA}"], f"a/{LORA}"),
        ([f"checkpoint-500/{LORA}", LORA, f"checkpoint-900/{LORA}"], LORA),
        ([f"checkpoint-500/{LORA}", f"final/{LORA}"], f"final/{LORA}"),
        ([f"checkpoint-500/{LORA}", "x.safetensors"], f"checkpoint-500/{LORA}"),
        ([f"a/b/{LORA}", f"c/{LORA}", "x.safetensors"], f"c/{LORA}"),
        ([f"style_{LORA}", "x.safetensors"], f"style_{LORA}"),
        ([f"a_{LORA}", LORA], LORA),
        ([f"._{LORA}", "x.safetensors"], "x.safetensors"),
        (["model.safetensors", "model.fp16.safetensors"], "model.safetensors"),
        (
            [
                "u/diffusion_pytorch_model.non_ema.safetensors",
                "u/diffusion_pytorch_model.safetensors",
            ],
            "u/diffusion_pytorch_model.safetensors",
        ),
        (["model.safetensors", "model.fp16-00001-of-00002.safetensors"], "model.safetensors"),
    ],
)
def test_a_usual_name_tells_which_file_is_meant(names: list[str], chosen: str) -> None:
    assert weights_among(names) == (chosen,)
    assert weights_among(reversed(names)) == (chosen,)


@pytest.mark.parametrize(
    "names",
    [
        ["a.safetensors", "a.fp16.safetensors"],
        ["model.safetensors", "other.safetensors"],
        ["model.safetensors", "a/model.fp16.safetensors"],
        ["model.fp16.safetensors", "model.bf16.safetensors"],
        [f"a/{LORA}", f"b/{LORA}"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    ],
)
def test_where_no_name_tells_all_that_may_be_meant_are_named(names: list[str]) -> None:
    assert weights_among(["README.md", *names]) == tuple(names)


PLAIN, OTHER = "model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"
VARIANT, OLDER = "model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([PLAIN], [PLAIN]),
        ([OTHER, "config.json"], [OTHER]),
        ([PLAIN, VARIANT, OLDER], [PLAIN]),
        ([VARIANT], [VARIANT]),
        ([OLDER], [OLDER]),
        ([VARIANT, "model.safetensors"], []),
        ([OLDER, "model.safetensors"], []),
        ([PLAIN, "model.safetensors"], [PLAIN]),
        ([PLAIN, OTHER], [PLAIN, OTHER]),
        ([PLAIN, "other.safetensors.index.json"], [PLAIN, "other.safetensors.index.json"]),
        (
            [VARIANT, "model.safetensors.index.bf16.json"],
            [VARIANT, "model.safetensors.index.bf16.json"],
        ),
        ([PLAIN, f"._{PLAIN}", f"__MACOSX/{OTHER}"], [PLAIN]),
    ],
)
def test_of_indexes_that_of_no_variant_is_meant(names: list[str], found: list[str]) -> None:
    assert list(indices_among(names)) == found


def test_parts_are_told_by_their_numbers() -> None:
    assert are_shards(["a/model-00001-of-00002.safetensors", "x.fp16-00002-of-00002.safetensors"])
    assert not are_shards(["model-00001-of-00002.safetensors", "model.safetensors"])
