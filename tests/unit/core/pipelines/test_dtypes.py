"""In which dtype a component is loaded, and which tensors may differ."""

from __future__ import annotations

import json

import pytest

from pgetpy.core.pipelines.dtypes import dtype_sizes, load_dtype, strayed
from pgetpy.errors import BadSafetensorsError, BadSettingError


def test_the_bytes_of_each_dtype_are_summed() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "F16", "shape": [1], "data_offsets": [4, 6]},
        "c": {"dtype": "F32", "shape": [1], "data_offsets": [6, 10]},
    }
    assert dtype_sizes(json.dumps(header).encode()) == {"F16": 6, "F32": 4}


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F16"}}'])
def test_a_header_that_cannot_be_read_is_an_error(header: bytes) -> None:
    with pytest.raises(BadSafetensorsError):
        dtype_sizes(header)


@pytest.mark.parametrize(
    ("wanted", "sizes", "expected"),
    [
        ("auto", {"F16": 8}, ("float16", ())),
        ("auto", {"F16": 8, "I64": 100}, ("float16", ())),
        ("auto", {"F16": 8, "F32": 4}, ("float16", ("float32",))),
        ("auto", {"F16": 8, "F32": 8}, ("float32", ("float16",))),
        ("auto", {"BF16": 8}, ("bfloat16", ())),
        ("auto", {"I8": 8}, ("", ())),
        ("auto", {}, ("", ())),
        ("float32", {"F16": 8}, ("float32", ())),
        ("bfloat16", {"F8_E4M3": 8}, ("bfloat16", ())),
    ],
)
def test_the_dtype_of_most_bytes_is_taken_unless_another_is_asked_for(
    wanted: str, sizes: dict[str, int], expected: tuple[str, tuple[str, ...]]
) -> None:
    assert load_dtype("unet", wanted, sizes) == expected


def test_eight_bits_are_for_quantised_models_alone() -> None:
    small = {"F8_E4M3": 8, "F16": 2}
    with pytest.raises(BadSettingError, match="unet are F8_E4M3"):
        load_dtype("unet", "auto", small)
    assert load_dtype("unet", "auto", small, quantised=True) == ("float16", ())


def test_a_parameter_in_another_dtype_is_named_unless_its_class_keeps_it_so() -> None:
    found = [("a.weight", "float16"), ("b.wo.weight", "float32")]
    assert strayed(found, "float16", ()) == "b.wo.weight in float32"
    assert strayed(found, "float16", ("wo",)) == ""
    assert strayed(found, "float16", ("w",)) == "b.wo.weight in float32"
    assert strayed([("b.wo.weight", "float64")], "float16", ("wo",)) == "b.wo.weight in float64"
