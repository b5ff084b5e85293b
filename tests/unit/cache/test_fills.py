"""One fetches, the others wait, see how far it has come, and take over when it is dead."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About
from tests.support.entries import NAME, child, content_of, key_of, put, said, tell

pytestmark = pytest.mark.usefixtures("forked_runs")

LOCKS = pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
_FILLER = """
store = Store(sys.argv[1], locks=sys.argv[2] == "True")
fill = store.try_fill(key_of("a"))
(fill.folder / "part").write_bytes(b"half")
fill.progress(4, 8)
say("begun")
input()
"""


@LOCKS
def test_while_one_fills_a_key_others_get_to_know_how_far_it_is(
    tmp_path: Path, locks: bool
) -> None:
    with Store(tmp_path, locks=locks) as store:
        assert store.progress(key_of("a")) is None
        with child(_FILLER, tmp_path, locks) as other:
            assert said(other) == "begun"
            assert store.try_fill(key_of("a")) is None
            progress = store.progress(key_of("a"))
            assert progress is not None
            assert (progress.done, progress.total) == (4, 8)
            put(store, "b")


@LOCKS
def test_a_dead_filler_is_followed_by_the_next_at_once(tmp_path: Path, locks: bool) -> None:
    with Store(tmp_path, locks=locks) as store, child(_FILLER, tmp_path, locks) as other:
        said(other)
        other.kill()
        other.wait()
        fill = store.try_fill(key_of("a"))
        assert fill is not None
        # Only where locks exclude it is certain that nobody else writes there.
        left = [path.read_bytes() for path in fill.folder.iterdir()]
        assert left == ([b"half"] if locks else [])
        assert store.try_fill(key_of("a")) is None
        fill.release()


@LOCKS
def test_what_one_left_is_there_for_the_next(tmp_path: Path, locks: bool) -> None:
    with Store(tmp_path, locks=locks) as store:
        first = store.try_fill(key_of("a"))
        assert first is not None
        with first:
            (first.folder / "part").write_bytes(b"half")
        second = store.try_fill(key_of("a"))
        assert second is not None
        assert (second.folder / "part").exists() is locks
        second.release(keep=False)
        third = store.try_fill(key_of("a"))
        assert third is not None
        assert list(third.folder.iterdir()) == []
        third.release()
        third.release()


@LOCKS
def test_threads_of_one_process_wait_for_one_another_too(tmp_path: Path, locks: bool) -> None:
    filled: list[str] = []

    def ensure(store: Store, number: int, start: threading.Barrier) -> None:
        start.wait()
        while store.lookup(key_of("a")) is None:
            fill = store.try_fill(key_of("a"))
            if fill is None:
                start_over.wait(0.005)
                continue
            with fill:
                if fill.entry is None:
                    filled.append(str(number))
                    (fill.folder / NAME).write_bytes(content_of("a"))
                    fill.publish(fill.folder / NAME, About("a"))

    start_over = threading.Event()
    start = threading.Barrier(16)
    with Store(tmp_path, locks=locks) as store, Store(tmp_path, locks=locks) as other:
        threads = [
            threading.Thread(target=ensure, args=((store, other)[n % 2], n, start))
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(filled) == 1
        assert os.listdir(tmp_path / "fills") == []
        assert os.listdir(tmp_path / "partial") == []


@LOCKS
def test_processes_that_ask_for_one_key_fetch_it_once(tmp_path: Path, locks: bool) -> None:
    code = """
store = Store(sys.argv[1], locks=sys.argv[2] == "True")
say("ready")
input()
while store.lookup(key_of("a")) is None:
    fill = store.try_fill(key_of("a"))
    if fill is None:
        time.sleep(0.002)
        continue
    with fill:
        if fill.entry is None:
            say("fetched")
            (fill.folder / NAME).write_bytes(content_of("a", 100_000))
            fill.publish(fill.folder / NAME, About("a"))
say("done")
"""
    Store(tmp_path).close()
    running = [child(code, tmp_path, locks) for _ in range(4)]
    processes = [each.__enter__() for each in running]
    try:
        for process in processes:
            assert said(process) == "ready"
        for process in processes:
            tell(process)
        lines = []
        for process in processes:
            while (line := said(process)) != "done":
                lines.append(line)
        assert lines == ["fetched"]
    finally:
        for each in running:
            each.__exit__(None, None, None)


@LOCKS
def test_two_who_do_not_see_each_other_publish_one_of_both_whole(
    tmp_path: Path, locks: bool
) -> None:
    """Locks may exclude on each of two machines and not between them."""
    with Store(tmp_path, locks=False) as one, Store(tmp_path, locks=locks) as other:
        first = one.try_fill(key_of("a"))
        assert first is not None
        os.unlink(tmp_path / "fills" / key_of("a"))
        second = other.try_fill(key_of("a"))
        assert second is not None
        assert second.folder != first.folder
        for fill, data in ((first, b"first"), (second, b"second")):
            (fill.folder / NAME).write_bytes(data)
        early = first.publish(first.folder / NAME, About("a"))
        with early.path.open("rb") as opened:
            late = second.publish(second.folder / NAME, About("a"))
            assert (opened.read(), late.path.read_bytes()) == (b"first", b"second")
            found = one.peek(key_of("a"))
            assert found is not None
            assert found.path == late.path


@LOCKS
def test_a_fill_that_nobody_has_any_more_keeps_nobody_out(tmp_path: Path, locks: bool) -> None:
    with Store(tmp_path, locks=locks) as store:
        fill = store.try_fill(key_of("a"))
        assert store.try_fill(key_of("a")) is None
        del fill
        assert store.try_fill(key_of("a")) is not None


def test_what_dead_fillers_left_is_swept_in_time(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for name in "ab":
            with store.try_fill(key_of(name)) as fill:  # type: ignore[union-attr]
                (fill.folder / "part").write_bytes(b"x")
        os.utime(tmp_path / "partial" / key_of("a") / "part", (1, 1))
        os.utime(tmp_path / "partial" / key_of("a"), (1, 1))
        busy = store.try_fill(key_of("c"))
        store.sweep()
        assert sorted(os.listdir(tmp_path / "partial")) == sorted([key_of("b"), key_of("c")])
        store.sweep(partial_seconds=-1)
        assert os.listdir(tmp_path / "partial") == [key_of("c")]
        assert busy is not None
        busy.release()
