"""In which dtype a component is loaded, and which tensors may differ."""

from __future__ import annotations

import pytest

from pgetpy.core.pipelines.dtypes import load_dtype, strayed
from pgetpy.core.weights.safetensors import Tensor
from pgetpy.errors import BadSettingError


def tensors(**sizes: int) -> list[Tensor]:
    return [Tensor(dtype.lower(), dtype, (size,), 0, size) for dtype, size in sizes.items()]


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
    assert load_dtype("unet", wanted, tensors(**sizes)) == expected


def test_eight_bits_are_for_quantised_models_alone() -> None:
    small = tensors(F8_E4M3=8, F16=2)
    with pytest.raises(BadSettingError, match="unet are F8_E4M3"):
        load_dtype("unet", "auto", small)
    assert load_dtype("unet", "auto", small, quantised=True) == ("float16", ())


def test_a_parameter_in_another_dtype_is_named_unless_its_class_keeps_it_so() -> None:
    found = [("a.weight", "float16"), ("b.wo.weight", "float32")]
    assert strayed(found, "float16", ()) == "b.wo.weight in float32"
    assert strayed(found, "float16", ("wo",)) == ""
    assert strayed(found, "float16", ("w",)) == "b.wo.weight in float32"
    assert strayed([("b.wo.weight", "float64")], "float16", ("wo",)) == "b.wo.weight in float64"
