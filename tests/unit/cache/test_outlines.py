"""Room is made by file names and file times: records are read of what has to go, and no others."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgetpy.cache.contents import scan
from pgetpy.cache.layout import KEY_LENGTH, CachePaths
from pgetpy.cache.outlines import OutlineReader, Outlines, outline_of
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About, Record, record_lines
from tests.support.entries import key_of, left_over, names_of, put, sha256

SIZE = 10


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory, if there is one: thousands of entries are quickly made there."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


def write_entry(layout: CachePaths, name: object, used: int, *, folder: bool = False) -> Record:
    """Write an entry as it stands once it was published, without what publishing does besides."""
    key = key_of(name)
    about = About(f"https://host/{name}")
    record = Record(key, f"{used:08x}", "weights.bin", SIZE, folder, "", float(used), about)
    content = Path(layout.content(key, record.generation, record.name))
    content.parent.mkdir(exist_ok=True)
    if folder:
        content.mkdir()
        (content / "part").write_bytes(bytes(SIZE))
    else:
        content.write_bytes(bytes(SIZE))
    path = layout.record(key)
    Path(path).write_bytes(record_lines(record))
    os.utime(path, ns=(used, used))
    return record


@contextmanager
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The keys of the records that are opened meanwhile."""
    opened: list[str] = []
    real = os.open

    def noting(path: str, *arguments: object, **named: object) -> int:
        name = os.path.basename(os.fspath(path))
        if len(name) == KEY_LENGTH and "/entries/" in os.fspath(path):
            opened.append(name)
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", noting)
        yield opened


def test_a_miss_reads_the_records_of_what_has_to_go_and_no_others(
    quick_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2_000
    with Store(quick_path, max_bytes=(count + 1) * SIZE) as store:
        layout = CachePaths(quick_path)
        for number in range(count):
            write_entry(layout, number, number + 1)
        with reading(monkeypatch) as opened:
            assert store.make_room(SIZE) == 0
        assert opened == []
        with reading(monkeypatch) as opened:
            assert store.make_room(4 * SIZE) == 3 * SIZE
        assert sorted(opened) == sorted(map(key_of, range(3)))
        assert names_of(store) == set(map(str, range(3, count)))


def test_the_size_of_a_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path, max_bytes=100 * SIZE) as store:
        layout = CachePaths(tmp_path)
        for number in range(8):
            write_entry(layout, number, number + 1, folder=number % 2 == 0)
        with reading(monkeypatch) as opened:
            store.make_room(1)
        assert sorted(opened) == sorted(map(key_of, (0, 2, 4, 6)))
        write_entry(layout, 8, 9, folder=True)
        with reading(monkeypatch) as opened:
            store.make_room(1)
        assert opened == [key_of(8)]
        assert store.make_room(92 * SIZE) == SIZE
        assert names_of(store) == set(map(str, range(1, 9)))


def settle(root: Path, *shards: str) -> None:
    """Have the last change of all folders of entries, or of `shards`, be long past."""
    for path in (root / "entries").iterdir():
        if not shards or path.name in shards:
            os.utime(path, ns=(1, 1_000_000_000 + os.stat(path).st_mtime_ns // 2))


@contextmanager
def listing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders of entries that are listed meanwhile."""
    listed: list[str] = []
    real = os.scandir

    def noting(path: str = ".") -> object:
        if os.path.basename(os.path.dirname(path)) == "entries":
            listed.append(os.path.basename(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", noting)
        yield listed


def test_only_folders_that_changed_are_listed_again_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path, max_bytes=20_000) as store, Store(tmp_path) as other:
        for number in range(10):
            put(other, number)
        settle(tmp_path)
        store.make_room(1)
        with listing(monkeypatch) as listed:
            store.make_room(1)
        assert listed == []
        put(other, "new")
        changed = key_of("new")[:2]
        # Unless a change is long past, another one may leave the same time and not show.
        now = time.time_ns() + 3600 * 10**9
        os.utime(tmp_path / "entries" / changed, ns=(now, now))
        for _ in range(2):
            with listing(monkeypatch) as listed:
                store.make_room(1)
            assert listed == [changed]
        settle(tmp_path, changed)
        store.make_room(1)
        with listing(monkeypatch) as listed:
            store.make_room(1)
        assert listed == []
        assert store.make_room(9000) == 0
        assert store.make_room(9001) == 1000
        assert store.make_room(10_000) == 0


def test_what_other_processes_put_in_and_take_out_counts(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=5000) as store, Store(tmp_path) as other:
        for name in "abcd":
            put(other, name)
        settle(tmp_path)
        assert store.make_room(1000) == 0
        put(other, "e")
        settle(tmp_path)
        assert store.make_room(1000) == 1000
        other.remove(key_of("b"))
        settle(tmp_path)
        assert store.make_room(2000) == 0
        # A second name for a file: counted twice at first, and then looked at closely.
        data = b"same" * 250
        put(other, "c", data, digest=sha256(data))
        settle(tmp_path)
        assert store.make_room(2000) == 0
        put(other, "f", data, digest=sha256(data))
        assert store.make_room(2000) == 0
        assert names_of(store) == set("cdef")


def test_an_entry_that_was_published_anew_after_the_look_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = OutlineReader.read
    with Store(tmp_path, max_bytes=3000) as store, Store(tmp_path) as other:
        for name in "abc":
            put(store, name)

        def late(reader: OutlineReader) -> Outlines:
            found = look(reader)
            monkeypatch.undo()
            put(other, "a", b"new" * 300)
            return found

        monkeypatch.setattr(OutlineReader, "read", late)
        store.make_room(500)
        assert names_of(store) == {"a", "c"}
        entry = store.lookup(key_of("a"))
        assert entry is not None
        assert entry.path.read_bytes() == b"new" * 300


def test_entries_with_damaged_records_make_room_in_their_turn(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=6000) as store:
        for name in "abcdef":
            put(store, name)
        for name in "acd":
            path = Path(CachePaths(tmp_path).record(key_of(name)))
            used = path.stat().st_mtime_ns
            path.write_bytes(b"damaged")
            os.utime(path, ns=(used, used))
        assert store.make_room(3000) == 1000
        assert names_of(store) == {"e", "f"}
        store.sweep()
    assert left_over(tmp_path) == []


def test_a_record_that_a_power_cut_emptied_goes_before_any_entry(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=6000) as store:
        for name in "abcdef":
            put(store, name)
        for name in "acd":
            Path(CachePaths(tmp_path).record(key_of(name))).write_bytes(b"")
        assert store.make_room(3000) == 0
        assert names_of(store) == {"b", "e", "f"}
    assert left_over(tmp_path) == []


def remove_content(layout: CachePaths, record: Record) -> None:
    path = Path(layout.content(record.key, record.generation, record.name))
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def add_content(layout: CachePaths, record: Record) -> None:
    Path(layout.content(record.key, "other", record.name)).write_bytes(b"left over")


def remove_record(layout: CachePaths, record: Record) -> None:
    Path(layout.record(record.key)).unlink()


def link_content(layout: CachePaths, record: Record) -> None:
    path = layout.content(record.key, record.generation, record.name)
    if not os.path.isdir(path):
        os.link(path, os.path.join(os.path.dirname(layout.at("x")), record.key))


CHANGES: list[Callable[[CachePaths, Record], object]] = [
    lambda *_: None,
    remove_content,
    add_content,
    remove_record,
    link_content,
]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(CHANGES)), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_outlines_tell_what_records_tell(
    quick_path: Path, entries: list[tuple[bool, Callable[[CachePaths, Record], object]]]
) -> None:
    root = quick_path / "cache"
    with Store(root):
        layout = CachePaths(root)
        for number, (folder, change) in enumerate(entries):
            change(layout, write_entry(layout, number, number + 1, folder=folder))
        expected = scan(layout)
        reader = OutlineReader(layout, remembers=True)
        for _ in range(2):
            found = reader.read()
            assert sorted(found.rows) == sorted(map(outline_of, expected.rows))
            assert sorted(found.orphans) == sorted(expected.orphans)
            assert sorted(found.broken) == sorted(expected.broken)
    shutil.rmtree(root)
