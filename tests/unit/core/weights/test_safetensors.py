from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.weights.safetensors import DTYPE_BITS, head_size, parse_head
from pgetpy.errors import BadSafetensorsError


def head(header: object, padding: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * padding
    return struct.pack("<Q", len(text)) + text


def tensor(start: int, stop: int, dtype: str = "U8", shape: list[Any] | None = None) -> Any:
    return {
        "dtype": dtype,
        "shape": [stop - start] if shape is None else shape,
        "data_offsets": [start, stop],
    }


def test_a_file_is_told_by_its_head_and_size() -> None:
    raw = head(
        {"__metadata__": {"format": "pt"}, "b": tensor(4, 12, "F16", [2, 2]), "a": tensor(0, 4)}
    )
    found = parse_head(raw, len(raw) + 12)
    assert [t.name for t in found.tensors] == ["a", "b"]
    assert [(t.start - len(raw), t.stop - len(raw)) for t in found.tensors] == [(0, 4), (4, 12)]
    assert found.tensors[1].shape == (2, 2)
    assert (found.metadata, found.size) == ({"format": "pt"}, len(raw) + 12)


def test_a_file_without_tensors_is_one() -> None:
    assert parse_head(head({}), 10).tensors == ()


def test_scalars_empty_tensors_and_padding_are_allowed() -> None:
    raw = head(
        {"e": tensor(4, 4, "F32", [0, 3]), "s": tensor(0, 4, "F32", []), "x": tensor(4, 5)}, 7
    )
    assert [t.name for t in parse_head(raw, len(raw) + 5).tensors] == ["s", "e", "x"]


def test_what_load_file_takes_is_taken() -> None:
    one, other = json.dumps(tensor(7, 9)), json.dumps(tensor(0, 2))
    for text in (
        f'{{"__metadata__": null, "a": {other}}}',
        f'{{"__metadata__": {{"x": "1", "x": "2"}}, "a": {other}}}',
        f'{{"a": {one}, "a": {other}}}',
        f' \n{{"a": {other}}}\r\n\t',
    ):
        raw = head(text.encode())
        found = parse_head(raw, len(raw) + 2)
        assert [each.name for each in found.tensors] == ["a"]
        assert found.metadata == ({"x": "2"} if "x" in text else {})
    for field in ('"x": 1, "x": 2', '"x": -0', '"x": "\\ud83d\\ude00"', f'"x": {"1" * 300}'):
        raw = head(f'{{"a": {other[:-1]}, {field}}}}}'.encode())
        assert len(parse_head(raw, len(raw) + 2).tensors) == 1
    raw = head({"a": tensor(0, 0, shape=[0, 2**62, 4]), "b": tensor(0, 0, "F64", [2**60, 0])})
    assert len(parse_head(raw, len(raw)).tensors) == 2


def test_bytes_behind_the_head_are_no_concern() -> None:
    raw = head({"a": tensor(0, 3)})
    assert parse_head(raw + b"abc", len(raw) + 3) == parse_head(raw, len(raw) + 3)


def test_a_dtype_that_is_not_known_is_believed() -> None:
    raw = head({"a": tensor(0, 3, "F3_NEW", [8])})
    assert parse_head(raw, len(raw) + 3).tensors[0].dtype == "F3_NEW"


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 4), max_size=3))
    )
)
def test_whatever_is_written_by_the_rules_is_read(drawn: list[tuple[str, list[int]]]) -> None:
    at, header = 0, {}
    for number, (dtype, shape) in enumerate(drawn):
        elements = 8
        for length in shape:
            elements *= length
        stop = at + DTYPE_BITS[dtype] * elements // 8
        header[f"t{number}"] = tensor(at, stop, dtype, [8, *shape])
        at = stop
    raw = head(header)
    assert parse_head(raw, len(raw) + at).size == len(raw) + at
    if at:
        with pytest.raises(BadSafetensorsError):
            parse_head(raw, len(raw) + at - 1)


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ({"a": tensor(0, 4)}, 3, "describes"),
        ({"a": tensor(0, 4)}, 5, "describes"),
        ({"a": tensor(1, 4)}, 4, "a gap before tensor 'a'"),
        ({"a": tensor(0, 2), "b": tensor(3, 4)}, 4, "a gap before tensor 'b'"),
        ({"a": tensor(0, 3), "b": tensor(2, 4)}, 4, "an overlap before tensor 'b'"),
        ({"a": tensor(0, 4, "F32", [2])}, 4, "not match its shape"),
        ({"a": tensor(0, 4, shape=[-4])}, 4, "malformed"),
        ({"a": tensor(0, 4, shape=[4.0])}, 4, "malformed"),
        ({"a": tensor(0, 1, shape=[True])}, 1, "malformed"),
        ({"a": {"dtype": "U8", "shape": [1]}}, 1, "malformed"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, 1, "ends before"),
        ({"a": {"dtype": 8, "shape": [1], "data_offsets": [0, 1]}}, 1, "no dtype"),
        ({"a": []}, 0, "not described"),
        ({"__metadata__": {"n": 1}}, 0, "__metadata__"),
        ({"__metadata__": []}, 0, "__metadata__"),
        ({"__metadata__": {"n": None}}, 0, "__metadata__"),
        (b"[]", 0, "brace"),
        (b"", 0, "brace"),
        (b'{"a": ', 0, "not JSON"),
        (b'{"a": "\xff"}', 0, "not JSON"),
        (b'{"__metadata__": {}, "__metadata__": {}}', 0, "given twice"),
        (
            b'{"a": {"dtype": "U8", "dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}',
            0,
            "twice",
        ),
        (b'{"a": {"dtype": "U8", "shape": [-0], "data_offsets": [0, 0]}}', 0, "malformed"),
        ({"a": tensor(0, 0, shape=[0, 10**23])}, 0, "impossible"),
        ({"a": tensor(0, 0, shape=[10**23, 0])}, 0, "impossible"),
        ({"a": tensor(0, 0, shape=[0, 2**63])}, 0, "impossible"),
        ({"a": tensor(0, 0, shape=[2**40, 2**40, 0])}, 0, "impossible"),
        ({"a": tensor(0, 0, "F9_NEW", [2**63, 0])}, 0, "impossible"),
        (b'{"\\ud800": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}', 0, "not JSON"),
        (b'{"__metadata__": {"\\uDFFF": ""}}', 0, "not JSON"),
        (b'{"__metadata__": {"": "\\udC00\\ud800"}}', 0, "not JSON"),
        ({"a": {**tensor(0, 0), "x": float("nan")}}, 0, "NaN is not a number"),
        ({"a": {**tensor(0, 0), "x": [float("-inf")]}}, 0, "Infinity is not a number"),
        (b'{"a": {"x": 1e999}}', 0, "out of range"),
        (b'{"a":' + b"[" * 100_000, 0, "not JSON"),
        (b"{}x", 0, "not JSON"),
    ],
)
def test_what_contradicts_itself_is_refused(header: object, data: int, reason: str) -> None:
    raw = head(header)
    with pytest.raises(BadSafetensorsError, match=reason):
        parse_head(raw, len(raw) + data)


@pytest.mark.parametrize("raw", [b"", b"\x02\0\0\0\0\0\0", b"<!DOCTYPE html><html>", b"PK\3\4" * 4])
def test_what_is_something_else_is_refused(raw: bytes) -> None:
    with pytest.raises(BadSafetensorsError):
        parse_head(raw, 10**6)


def test_how_much_to_read_is_known_from_eight_bytes() -> None:
    raw = head({"a": tensor(0, 1)})
    assert head_size(raw[:8]) == len(raw)
    with pytest.raises(BadSafetensorsError, match="cut off"):
        head_size(raw[:8], len(raw) - 1)
    with pytest.raises(BadSafetensorsError, match="cut off"):
        parse_head(raw[:-1], len(raw) + 1)
