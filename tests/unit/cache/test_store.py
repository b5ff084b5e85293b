"""What is put into a cache is found again, once, by everybody, and only so long as it is right."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About, State, parse_record, record_lines
from pgetpy.errors import CacheError
from tests.support.entries import (
    NAME,
    child,
    content_of,
    disk_size,
    key_of,
    left_over,
    names_of,
    put,
    said,
    sha256,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def found(store: Store, name: object) -> Entry:
    entry = store.peek(key_of(name))
    assert entry is not None
    return entry


def flip(path: Path) -> None:
    """One bit of a file is another, its size and time are not."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def another_boot(store: Store, name: object) -> None:
    """The entry was written before the machine went down."""
    entry = found(store, name)
    path = store.root / "entries" / entry.key[:2] / entry.key
    path.write_bytes(path.read_bytes().replace(entry.record.boot.encode(), b"x" * 36, 1))
    lines = path.read_bytes().split(b"\n", 1)[1]
    record = entry.record
    path.write_bytes(record_lines(type(record)(**{**vars(record), "boot": "before"})) + lines)


def test_what_was_published_is_found_also_by_another_process(store: Store) -> None:
    assert store.lookup(key_of("a")) is None
    entry = put(store, "a")
    assert entry.path.name.endswith("." + NAME)
    assert entry.path.read_bytes() == content_of("a")
    assert store.lookup(key_of("a")) == entry
    assert (entry.state, entry.size, entry.lower) == (State.SOUND, 1000, False)
    with child("say(Store(sys.argv[1]).lookup(key_of('a')).path)", store.root) as other:
        assert said(other) == str(entry.path)


def test_what_the_filler_tells_is_kept(store: Store) -> None:
    about = About("https://h/x?sig=***", '"v1"', "scope", {"revision": "main"})
    fill = store.try_fill(key_of("x"))
    assert fill is not None
    (fill.folder / "part").write_bytes(b"x")
    entry = fill.publish(fill.folder / "part", about, name="lora.safetensors")
    assert entry.path.suffix == ".safetensors"
    assert (entry.record.name, entry.record.about) == ("lora.safetensors", about)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\0b", "x" * 182])
def test_a_name_that_leads_elsewhere_is_refused(store: Store, name: str) -> None:
    fill = store.try_fill(key_of("x"))
    assert fill is not None
    (fill.folder / "part").write_bytes(b"x")
    with pytest.raises(CacheError, match="cannot give an entry the name"):
        fill.publish(fill.folder / "part", About("x"), name=name)


def test_a_folder_is_an_entry_too(store: Store) -> None:
    with store.try_fill(key_of("tar")) as fill:  # type: ignore[union-attr]
        source = fill.folder / "out"
        (source / "deep").mkdir(parents=True)
        (source / "deep" / "a").write_bytes(b"12345")
        (source / "link").symlink_to("deep/a")
        entry = fill.publish(source, About("https://h/a.tar"))
    assert (entry.record.folder, entry.size, entry.path.is_dir()) == (True, 5 + len("deep/a"), True)
    settled = store.settle(entry.key)
    assert settled is not None
    assert settled.record.digest
    assert store.verify(entry.key) is Verdict.SOUND
    flip(entry.path / "deep" / "a")
    assert store.verify(entry.key) is Verdict.DAMAGED
    store.close()
    assert store.remove(entry.key) == entry.size
    store.sweep()
    store.close()
    assert left_over(store.root) == []


def test_content_that_has_vanished_or_shrunk_is_no_hit(store: Store) -> None:
    put(store, "gone").path.unlink()
    assert store.lookup(key_of("gone")) is None
    os.truncate(put(store, "short").path, 10)
    assert found(store, "short").state is State.DAMAGED
    store.sweep()
    assert names_of(store) == {"short"}


def test_equal_content_is_stored_once_when_its_digest_is_known(store: Store) -> None:
    data = content_of("same")
    first = put(store, "a", data, digest=sha256(data))
    second = put(store, "b", data, digest=sha256(data))
    assert os.path.samefile(first.path, second.path)
    assert first.path != second.path
    assert (disk_size(store.root), store.totals().stored) == (1000, 1000)
    assert put(store, "c", b"x" * 1000).path.stat().st_nlink == 1


def test_equal_content_is_stored_once_when_its_digest_becomes_known(store: Store) -> None:
    data = content_of("same")
    first, second = put(store, "a", data), put(store, "b", data)
    assert store.totals().pending == 2
    with second.path.open("rb") as opened:
        for entry in (first, second):
            settled = store.settle(entry.key)
            assert settled is not None
            assert (settled.record.digest, settled.record.flushed) == (sha256(data), True)
        assert opened.read() == data
    assert os.path.samefile(first.path, second.path)
    assert store.totals().pending == 0


def test_computing_a_digest_can_be_stopped(store: Store) -> None:
    entry = put(store, "a", size=3 << 20)
    asked = []
    assert store.settle(entry.key, stop=lambda: len(asked) > 0 or asked.append(1)) is None  # type: ignore[func-returns-value]
    assert found(store, "a").record.digest == ""
    assert store.settle(key_of("never")) is None


def test_a_digest_is_not_noted_for_what_has_come_in_its_place(store: Store) -> None:
    entry = put(store, "a", size=3 << 20)

    def replaced() -> bool:
        if found(store, "a").record.generation == entry.record.generation:
            put(store, "a", b"new")
        return False

    store.settle(entry.key, stop=replaced)
    assert found(store, "a").record.digest in ("", sha256(b"new"))
    assert found(store, "a").path.read_bytes() == b"new"


def test_a_flipped_bit_is_found_and_repaired_by_filling_again(store: Store) -> None:
    data = content_of("a")
    entry = put(store, "a", digest=sha256(data))
    twin = put(store, "twin", data, digest=sha256(data))
    assert store.verify(entry.key) is Verdict.SOUND
    flip(entry.path)
    assert found(store, "a").state is State.SOUND
    assert store.verify(entry.key) is Verdict.DAMAGED
    assert found(store, "a").state is State.DAMAGED
    repaired = put(store, "a", digest=sha256(data))
    assert repaired.path.read_bytes() == data
    assert store.verify(entry.key) is Verdict.SOUND
    # Both were one file, and the other name of it has to be looked at on its own.
    assert store.verify(twin.key) is Verdict.DAMAGED


def overwrite(path: Path) -> None:
    flip(path)


def replace_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    flip(other)
    os.replace(other, path)


def append_and_truncate(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"new")
        file.truncate(size)


@pytest.mark.parametrize("change", [overwrite, replace_file, append_and_truncate])
def test_what_was_changed_before_its_digest_was_computed_is_never_blessed(
    store: Store, change: Callable[[Path], None]
) -> None:
    # At once: the clock of the file system may not have ticked since.
    for number in range(30):
        entry = put(store, number)
        change(entry.path)
        assert store.settle(entry.key) is not None
        assert found(store, number).record.digest == ""
        assert store.verify(entry.key) is Verdict.UNKNOWN


def test_a_change_while_the_digest_is_computed_is_seen(store: Store) -> None:
    entry = put(store, "a", size=3 << 20)
    changes = iter([entry.path])

    def stop() -> bool:  # asked for each block
        for path in changes:
            flip(path)
        return False

    store.settle(entry.key, stop=stop)
    assert found(store, "a").record.digest == ""


def test_a_folder_with_a_changed_file_is_never_blessed(store: Store) -> None:
    fill = store.try_fill(key_of("folder"))
    assert fill is not None
    with fill:
        source = fill.folder / "members"
        (source / "below").mkdir(parents=True)
        for name in ("a", "below/b"):
            (source / name).write_bytes(content_of(name))
        entry = fill.publish(source, About("https://host/folder"), name="folder")
    flip(entry.path / "below" / "b")
    store.settle(entry.key)
    assert found(store, "folder").record.digest == ""


def test_an_older_record_that_does_not_tell_what_arrived_is_not_blessed(store: Store) -> None:
    entry = put(store, "a")
    path = store.root / "entries" / entry.key[:2] / entry.key
    path.write_bytes(record_lines(replace(entry.record, arrived="")))
    store.settle(entry.key)
    assert store.verify(entry.key) is Verdict.UNKNOWN


def test_what_cannot_be_verified_says_so(store: Store) -> None:
    assert store.verify(key_of("a")) is Verdict.MISSING
    put(store, "a")
    assert store.verify(key_of("a")) is Verdict.UNKNOWN
    put(store, "b", digest=sha256(content_of("b")))
    assert store.verify(key_of("b"), stop=lambda: True) is Verdict.STOPPED


def test_what_was_not_flushed_before_the_machine_went_down_is_to_be_verified(store: Store) -> None:
    for name in ("sound", "bad", "pending", "flushed"):
        digest = "" if name == "pending" else sha256(content_of(name))
        put(store, name, digest=digest)
    store.settle(key_of("flushed"))
    for name in ("sound", "bad", "pending", "flushed"):
        another_boot(store, name)
    flip(found(store, "bad").path)
    assert found(store, "flushed").state is State.SOUND
    assert found(store, "sound").state is State.UNFLUSHED
    assert store.verify(key_of("sound")) is Verdict.SOUND
    assert found(store, "sound").state is State.SOUND
    assert store.verify(key_of("bad")) is Verdict.DAMAGED
    assert store.verify(key_of("pending")) is Verdict.UNKNOWN
    # Computing it now would vouch for whatever the disk has kept.
    store.settle(key_of("pending"))
    assert found(store, "pending").state is State.UNFLUSHED


def test_a_record_that_the_machine_lost_is_a_miss_and_can_be_filled(store: Store) -> None:
    entry = put(store, "a")
    record = store.root / "entries" / entry.key[:2] / entry.key
    for left in (b"", b"\0" * record.stat().st_size, record.read_bytes()[:50]):
        record.write_bytes(left)
        assert store.lookup(entry.key) is None
        assert put(store, "a").path.read_bytes() == content_of("a")
    record.write_bytes(b"")
    store.close()
    store.sweep()
    store.close()
    assert left_over(store.root) == []
    assert not record.exists()


def test_who_has_the_old_content_keeps_it_when_it_is_replaced(tmp_path: Path) -> None:
    ahead = 0

    def now() -> int:
        return time.time_ns() + ahead * 10**9

    with Store(tmp_path, now=now) as store:
        entry = put(store, "a")
        with entry.path.open("rb") as opened, store.lease(entry.key):
            ahead = 120  # what was handed out just now would stay in any case
            new = put(store, "a", b"new")
            assert new.path != entry.path
            assert (new.path.read_bytes(), entry.path.read_bytes()) == (b"new", content_of("a"))
            ahead = 240
            store.sweep()
            assert opened.read() == content_of("a")
            assert entry.path.exists()
        store.sweep()
        assert not entry.path.exists()
        assert new.path.exists()


def test_old_content_stays_for_a_minute_for_those_who_load_it_right_now(tmp_path: Path) -> None:
    ahead = 0
    with Store(tmp_path, now=lambda: time.time_ns() + ahead * 10**9) as store:
        entry = put(store, "a")
        store.lookup(entry.key)
        put(store, "a", b"new")
        store.sweep()
        assert entry.path.exists()
        ahead = 61
        # That the key is in use all the time holds the content that it has now.
        store.lookup(entry.key)
        store.sweep()
        assert not entry.path.exists()


def test_entries_are_listed_the_one_used_last_first(store: Store) -> None:
    for name in "abc":
        put(store, name, digest=sha256(content_of(name)) if name == "b" else "")
    store.lookup(key_of("a"))
    store.pin(key_of("b"))
    with store.lease(key_of("c")):
        listed = store.entries()
        totals = store.totals()
    assert [entry.record.about.reference[-1] for entry in listed] == ["c", "a", "b"]
    assert [entry.pinned for entry in listed] == [False, False, True]
    assert [entry.digest_pending for entry in listed] == [True, True, False]
    assert [entry.in_use for entry in listed] == [True, True, True]
    assert len(listed[0].leased_by) == 1
    assert f"process {os.getpid()} on " in listed[0].leased_by[0]
    assert (totals.entries, totals.stored, totals.pinned, totals.leased) == (3, 3000, 1000, 1000)
    assert totals.pending == 2


def test_an_entry_can_be_removed_unless_it_is_held(store: Store) -> None:
    entry = put(store, "a")
    assert store.remove(key_of("b")) is None
    store.pin(entry.key)
    with pytest.raises(CacheError, match="held by a pin"):
        store.remove(entry.key)
    assert store.unpin(entry.key)
    assert not store.unpin(entry.key)
    with store.lease(entry.key), pytest.raises(CacheError, match=f"held by process {os.getpid()}"):
        store.remove(entry.key)
    assert entry.path.exists()
    assert store.remove(entry.key) == 1000
    assert not entry.path.exists()
    assert store.lookup(entry.key) is None


def test_a_lower_tier_is_looked_at_first_and_never_written(tmp_path: Path) -> None:
    baked = Store(tmp_path / "baked")
    lower = put(baked, "a", b"baked")
    baked.close()
    before = sorted(tmp_path.joinpath("baked").rglob("*"))
    store = Store(tmp_path / "cache", lower=[tmp_path / "baked", tmp_path / "not there"])
    put(store, "b")
    entry = store.lookup(key_of("a"))
    assert entry is not None
    assert (entry.path, entry.lower) == (lower.path, True)
    with store.lease(key_of("a")) as lease:
        assert lease.entry == entry
    assert names_of(store) == {"b"}
    assert store.lookup(key_of("b")) is not None
    assert store.make_room(0) == 0
    assert sorted(tmp_path.joinpath("baked").rglob("*")) == before


def test_a_record_is_not_taken_for_that_of_another_key(store: Store) -> None:
    entry = put(store, "a")
    record = store.root / "entries" / entry.key[:2] / entry.key
    other = store.root / "entries" / key_of("b")[:2]
    other.mkdir(exist_ok=True)
    (other / key_of("b")).write_bytes(record.read_bytes())
    assert store.lookup(key_of("b")) is None


def test_flushed_is_said_behind_a_line_that_was_cut_off(store: Store) -> None:
    entry = put(store, "a")
    record = store.root / "entries" / entry.key[:2] / entry.key
    with record.open("ab") as file:
        file.write(b"\ndigest sha256:")
    settled = store.settle(entry.key)
    assert settled is not None
    assert settled.record.digest == sha256(content_of("a"))
    assert parse_record(record.read_bytes()) == settled.record


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    code = """
os.umask(0o027)
store = Store(sys.argv[1])
put(store, "a")
store.lookup(key_of("a"))
for path in sorted(Path(sys.argv[1]).rglob("*")):
    say(oct(path.stat().st_mode))
"""
    with child(code, tmp_path / "cache") as other:
        modes = {int(line, 8) for line in iter(lambda: said(other), "")}
    assert {mode & 0o777 for mode in modes if stat.S_ISDIR(mode)} == {0o750}
    assert {mode & 0o777 for mode in modes if stat.S_ISREG(mode)} == {0o640}


def test_importing_the_cache_imports_nothing_heavy() -> None:
    code = "import sys, pgetpy.cache.store; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "aiohttp", "ssl", "subprocess", "logging", "tempfile", "random", "shutil"}
    assert heavy.isdisjoint(told.stdout.split())


def system_calls(work: Callable[[], object]) -> list[str]:
    """The functions of the operating system that `work` calls, in order."""
    called: list[str] = []

    def noting(_: object, event: str, function: object) -> None:
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            called.append(getattr(function, "__name__", ""))

    sys.setprofile(noting)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


def test_a_hit_makes_the_same_system_calls_however_many_entries_there_are(store: Store) -> None:
    put(store, "a")
    store.lookup(key_of("a"))
    alone = system_calls(lambda: store.lookup(key_of("a")))
    for number in range(100):
        put(store, number)
    assert system_calls(lambda: store.lookup(key_of("a"))) == alone
    assert alone
    assert not {"listdir", "scandir"} & set(alone)
