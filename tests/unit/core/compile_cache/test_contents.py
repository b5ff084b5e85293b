"""Damage that is seen, group files of Triton, tables that are united."""

from __future__ import annotations

import json

import pytest

from pgetpy.core.compile_cache.contents import (
    children_of,
    damage,
    placed_group,
    portable,
    portable_group,
    united_table,
)
from tests.support.compile_trees import content_name, elf

SO = elf(b"code" * 100)
PICKLE = b"\x80\x04" + b"p" * 100


@pytest.mark.parametrize(
    ("path", "data", "why"),
    [
        ("aa/x.so", SO, ""),
        ("aa/x.so", b"", "is empty"),
        ("aa/x.so", SO[:-1], "is truncated"),
        ("aa/x.so", SO[:40], "is not a shared object for this machine"),
        ("aa/x.so", b"#!/bin/sh" + SO[9:], "is not a shared object for this machine"),
        ("aa/x.py", b"x = 1\n", ""),
        ("aa/x.py", b"", "is empty"),
        ("aa/x.py", b"x = 1\n" + bytes(100), "has zero bytes where text should be"),
        ("cache/k", b'{"a": 1}', ""),
        ("cache/k", b'{"a": 1', "is not JSON"),
        ("aa/x.best_config", b"{", "is not JSON"),
        (f"fxgraph/aa/k/{content_name(PICKLE)}", PICKLE, ""),
        (
            f"fxgraph/aa/k/{content_name(PICKLE)}",
            PICKLE[:-1],
            "does not have the content that its name says",
        ),
        ("fxgraph/aa/k/another_scheme", PICKLE, ""),
        ("dynamo/x/__init__.py", b"", ""),
    ],
)
def test_damage_is_told_from_the_bytes(path: str, data: bytes, why: str) -> None:
    assert damage("inductor", path, data, len(data)) == why


def test_a_group_is_portable_and_finds_its_files_in_another_folder() -> None:
    data = json.dumps({"child_paths": {"k.ptx": "/a/K/k.ptx", "k.json": "/a/K/k.json"}}).encode()
    there = portable_group(data)
    assert b"/a/K" not in there
    assert portable_group(there) == there
    placed = json.loads(placed_group(there, "/b/K"))
    assert placed == {"child_paths": {"k.ptx": "/b/K/k.ptx", "k.json": "/b/K/k.json"}}
    assert children_of(there) == {"k.ptx", "k.json"}


@pytest.mark.parametrize(
    "children", [{"a": "../../etc/x"}, {"a": "/etc/passwd"}, {"a": ""}, {"a": ".."}, {"a": 1}, []]
)
def test_a_group_from_a_store_names_files_of_its_folder_only(children: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        placed_group(json.dumps({"child_paths": children}).encode(), "/b/K")


def test_tables_are_united_and_the_first_wins() -> None:
    one = b'{"a": {"x": 1}, "b": 2}'
    two = b'{"a": {"x": 9, "y": 3}, "c": 4}'
    united = united_table([one, two])
    assert united is not None
    assert json.loads(united) == {"a": {"x": 1, "y": 3}, "b": 2, "c": 4}
    assert united_table([one, b"[]"]) is None
    assert united_table([one, b"{"]) is None


def test_tables_are_stored_in_one_form() -> None:
    assert portable("inductor", "cache/k", b'{"b": 1, "a": 2}') == b'{"a":2,"b":1}'
    assert portable("inductor", "aa/x.py", b"{ }") == b"{ }"


def test_tables_may_hold_times_that_are_infinite() -> None:
    # torch gives that time to choices that fail when they are timed.
    table = b'{"a":{"x":Infinity}}'
    assert portable("inductor", "cache/k", table) == table
    assert united_table([table, b'{"a": {"x": 1, "y": 2}}']) == b'{"a":{"x":Infinity,"y":2}}'
