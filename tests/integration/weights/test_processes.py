"""Forks, two caches on one folder, folders that may not be written, vanish or belong to others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.errors import CacheError, PgetError
from tests.support.delivery import Gate
from tests.support.entries import child, left_over, said, tell
from tests.support.faults import GateAfter, When, midway
from tests.support.processes import environment, folder_of_nobody, run
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    names_in_cache,
    opened,
    serve,
    serve_many,
    tar_of,
    weights,
)

_FORK = """
import signal
from tests.support.weights import *
root, local, *urls = sys.argv[1:]
cache = opened(root)

def forked(work):
    child = os.fork()
    if child == 0:
        signal.alarm(50)
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def everything():
    assert cache.ensure(urls[0]).exists()  # a hit
    assert cache.ensure(local).exists()
    assert cache.ensure(urls[1]).exists()
    with cache.lease(urls[2]) as path:
        assert path.exists()
    assert cache.settle(30)
    cache.close()

cache.ensure(urls[0])
cache.ensure(local)
# Threads have just been at work for it, and some are still.
forked(everything)
with cache.lease(urls[3]) as held:
    forked(cache.close)
    say(len(cache.entries()), *[row.leased_by[0].split()[1] == str(os.getpid())
        for row in cache.entries() if row.leased_by])
everything()
say("done")
"""


def test_a_fork_goes_on_with_a_cache_of_its_parent(
    server: Server, root: Path, tmp_path: Path
) -> None:
    urls = serve_many(server, "abcd")
    (tmp_path / "x.tar").write_bytes(tar_of({"x.safetensors": weights(3 * MIB)}))
    with child(_FORK, root, (tmp_path / "x.tar").as_uri(), *urls.values()) as other:
        assert said(other) == "5 True"
        assert said(other) == "done"
        assert other.wait(30) == 0
    assert len(server.requests) == 4
    assert_nothing_left(root)


_FORK_MIDWAY = """
import signal, threading
from tests.support.weights import *
root, url, other = sys.argv[1:]
cache = opened(root, concurrency=1)
fetching = threading.Thread(target=cache.ensure, args=[url])
fetching.start()
input()  # the first part is there
child = os.fork()
if child == 0:
    signal.alarm(50)
    assert cache.ensure(other).exists()
    say("child", cache.ensure(url))
    os._exit(0)
say("forked")
fetching.join()
assert os.waitpid(child, 0)[1] == 0
say("parent", cache.ensure(url))
"""


def test_a_fork_in_the_middle_of_a_download_waits_for_its_parent(
    server: Server, root: Path
) -> None:
    gate = Gate()
    data = weights(4 * MIB)
    url = serve(server, data, faults=[GateAfter(2 * MIB, gate, when=When(request=1))])
    small = serve(server, path="/small.safetensors")
    with child(_FORK_MIDWAY, root, url, small) as other:
        gate.wait_reached()
        tell(other)
        assert said(other) == "forked"
        server.wait_until(lambda: server.seen("/small.safetensors"))
        gate.open()
        lines = dict([said(other).split(), said(other).split()])
        assert other.wait(30) == 0
    assert lines["child"] == lines["parent"]
    assert Path(lines["parent"]).read_bytes() == data
    assert server.sent("/lora.safetensors") < len(data) + MIB
    assert_nothing_left(root)


def test_two_caches_on_one_folder_are_one(server: Server, root: Path) -> None:
    urls = serve_many(server, "abc")
    with opened(root) as first, opened(root) as second:
        paths = [first.ensure(urls["a"]), second.ensure(urls["b"])]
        assert [second.ensure(urls["a"]), first.ensure(urls["b"])] == paths
        assert names_in_cache(first) == names_in_cache(second) == {"a", "b"}
        with first.lease(urls["a"]), pytest.raises(CacheError, match="held by"):
            second.remove(urls["a"])
        first.close()
        assert second.ensure(urls["c"]).exists()
        assert first.ensure(urls["c"]).exists()
    assert len(server.requests) == 3
    assert_nothing_left(root)


def test_a_symlink_to_the_folder_is_the_same_cache(
    server: Server, root: Path, tmp_path: Path
) -> None:
    url = serve(server)
    with opened(root) as first:
        first.ensure(url)
    (tmp_path / "link").symlink_to(root)
    with opened(tmp_path / "link") as second:
        assert second.ensure(url).samefile(next(root.glob("entries/*/*.safetensors")))
    assert len(server.requests) == 1


def test_a_relative_folder_does_not_move_with_the_process(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(server)
    monkeypatch.chdir(tmp_path)
    with opened("cache") as cache:
        path = cache.ensure(url)
        monkeypatch.chdir("/")
        assert path.is_absolute()
        assert cache.ensure(url) == path


# ------------------------------------------------------------------- folders that are no good

_READ_ONLY = """
import sys
from pgetpy import WeightsDownloadCache
from pgetpy.errors import CacheError
root, there, missing = sys.argv[1:]
cache = WeightsDownloadCache(root, 0)
print(cache.ensure(there))
with cache.lease(there) as path:
    print(path)
for work in (cache.ensure, cache.pin, cache.remove):
    try:
        work(missing)
    except CacheError as error:
        print(error.errno, error)
print(cache.ensure_many([there])[0], cache.settle(30))
cache.close()
"""


def test_a_folder_that_may_not_be_written_gives_hits_and_says_what_a_miss_needs(
    server: Server,
) -> None:
    url = serve(server)
    with folder_of_nobody() as folder:
        root = folder / "cache"
        with opened(root) as cache:
            path = cache.ensure(url)
            assert cache.settle(30)
        for below in [root, *root.rglob("*")]:
            if os.geteuid() == 0:
                os.chown(below, 0, 0, follow_symlinks=False)
            elif not below.is_symlink():
                below.chmod(0o500)
        before = sorted(root.rglob("*"))
        missing = server.url("/missing.safetensors")
        ended = run(
            "-c", _READ_ONLY, root, url, missing, unprivileged=True, program=(sys.executable,)
        )
        for below in [root, *root.rglob("*")]:
            if not below.is_symlink():
                below.chmod(0o700)
        assert ended.code == 0, ended.err
        lines = ended.out.splitlines()
        assert lines[:2] == [str(path)] * 2
        for line in lines[2:5]:
            assert line.startswith(f"30 the cache at {root} cannot be written; choose another")
        assert lines[5:] == [f"{path} True"]
        assert sorted(root.rglob("*")) == before
    assert len(server.requests) == 1


def delete(folder: Path) -> None:
    """Take a folder away, also while something is put into it."""

    def gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    eventually(gone)


def test_a_cache_that_is_deleted_under_a_running_process_is_made_anew(
    server: Server, cache: WeightsDownloadCache
) -> None:
    urls = serve_many(server, "ab")
    old = cache.ensure(urls["a"])
    delete(cache.path)
    new = cache.ensure(urls["a"])
    assert new != old
    assert new.read_bytes() == weights(10_000, "a")
    with cache.lease(urls["a"]):
        delete(cache.path)
        assert cache.ensure(urls["a"]).exists()
        assert cache.ensure_many(urls.values())[1].exists()
    delete(cache.path)
    assert (cache.entries(), cache.evict(), cache.remove(urls["a"])) == ([], 0, None)
    cache.ensure(urls["b"])
    cache.close()
    assert_nothing_left(cache.path)


@pytest.mark.parametrize("wanted", ["file", "folder"])
def test_a_cache_that_is_deleted_during_a_download_is_an_error_or_none_but_no_hang(
    server: Server, cache: WeightsDownloadCache, wanted: str
) -> None:
    gate = Gate()
    members = {"a.safetensors": weights(3 * MIB)}
    data = tar_of(members)
    url = serve(server, data, "/a.tar", faults=midway(MIB, gate))
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            cache.ensure(url, wanted=wanted)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    gate.wait_reached()
    delete(cache.path)
    gate.open()
    thread.join(30)
    assert not thread.is_alive()
    assert all(isinstance(error, PgetError) for error in errors), errors
    assert cache.ensure(url, wanted=wanted).exists()


def test_another_layout_is_refused_and_left_alone(server: Server, root: Path) -> None:
    root.mkdir()
    (root / "layout").write_text("pgetpy cache 9\n")
    for options in ({"cache_dir": root}, {"cache_dir": root / "own", "lower": [root]}):
        with pytest.raises(CacheError, match=r"does not know \('pgetpy cache 9'\).*choose"):
            WeightsDownloadCache(**options)  # type: ignore[arg-type]
    assert (root / "layout").read_text() == "pgetpy cache 9\n"
    assert server.requests == []


def test_a_file_where_the_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="cannot be"):
        WeightsDownloadCache(tmp_path / "file")


def test_what_else_stands_in_the_folder_is_left_alone(server: Server, root: Path) -> None:
    root.mkdir()
    (root / "mine.safetensors").write_bytes(b"mine")
    with opened(root, max_bytes=20_000) as cache:
        for url in serve_many(server, "abc").values():
            cache.ensure(url)
        cache.sweep()
    assert (root / "mine.safetensors").read_bytes() == b"mine"


def test_a_process_that_ends_leaves_nothing_but_entries(server: Server, root: Path) -> None:
    url = serve(server)
    code = f"from tests.support.weights import *\nopened({str(root)!r}).ensure({url!r})"
    with child(code) as other:
        assert other.wait(30) == 0
    assert left_over(root) == []


def test_a_process_ends_at_once_while_a_thread_of_it_waits_for_another(
    server: Server, root: Path
) -> None:
    gate = Gate()
    url = serve(server, weights(3 * MIB), faults=[GateAfter(None, gate)])
    code = f"""
import threading, sys
from tests.support.weights import opened
cache = opened({str(root)!r})
threading.Thread(target=cache.ensure, args=[{url!r}], daemon=True).start()
sys.stdin.readline()
"""
    home = str(Path(__file__).parents[3])
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # threads that die with it may have a last word
        env=environment({"PYTHONPATH": home + os.pathsep + environment()["PYTHONPATH"]}),
    )
    gate.wait_reached()
    running.communicate(b"\n", timeout=15)
    assert running.returncode == 0
    gate.open()
    with opened(root) as cache:
        assert cache.ensure(url).read_bytes() == weights(3 * MIB)
    assert_nothing_left(root)
