"""The index of a checkpoint in several files: what it says, and what it may not say."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.weights.shards import beside, is_index_name, parse_index
from pgetpy.errors import BadSafetensorsError

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def index(weight_map: object) -> bytes:
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}).encode()


def test_an_index_tells_which_file_holds_which_tensors() -> None:
    found = parse_index(index({"c": TWO, "a": ONE, "b": TWO}))
    assert found.shards == (ONE, TWO)
    assert found.tensors == {ONE: ("a",), TWO: ("c", "b")}


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/x.safetensors",
        "a\\x.safetensors",
        "C:x.safetensors",
        "https://host/x.safetensors",
        "hf://o/n/x.safetensors",
        ".safetensors",
        ".x.safetensors",
        "..safetensors",
        "x.safetensors?a=b.safetensors",
        "x\n.safetensors",
        "x\0.safetensors",
        "x\u202e.safetensors",
        "x\ud800.safetensors",
        "x.bin",
        "x.safetensors.index.json",
        "",
        5,
        None,
        [ONE],
    ],
)
def test_a_file_is_named_that_stands_beside_the_index(shard: object) -> None:
    with pytest.raises(BadSafetensorsError, match="beside it"):
        parse_index(index({"a": ONE, "b": shard}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"weight_map": []}',
        b'{"weight_map": {}}',
        b'{"weight_map": "x.safetensors"}',
        b"\xff\xfe",
        b"[" * 100_000,
        index({"a": ONE})[:-1],
    ],
)
def test_what_is_no_index_is_refused(raw: bytes) -> None:
    with pytest.raises(BadSafetensorsError, match="index"):
        parse_index(raw)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_index_or_refused(raw: bytes) -> None:
    for data in (raw, b'{"weight_map": ' + raw + b"}"):
        with suppress(BadSafetensorsError):
            assert parse_index(data).shards


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("/a/model.safetensors.index.json", True),
        ("MODEL.SAFETENSORS.INDEX.JSON", True),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", True),
        ("model.safetensors.index.fp16.json", True),
        ("/a/diffusion_pytorch_model.safetensors.index.non_ema.json", True),
        ("model.safetensors.index.fp16/json", False),
        ("/a.safetensors.index/x.json", False),
        ("model.safetensors.indexjson", False),
        ("model.safetensors", False),
        ("pytorch_model.bin.index.json", False),
    ],
)
def test_an_index_is_known_by_its_name(name: str, is_one: bool) -> None:
    assert is_index_name(name) == is_one


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://host/a/i.json", "https://host/a/x y.safetensors"),
        ("https://host/i.json", "https://host/x y.safetensors"),
        ("https://host/a/i.json?sig=1&b=%2F", "https://host/a/x y.safetensors?sig=1&b=%2F"),
        ("https://host/a/i.json#there", "https://host/a/x y.safetensors"),
        ("https://u:p@host:8/a/i.json", "https://u:p@host:8/a/x y.safetensors"),
        ("hf://owner/name/i.json", "hf://owner/name/x y.safetensors"),
        ("hf://owner/name@rev/sub/i.json", "hf://owner/name@rev/sub/x y.safetensors"),
        ("huggingface.co/owner/name/i.json", "huggingface.co/owner/name/x y.safetensors"),
        ("file:///a/i.json", "file:///a/x y.safetensors"),
    ],
)
def test_files_lie_beside_their_index(url: str, found: str) -> None:
    assert beside(url, "x y.safetensors") == found.replace(" ", "%20")
