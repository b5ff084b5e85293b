"""Headers of safetensors files, odd ones too: what load_file takes is taken, and nothing else."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pgetpy import tensors
from pgetpy.core.weights.safetensors import parse_head
from pgetpy.errors import BadSafetensorsError, NotWeightsError


def file_of(header: str | bytes, size: int) -> bytes:
    raw = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw + bytes(size)


def theirs(raw: bytes) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes as safetensors reads them; None where it refuses."""
    try:
        return {name: tuple(each["shape"]) for name, each in safetensors.deserialize(raw)}
    except safetensors.SafetensorError:
        return None


def ours(raw: bytes) -> dict[str, tuple[int, ...]] | None:
    try:
        return {each.name: each.shape for each in parse_head(raw, len(raw)).tensors}
    except BadSafetensorsError:
        return None


# ------------------------------------------------------------------------ odd headers, drawn

LENGTHS = ["0", "1", "2", "3", "-0", "2.0", "1e0", "true", "null", "-1", "4611686018427387904"]
TEXTS = ["", "a", "é", "\\u00e9", "\\ud83d\\ude00", "\\ud800", "\\uDC00x", "\\\\ud800", "\\/"]
TEXTS += ["\x01", "😀"]
VALUES = ["1", '"x"', "null", "NaN", "Infinity", "-Infinity", "1e999", "1e308", "-0", "[]", "{}"]
VALUES += ['{"y": 1, "y": 2}', '"\\ud800"', '"\\ud83d\\ude00"', "01", "1.", "[1,]", "'x'"]
BLANKS = ["", " ", "\n", "\t ", "\r\n"]

texts = st.sampled_from(TEXTS).map(lambda text: f'"{text}"')
lengths = st.one_of(st.integers(0, 3).map(str), st.sampled_from(LENGTHS))
shapes = st.lists(lengths, max_size=3).map(lambda drawn: f"[{','.join(drawn)}]")
blanks = st.sampled_from(BLANKS)


@st.composite
def described(draw: st.DrawFn, start: int) -> tuple[str, int]:
    """A tensor's description, right mostly, and where its bytes end."""
    shape = draw(st.one_of(st.just("[2]"), st.just("[2]"), shapes))
    size = draw(st.sampled_from([2, 2, 2, 0, 1, 3]))
    offsets = f"[{start},{start + size}]"
    fields = [("dtype", '"U8"'), ("shape", shape), ("data_offsets", offsets)]
    if draw(st.integers(0, 3)) == 0:
        fields.append(
            (draw(st.sampled_from(["x", "dtype", "shape"])), draw(st.sampled_from(VALUES)))
        )
    if draw(st.integers(0, 9)) == 0:
        fields.pop(draw(st.integers(0, 2)))
    text = ",".join(
        f'"{name}"{draw(blanks)}:{value}' for name, value in draw(st.permutations(fields))
    )
    return "{" + text + "}", start + size


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    entries, at = [], 0
    for name in draw(st.lists(st.one_of(st.sampled_from(['"a"', '"b"']), texts), max_size=3)):
        text, at = draw(described(at))
        entries.append(f"{name}:{text}")
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2]))):
        pairs = ",".join(
            f"{draw(texts)}:{draw(st.one_of(texts, texts, texts, st.sampled_from(VALUES)))}"
            for _ in range(draw(st.integers(0, 3)))
        )
        value = draw(st.sampled_from(["{" + pairs + "}"] * 4 + ["null", "[]", '"x"', "1"]))
        entries.insert(draw(st.integers(0, len(entries))), f'"__metadata__":{value}')
    text = draw(blanks) + "{" + f"{draw(blanks)},".join(entries) + "}" + draw(blanks)
    return file_of(text, at + draw(st.sampled_from([0, 0, 0, 0, 1])))


@settings(max_examples=1000)
@given(headers())
def test_odd_headers_mean_what_they_mean_to_safetensors(raw: bytes) -> None:
    assert ours(raw) == theirs(raw)


GOOD = file_of(
    '{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},'
    '"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}}',
    7,
)


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.integers(8, len(GOOD) - 8), st.integers(0, 255)), max_size=2))
def test_changed_bytes_of_a_header_mean_what_they_mean_to_safetensors(
    changes: list[tuple[int, int]],
) -> None:
    raw = bytearray(GOOD)
    for at, byte in changes:
        raw[at] = byte
    found = ours(bytes(raw))
    # A dtype that is not known here may be one of a newer safetensors.
    known = b'"F16"' in raw and b'"U8"' in raw
    assert found == theirs(bytes(raw)) or not known


# ------------------------------------------------------------------------ shapes that nothing has


SHAPES = [[0, 10**23], [10**23, 0], [0, 2**63], [2**63, 0], [0, 2**64 - 1, 2], [0, 2**62, 4]]
SHAPES += [[2**40, 2**40, 0], [0, 2**40, 2**40], [0, 2**63 - 1], [0] * 40, [1] * 70, [0] * 70]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape)[:30])
@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_a_shape_is_loaded_or_refused_in_words_of_ours(
    tmp_path: Path, shape: list[int], framework: str, dtype: str
) -> None:
    size = 0 if 0 in shape else {"F32": 4, "BF16": 2, "F64": 8}[dtype]
    path = tmp_path / "x.safetensors"
    text = f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{size}]}}}}'
    path.write_bytes(file_of(text, size))
    try:
        judged = tuple(load_file(path)["a"].shape)
    except (safetensors.SafetensorError, TypeError):
        judged = None
    found = None
    with contextlib.suppress(NotWeightsError):
        found = tuple(tensors.load(path, framework=framework)["a"].shape)
    # numpy has narrower limits of its own.
    assert found == judged or (framework == "numpy" and found is None)
