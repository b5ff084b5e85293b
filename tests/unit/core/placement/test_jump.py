"""pget's placement, compared with what pget's own packages give."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.fleet.go_urls import parse_go_url
from pgetpy.core.placement.jump import fnv1, jump, place, placement_hash, places

VECTORS = json.loads(Path(__file__).with_name("pget_placements.json").read_text("utf-8"))


@pytest.mark.parametrize("row", VECTORS["placements"], ids=lambda row: f"{row[2:5]} {row[0]}")
def test_a_piece_is_placed_as_by_pget(row: list[Any]) -> None:
    url, printed, piece, nodes, failed, expected, node = row
    key = str(parse_go_url(url))
    assert key == (printed or url)
    assert placement_hash(key, piece, len(failed)) == int(expected)
    assert place(key, piece, nodes, failed) == (None if node < 0 else node)


def test_the_hash_is_fnv_1_and_not_1a() -> None:
    # From the reference implementation's test vectors.
    assert (fnv1(b""), fnv1(b"a")) == (0xCBF29CE484222325, 0xAF63BD4C8601B7BE)


def test_a_jump_hash_has_all_its_buckets() -> None:
    assert {jump(fnv1(str(key).encode()), 7) for key in range(200)} == set(range(7))


def test_every_node_gets_its_turn_once() -> None:
    assert sorted(places("https://example.com/x", 3, 20)) == list(range(20))


def test_the_order_is_that_in_which_pget_would_try_them() -> None:
    url = "https://example.com/x"
    first, second, third = islice(places(url, 0, 9), 3)
    assert place(url, 0, 9) == first
    assert place(url, 0, 9, [first]) == second
    assert place(url, 0, 9, [second, first]) == third


def test_without_nodes_there_is_no_place() -> None:
    assert list(places("https://example.com/x", 0, 0)) == []
