"""Entries are compared with their records without changing either."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry
from pgetpy.cache.inspection import inspect_entry
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About
from tests.unit.cache.test_store import key_of, put

CONTENT = b"weights" * 100


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """A layer with one entry, complete and flushed."""
    with Store(tmp_path / "baked") as store:
        put(store, "a", CONTENT)
        store.settle(key_of("a"))
    return tmp_path / "baked"


def entry_in(baked: Path, name: str = "a") -> Entry | None:
    return Store(baked.parent / "own", lower=[baked]).peek(key_of(name))


def test_a_sound_entry_is_sound_and_nothing_is_written(baked: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in baked.rglob("*")}
    entry = entry_in(baked)
    assert entry is not None
    assert entry.lower
    for deep in (False, True):
        assert inspect_entry(entry, deep=deep) is Verdict.SOUND
        assert inspect_entry(entry, entry.record.digest, deep=deep) is Verdict.SOUND
    assert {path: path.lstat().st_mtime_ns for path in baked.rglob("*")} == before


def test_what_is_not_there_is_missing(baked: Path) -> None:
    assert inspect_entry(entry_in(baked, "b")) is Verdict.MISSING
    entry = entry_in(baked)
    assert entry is not None
    entry.path.unlink()
    assert inspect_entry(entry) is Verdict.MISSING


def test_another_size_is_damage_at_once_and_another_byte_when_hashed(baked: Path) -> None:
    entry = entry_in(baked)
    assert entry is not None
    entry.path.chmod(0o644)
    entry.path.write_bytes(b"W" + CONTENT[1:])
    assert inspect_entry(entry) is Verdict.SOUND
    assert inspect_entry(entry, deep=True) is Verdict.DAMAGED
    os.truncate(entry.path, 10)
    assert inspect_entry(entry_in(baked)) is Verdict.DAMAGED


def test_an_entry_with_another_digest_than_wanted_is_not_it(baked: Path) -> None:
    assert inspect_entry(entry_in(baked), f"sha256:{'0' * 64}") is Verdict.DAMAGED


def test_without_a_digest_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    with Store(tmp_path / "baked") as store:
        put(store, "a", CONTENT)
    entry = entry_in(tmp_path / "baked")
    assert inspect_entry(entry) is Verdict.SOUND
    assert inspect_entry(entry, deep=True) is Verdict.UNKNOWN
    assert inspect_entry(entry, f"sha256:{'0' * 64}") is Verdict.UNKNOWN


def test_a_folder_is_compared_by_its_files(tmp_path: Path) -> None:
    with Store(tmp_path / "baked") as store, store.try_fill(key_of("a")) as fill:  # type: ignore[union-attr]
        source = fill.folder / "repository"
        (source / "unet").mkdir(parents=True)
        (source / "unet" / "x.safetensors").write_bytes(CONTENT)
        (source / "model_index.json").write_bytes(b"{}")
        fill.publish(source, About("hf://o/n"))
        store.settle(key_of("a"))
    entry = entry_in(tmp_path / "baked")
    assert entry is not None
    assert inspect_entry(entry, deep=True) is Verdict.SOUND
    (entry.path / "unet" / "x.safetensors").unlink()
    assert inspect_entry(entry) is Verdict.DAMAGED
