"""A cache that may only be read, vanishes, belongs to another release, or whose clock is set."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About
from pgetpy.errors import CacheError, PgetError
from tests.support.entries import (
    child,
    content_of,
    key_of,
    left_over,
    names_of,
    put,
    said,
    sha256,
    tell,
)
from tests.support.processes import NOBODY, folder_of_nobody, run

pytestmark = pytest.mark.usefixtures("forked_runs")


def test_a_cache_that_cannot_be_written_is_used_for_hits() -> None:
    code = """
import sys
from pathlib import Path
from pgetpy.cache.store import Store
from pgetpy.errors import CacheError
root, key, other = sys.argv[1:]
store = Store(root)
print(store.writable, store.lookup(key).path.read_bytes().hex()[:8])
with store.lease(key) as lease:
    print(lease.entry.key == key, store.lookup(other))
for work in (lambda: store.try_fill(key), lambda: store.make_room(1), lambda: store.pin(key),
             lambda: store.remove(key), store.sweep, lambda: store.settle(key)):
    try:
        work()
    except CacheError as error:
        print(error.errno, error)
store.close()
try:
    Store(root + "/none/deeper")
except CacheError as error:
    print(error)
"""
    with folder_of_nobody() as folder:
        root = folder / "cache"
        with Store(root) as store:
            put(store, "a")
        for path in [root, *root.rglob("*")]:
            os.chown(path, 0, 0) if os.geteuid() == 0 else path.chmod(0o500)
        before = sorted(root.rglob("*"))
        ended = run(
            "-c", code, root, key_of("a"), key_of("b"), unprivileged=True, program=(sys.executable,)
        )
        for path in [root, *root.rglob("*")]:
            path.chmod(0o700)
        assert ended.code == 0, ended.err
        lines = ended.out.splitlines()
        assert lines[0] == f"False {content_of('a').hex()[:8]}"
        assert lines[1] == "True None"
        refused = f"30 the cache at {root} cannot be written; choose another folder for it, or make"
        assert [line[: len(refused)] for line in lines[2:8]] == [refused] * 6
        assert lines[8].startswith(f"the cache at {root}/none/deeper cannot be made: permission")
        assert sorted(root.rglob("*")) == before


def test_another_layout_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "layout").write_text("pgetpy cache 9\n")
    for options in ({"root": tmp_path}, {"root": tmp_path / "own", "lower": [tmp_path]}):
        with pytest.raises(
            CacheError, match=r"layout that .* not know \('pgetpy cache 9'\).*choose another"
        ):
            Store(**options)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir() if path.name != "own"] == ["layout"]


def test_a_file_where_the_cache_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(CacheError, match=f"the cache at {path} cannot be"):
            Store(path)


def test_what_else_stands_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.tar").write_bytes(b"x")
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "mine").write_bytes(b"y")
    with Store(tmp_path, max_bytes=0) as store:
        store.sweep()
        store.make_room(0)
    assert (tmp_path / "weights.tar").read_bytes() == b"x"
    assert (tmp_path / "entries" / "mine").read_bytes() == b"y"


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_a_cache_that_is_deleted_under_a_running_process_is_made_anew(
    tmp_path: Path, locks: bool
) -> None:
    root = tmp_path / "cache"
    with Store(root, locks=locks) as store:
        put(store, "a")
        lease = store.lease(key_of("b"))
        shutil.rmtree(root)
        assert store.lookup(key_of("a")) is None
        put(store, "b")
        assert names_of(store) == {"b"}
        other = Store(root, max_bytes=0, locks=locks)
        store.beat()
        with pytest.raises(PgetError):
            other.make_room(0)
        lease.release()
        shutil.rmtree(root)
        assert store.make_room(0) == 0
        assert store.totals().entries == 0
        for work in (store.sweep, lambda: store.remove(key_of("a"))):
            shutil.rmtree(root)
            assert not work()
        shutil.rmtree(root)
        assert store.entries() == []
        store.pin(key_of("a"))
        store.sweep()
        other.close()
    assert left_over(root) == []


def test_a_fill_whose_folder_is_deleted_fails_and_the_next_one_does_not(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with Store(root) as store:
        fill = store.try_fill(key_of("a"))
        assert fill is not None
        (fill.folder / "part").write_bytes(b"x")
        shutil.rmtree(root)
        with pytest.raises(CacheError, match="cannot be used"):
            fill.publish(fill.folder / "part", About("https://host/a"))
        fill.release()
        assert put(store, "a").path.exists()


class SetBack:
    """A clock that can be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> int:
        return time.time_ns() + int(self.offset * 1e9)


def test_after_the_clock_was_set_back_what_was_used_since_is_still_the_newest(
    tmp_path: Path,
) -> None:
    clock = SetBack()
    with Store(tmp_path, now=clock) as store, Store(tmp_path, now=clock) as other:
        for name in "abcd":
            put(store, name)
        clock.offset = -30 * 24 * 3600
        store.lookup(key_of("b"))
        other.lookup(key_of("a"))
        store.lookup(key_of("d"))
        put(other, "e")
        assert [entry.record.about.reference[-1] for entry in store.entries()] == list("edabc")
    with Store(tmp_path, now=clock, max_bytes=3000) as store:
        store.make_room(0)
        assert names_of(store) == set("ead")
        put(store, "f")
        assert names_of(store) == set("edf")


def test_after_the_clock_was_ahead_for_a_while_the_order_is_that_of_use(tmp_path: Path) -> None:
    clock = SetBack()
    with Store(tmp_path, now=clock, max_bytes=3000) as store:
        put(store, "a")
        clock.offset = 10 * 365 * 24 * 3600
        put(store, "b")
        clock.offset = 0
        put(store, "c")
        store.lookup(key_of("a"))
        put(store, "d")
        assert names_of(store) == set("acd")


def test_a_hit_is_counted_as_use_where_the_clock_file_is_gone(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=2000) as store:
        put(store, "a")
        put(store, "b")
        (tmp_path / "clock").unlink()
        store.lookup(key_of("a"))
        put(store, "c")
        assert names_of(store) == set("ac")


def test_a_file_system_without_symlinks_or_hard_links_stores_equal_content_twice(
    tmp_path: Path,
) -> None:
    code = """
import errno
def refused(*_, **__):
    raise PermissionError(errno.EPERM, "not permitted")
os.link = os.symlink = refused
store = Store(sys.argv[1], max_bytes=3000, locks=sys.argv[2] == "True")
for name in "ab":
    put(store, name, b"x" * 1000, digest=sha256(b"x" * 1000))
with store.lease(key_of("a")):
    put(store, "c", size=2000)
say(*sorted(names_of(store)))
input()
"""
    for locks in (True, False):
        root = tmp_path / str(locks)
        with child(code, root, locks) as other:
            assert said(other) == "a c"
            tell(other)
            assert other.wait(30) == 0
        with Store(root) as store:
            assert store.verify(key_of("a")).value == "sound"
            store.sweep()
        assert left_over(root) == []


@pytest.mark.parametrize("mode", [0o1777, 0o2775])
def test_a_second_user_of_a_shared_folder_is_told_whose_it_is(mode: int) -> None:
    code = """
import sys
from pgetpy.cache.store import Store
from pgetpy.errors import CacheError
store = Store(sys.argv[1])
print(store.writable)
try:
    store.try_fill(sys.argv[2])
except CacheError as error:
    print(error)
"""
    if os.geteuid() != 0:
        pytest.skip("there is no second user")
    with folder_of_nobody() as folder:
        root = folder / "cache"
        root.mkdir()
        os.chown(root, 0, NOBODY)
        root.chmod(mode)
        before = os.umask(0o022)
        try:
            with Store(root) as store:
                put(store, "a")
        finally:
            os.umask(before)
        arguments = ("-c", code, root, key_of("b"))
        ended = run(*arguments, unprivileged=True, program=(sys.executable,))
        assert ended.code == 0, ended.err
        writable, said = ended.out.splitlines()
        assert writable == "False"
        assert said.startswith(f"the cache at {root} cannot be written by this user: {root}/")
        assert "belongs to user root; choose another folder" in said
        assert "umask 002" in said


def test_what_another_user_has_made_for_himself_is_told_as_such() -> None:
    """The folder is shared rightly, and some of what is in it was made with another umask."""
    code = """
import sys
from pgetpy.cache.store import Store
from pgetpy.errors import CacheError
store = Store(sys.argv[1])
print(store.writable)
for work in (store.remove, store.verify):
    try:
        print(work(sys.argv[2]))
    except CacheError as error:
        print(error)
"""
    if os.geteuid() != 0:
        pytest.skip("there is no second user")
    with folder_of_nobody() as folder:
        root = folder / "cache"
        with Store(root) as store:
            entry = put(store, "a", digest=sha256(content_of("a")))
            entry.path.write_bytes(bytes(1000))
        for each in [root, *root.rglob("*")]:
            if not each.is_symlink():
                each.chmod(0o777 if each.is_dir() else 0o666)
        entry.path.parent.chmod(0o755)
        record = entry.path.parent / entry.key
        record.chmod(0o644)
        arguments = ("-c", code, root, entry.key)
        ended = run(*arguments, unprivileged=True, program=(sys.executable,))
        assert ended.code == 0, ended.err
        writable, removed, verified = ended.out.splitlines()
        assert writable == "True"
        assert f"{record} belongs to user root; put the users who share it" in removed
        assert f"holds damaged content at {entry.path}, and cannot record that" in verified
        assert "belongs to user root" in verified


def test_a_link_in_place_of_what_was_left_is_not_followed(tmp_path: Path) -> None:
    """A fetch deletes leftovers of another version; what is at the end of a link is not ours."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/diary").touch()
    with Store(tmp_path / "cache") as store:
        link = tmp_path / "cache/partial" / key_of("a")
        link.symlink_to(tmp_path / "mine")
        fill = store.try_fill(key_of("a"))
        assert fill is not None
        assert list(fill.folder.iterdir()) == []
        fill.release(keep=False)
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine/diary"]


def test_folders_that_a_file_server_adds_to_each_folder_are_passed_over(tmp_path: Path) -> None:
    with Store(tmp_path, max_bytes=2500) as store:
        for folder in list(tmp_path.iterdir()):
            if folder.is_dir():
                (folder / "@eaDir").mkdir()
        for name in range(4):
            put(store, name)
        assert names_of(store) == {"2", "3"}
        store.sweep()
        assert store.totals().entries == 2
