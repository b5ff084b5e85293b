"""Pins of programs: many at once, and all of one owner gone together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from pgetpy.errors import CacheError, CacheFullError
from tests.support.entries import key_of, names_of, put

ME, OTHER = "a" * 32, "b" * 32


def test_many_pins_at_once_keep_their_entries(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in range(5):
            put(store, number)
        store.pin_all([key_of(0), key_of(2), key_of("later")], ME)
        with Store(tmp_path, max_bytes=2000) as small:
            small.make_room(0)
            assert names_of(small) == {"0", "2"}
            with pytest.raises(CacheFullError, match="pins 2000"):
                small.make_room(1)
        with pytest.raises(CacheError, match="a pin"):
            store.remove(key_of(0))


def test_the_pins_of_one_owner_go_together(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.pin_all([key_of(0), key_of(1)], ME)
        store.pin_all([key_of(1), key_of(2)], ME)
        store.pin(key_of(3), ME)
        store.pin_all([key_of(0)], OTHER)
        store.pin(key_of(0))
        assert store.pins_by_owner()[ME] == {key_of(number) for number in range(4)}
        assert store.unpin_all(ME) == 4
        assert store.unpin_all(ME) == 0
        assert store.pins_by_owner() == {OTHER: {key_of(0)}, "": {key_of(0)}}


def test_single_pins_are_taken_back_alone(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.pin(key_of(0), ME)
        store.pin(key_of(1), ME)
        assert store.unpin(key_of(0), ME)
        assert not store.unpin(key_of(0), ME)
        assert store.pins_by_owner() == {ME: {key_of(1)}}
