"""The Python interface: from any thread, loop or fork; cancelled, interrupted, and called back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import dataclasses
import hashlib
import inspect
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy.core.report.events import (
    Failed,
    Finished,
    Progressed,
    Queued,
    Started,
    StartedOver,
    Verifying,
    Waiting,
)
from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    ConnectionFailedError,
    DestinationError,
    DigestMismatchError,
    DiskFullError,
    HttpStatusError,
    NotAllowedError,
    ObjectChangedError,
    PgetError,
    RangeNotHonouredError,
    StalledError,
    UsageError,
)
from tests.support.bodies import body
from tests.support.children import bytes_asked
from tests.support.delivery import Gate
from tests.support.faults import (
    Dam,
    GateAfter,
    Headers,
    IgnoreRange,
    Replaced,
    ResetAfter,
    SilenceAfter,
    Status,
    When,
    at_least,
)
from tests.support.fetching import Events, fetch, impatient, names_in, unchanged
from tests.support.marks import ONCE
from tests.support.processes import environment
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("transport")

BODY = body(2_500_001)
OTHER = body(2_500_001, "v2")
CHUNK = 250_000


class InjectedError(Exception):
    """What a supervisor injects into a thread."""


# ------------------------------------------------------------------- what there is


@ONCE
def test_the_public_names_are_these_and_no_others() -> None:
    expected = {
        "Checksum",
        "DownloadFailure",
        "DownloadResult",
        "FleetSettings",
        "Job",
        "Limits",
        "PgetError",
        "Policy",
        "S3",
        "Settings",
        "UploadResult",
        "WeightsDownloadCache",
        "download",
        "download_async",
        "download_many",
        "download_many_async",
        "extract",
        "extract_async",
        "snapshot",
        "snapshot_async",
        "upload",
        "upload_async",
    }
    rooms = {"lora", "tensors"}
    assert set(pgetpy.__all__) == expected | rooms
    assert expected | rooms | {"__version__"} <= set(dir(pgetpy))
    assert all(getattr(pgetpy, name).__module__.startswith("pgetpy.") for name in expected)
    assert set(pgetpy.tensors.__all__) == {"load", "load_into", "stream"}
    assert pgetpy.lora.__all__ == ["LoraComposer"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pgetpy.nothing  # type: ignore[attr-defined]


@ONCE
@pytest.mark.parametrize("name", ["download", "extract", "download_many", "snapshot"])
def test_a_plain_call_has_the_signature_and_the_words_of_its_async_twin(name: str) -> None:
    plain, twin = getattr(pgetpy, name), getattr(pgetpy, f"{name}_async")
    assert inspect.signature(plain) == inspect.signature(twin)
    assert not inspect.iscoroutinefunction(plain)
    assert inspect.iscoroutinefunction(twin)
    assert (plain.__name__, plain.__module__) == (name, "pgetpy.api")
    assert plain.__doc__.startswith(twin.__doc__)


@ONCE
def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "asyncio aiohttp aiofiles tqdm ssl socket argparse json logging concurrent typing"
    code = f"""
import sys
before = set(sys.modules)
import pgetpy
new = set(sys.modules) - before
print(sorted(new & set({heavy!r}.split())), len(new))
"""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, count = said.rsplit(" ", 1)
    assert found == "[]"
    assert int(count) <= 3


@ONCE
def test_every_error_is_in_one_tree_and_says_what_it_is() -> None:
    import pgetpy.errors

    kinds = [
        value
        for value in vars(pgetpy.errors).values()
        if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert all(issubclass(kind, PgetError) for kind in kinds)
    assert issubclass(UsageError, ValueError)
    assert issubclass(DestinationError, OSError)
    assert issubclass(DiskFullError, OSError)


@ONCE
@pytest.mark.parametrize(
    "error",
    [
        BadReferenceError("x", "no scheme"),
        ConnectionFailedError("http://h/", "reset", hint="try again"),
        StalledError("http://h/", 15.0),
        HttpStatusError("http://h/", 503, "busy", retry_after=3.0),
        RangeNotHonouredError("http://h/", "a", "b"),
        ObjectChangedError("http://h/", "a", "b"),
        NotAllowedError("http://h/", "--max-size", "too large"),
        DigestMismatchError("http://h/", "md5:a", "md5:b"),
        DestinationError("/x", "already exists", hint="use -f", code=17),
        DiskFullError("/x", 5, 3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_to_another_process(error: PgetError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    if isinstance(error, OSError):
        assert again.errno == error.errno


def test_a_result_cannot_be_changed(server: Server, tmp_path: Path) -> None:
    result = fetch(server.add("/model", Resource(BODY)), tmp_path / "got")
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.size = 0  # type: ignore[misc]
    assert dataclasses.asdict(result)["dest"] == str(tmp_path / "got")
    assert result.seconds > 0
    assert result.bytes_per_second == pytest.approx(len(BODY) / result.seconds)


def test_a_call_without_settings_takes_them_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGET_CHUNK_SIZE", "250K")
    monkeypatch.setenv("PGET_HEADERS", '{"X-From": "environment"}')
    url = server.add("/model", Resource(BODY))
    pgetpy.download(url, tmp_path / "got", headers={"X-Call": "yes"})
    assert all(span is not None and span[1] - span[0] <= 256_000 for span in server.asked("/model"))
    assert {seen.header("X-From") for seen in server.requests} == {"environment"}
    assert {seen.header("X-Call") for seen in server.requests} == {"yes"}


# ------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "scheme"),
        ("model.bin", "scheme"),
        ("ftp://host/x", "ftp"),
        ("file:///no/such/file", "no such file"),
        ("file://host/etc/passwd", "host"),
        ("data:x", "data:"),
        ("http://", "host"),
        ("http://host:99999/", "ort"),
        ("http://[::1/x", "IPv6"),
        ("http://a..b/", "host"),
    ],
)
def test_a_url_that_cannot_be_asked_is_refused_and_nothing_is_changed(
    tmp_path: Path, url: str, words: str
) -> None:
    with unchanged(tmp_path), pytest.raises(BadReferenceError, match=words):
        fetch(url, tmp_path / "sub" / "got")


@pytest.mark.parametrize("file", ["http://h/a?sig=hunter2", ("http://h/a?sig=hunter2",)])
def test_files_that_are_not_pairs_are_refused_in_words(file: Any) -> None:
    with pytest.raises(UsageError, match="pairs of URL and destination") as caught:
        pgetpy.download_many([file])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "checksum", ["", "sha256", "sha256:", "sha256:xyz", "crc32:00000000", "md5:" + "0" * 31]
)
def test_a_malformed_checksum_is_refused_before_anything_is_asked(
    server: Server, tmp_path: Path, checksum: str
) -> None:
    url = server.add("/model", Resource(BODY))
    with unchanged(tmp_path), pytest.raises(UsageError):
        fetch(url, tmp_path / "got", checksum=checksum)
    assert server.requests == []


@pytest.mark.parametrize(
    "headers", [{"": "x"}, {"a b": "x"}, {"X": "a\r\nB: c"}, {"X": "a\0"}, {"Range": "bytes=0-1"}]
)
def test_a_header_that_cannot_be_sent_is_refused(
    server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    url = server.add("/model", Resource(BODY))
    with unchanged(tmp_path), pytest.raises(BadSettingError):
        fetch(url, tmp_path / "got", headers=headers)
    assert server.requests == []


def test_an_existing_file_is_refused_unless_forced(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY))
    (tmp_path / "got").write_bytes(b"old")
    with unchanged(tmp_path), pytest.raises(DestinationError, match="already exists") as caught:
        fetch(url, tmp_path / "got")
    assert isinstance(caught.value, OSError)
    assert server.requests == []
    fetch(url, tmp_path / "got", force=True)
    assert (tmp_path / "got").read_bytes() == BODY


# ------------------------------------------------------------------- where it may be called


def test_it_works_inside_a_running_loop(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY))

    async def main() -> pgetpy.DownloadResult:
        return fetch(url, tmp_path / "got")

    assert asyncio.run(main()).size == len(BODY)
    assert (tmp_path / "got").read_bytes() == BODY


def test_the_async_twin_runs_on_the_callers_loop(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY))
    events = Events()

    async def main() -> tuple[Any, ...]:
        return await asyncio.gather(
            *(
                pgetpy.download_async(
                    url, tmp_path / name, settings=impatient(chunk_size=CHUNK), progress=events
                )
                for name in "abc"
            )
        )

    results = asyncio.run(main())
    assert [result.size for result in results] == [len(BODY)] * 3
    assert all((tmp_path / name).read_bytes() == BODY for name in "abc")
    assert events.threads == {threading.get_ident()}


def test_it_works_from_many_threads_at_once(server: Server, tmp_path: Path) -> None:
    bodies = {f"/{n}": body(1_200_000, str(n)) for n in range(12)}
    for path, data in bodies.items():
        server.add(path, Resource(data))

    def one(path: str) -> None:
        fetch(server.url(path), tmp_path / path[1:], chunk_size=CHUNK)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(one, bodies))
    assert all((tmp_path / path[1:]).read_bytes() == data for path, data in bodies.items())


FORK = """
import hashlib, os, sys, warnings
import pgetpy
from pgetpy.settings import Settings

warnings.simplefilter("ignore")
urls, folder = sys.argv[1:3], sys.argv[3]
settings = Settings(chunk_size=300_000)

def digest(number, name):
    path = os.path.join(folder, name)
    pgetpy.download(urls[number], path, settings=settings)
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()

expected = [digest(0, "before-0"), digest(1, "before-1")]
child = os.fork()
# From here on both move bytes at the same time.
number = 1 if child == 0 else 0
for turn in range(8):
    if digest(number, f"{number}-{turn}") != expected[number]:
        os._exit(3)
if child == 0:
    os._exit(0)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@ONCE
def test_it_works_after_a_fork_and_nothing_is_shared_with_the_parent(
    server: Server, tmp_path: Path
) -> None:
    urls = [
        server.add("/0", Resource(body(4_000_000, "0"))),
        server.add("/1", Resource(body(4_000_000, "1"))),
    ]
    command = [sys.executable, "-c", FORK, *urls, str(tmp_path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False, env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert hashlib.sha256((tmp_path / "before-0").read_bytes()).hexdigest() == (
        hashlib.sha256(body(4_000_000, "0")).hexdigest()
    )


# ------------------------------------------------------------------- interrupted


def inject(thread: threading.Thread, kind: type[BaseException]) -> None:
    """Raise `kind` in another thread, as Cog does to cancel a prediction."""
    count = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(kind)
    )
    assert count == 1


class Caller(threading.Thread):
    """A thread that downloads; `error` is what ended it."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize("chunk_size", [150_000, 700_000])
@pytest.mark.parametrize("kind", [InjectedError, KeyboardInterrupt, SystemExit])
def test_an_exception_injected_into_the_waiting_thread_arrives_and_ends_the_transfer(
    server: Server, tmp_path: Path, kind: type[BaseException], chunk_size: int
) -> None:
    gate = Gate()
    url = server.add("/model", Resource(BODY, faults=[Dam(2 * chunk_size + 50_000, gate)]))
    # Nothing else ends it for as long as the test waits.
    options = {"chunk_size": chunk_size, "stall_timeout": 60}
    caller = Caller(lambda: fetch(url, tmp_path / "got", **options))
    caller.start()
    gate.wait_reached()
    inject(caller, kind)
    caller.join(30)
    assert isinstance(caller.error, kind)
    # The transfer ends by itself: its connections go, and its journal stays.
    eventually(lambda: server.open == 0, what="the end of the connections")
    assert "got" not in names_in(tmp_path)
    assert any("journal" in name for name in names_in(tmp_path))
    gate.open()
    server.requests.clear()
    server.change("/model", faults=[])
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.resumed > 0
    assert bytes_asked(server, "/model") <= len(BODY) - result.resumed


@pytest.mark.parametrize("where", ["head", "body", "retry", "lock", "connect"])
def test_a_caller_is_never_held_up_whatever_the_transfer_waits_for(
    server: Server, tmp_path: Path, where: str
) -> None:
    faults = {
        "head": [GateAfter(None, Gate())],
        "body": [IgnoreRange(), SilenceAfter(99)],
        "retry": [Status(503, retry_after=60)],
        "lock": [Dam(99)],
        "connect": [SilenceAfter(0)],
    }[where]
    url = server.add("/model", Resource(BODY, faults=faults))
    if where == "lock":
        holder = Caller(lambda: fetch(url, tmp_path / "got", stall_timeout=60))
        holder.start()
        server.wait_until(lambda: "got" not in names_in(tmp_path) and names_in(tmp_path))
    asked = len(server.requests)
    events = Events()
    caller = Caller(lambda: fetch(url, tmp_path / "got", stall_timeout=60, progress=events))
    caller.start()
    server.wait_until(lambda: events.of(Waiting) or len(server.requests) > asked)
    inject(caller, InjectedError)
    caller.join(30)
    assert isinstance(caller.error, InjectedError)
    if where == "lock":
        inject(holder, InjectedError)
        holder.join(30)
    eventually(lambda: server.open == 0, what="the end of the connections")


def test_the_next_call_works_after_one_that_was_interrupted(server: Server, tmp_path: Path) -> None:
    url = server.add("/stuck", Resource(BODY, faults=[GateAfter(None, Gate())]))
    other = server.add("/model", Resource(BODY))
    caller = Caller(lambda: fetch(url, tmp_path / "stuck"))
    caller.start()
    server.wait_until(lambda: server.requests)
    inject(caller, KeyboardInterrupt)
    caller.join(30)
    fetch(other, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY


def test_cancelling_the_async_twin_keeps_what_has_come(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = server.add("/model", Resource(BODY, faults=[Dam(2 * CHUNK + 50_000, gate)]))

    async def main() -> None:
        settings = impatient(chunk_size=CHUNK)
        task = asyncio.ensure_future(
            pgetpy.download_async(url, tmp_path / "got", settings=settings)
        )
        await asyncio.to_thread(gate.wait_reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gate.open()
    server.change("/model", faults=[])
    assert fetch(url, tmp_path / "got").resumed > 0
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.mark.parametrize("turns", range(7))
def test_a_call_that_is_cancelled_just_when_it_is_connected_ends(
    server: Server, tmp_path: Path, turns: int
) -> None:
    url = server.add("/model", Resource(BODY, faults=[Dam(99)]))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def connected(sock: socket.socket, address: object) -> None:
            await connect(sock, address)  # type: ignore[arg-type]
            loop.call_soon(task.cancel)
            for _ in range(turns):
                await asyncio.sleep(0)

        loop.sock_connect = connected  # type: ignore[method-assign]
        settings = impatient(stall_timeout=60)
        task = asyncio.ensure_future(
            pgetpy.download_async(url, tmp_path / "got", settings=settings)
        )
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: server.open == 0, what="the end of the connections")


@ONCE
def test_a_call_that_is_cancelled_while_it_publishes_leaves_a_whole_file_or_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/model", Resource(BODY))
    reached, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow_fsync(fd: int) -> None:
        reached.set()
        go_on.wait(30)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow_fsync)

    async def main() -> None:
        task = asyncio.ensure_future(
            pgetpy.download_async(url, tmp_path / "got", settings=impatient(fsync=True))
        )
        await asyncio.to_thread(reached.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert names_in(tmp_path) == ["got"]
    assert (tmp_path / "got").read_bytes() == BODY


# ------------------------------------------------------------------- progress


def test_the_events_of_a_file_come_in_order(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY))
    events = Events()
    checksum = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    result = fetch(url, tmp_path / "got", progress=events, chunk_size=CHUNK, checksum=checksum)
    assert isinstance(events.all[0], Started)
    assert events.all[-1] == Finished(0, result)
    assert events.of(Progressed)[-1].done == len(BODY)
    assert events.of(Verifying)
    events.assert_monotonic()
    assert len(events.threads) == 1


def test_a_failure_is_an_event_too(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(faults=[Status(404)]))
    events = Events()
    with pytest.raises(HttpStatusError) as caught:
        fetch(url, tmp_path / "got", progress=events)
    assert events.all == [Failed(0, url, str(tmp_path / "got"), caught.value)]


@ONCE
def test_progress_of_a_transfer_that_is_cut_off_often_never_goes_backwards(
    server: Server, tmp_path: Path
) -> None:
    faults = [ResetAfter(300_000), Replaced(OTHER, '"v2"', when=When(request=at_least(5)))]
    url = server.add("/model", Resource(BODY, faults=faults))
    events = Events()
    fetch(url, tmp_path / "got", progress=events, chunk_size=700_000)
    assert (tmp_path / "got").read_bytes() == OTHER
    assert len(events.of(StartedOver)) == 1
    events.assert_monotonic()


KINDS = [Queued, Started, Progressed, Finished]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_a_callback_raises_ends_the_call_and_nothing_else(
    server: Server, tmp_path: Path, kind: type, raised: type[BaseException]
) -> None:
    url = server.add("/model", Resource(BODY))

    def callback(event: object) -> None:
        if isinstance(event, kind):
            raise raised("enough")

    settings = impatient(chunk_size=CHUNK)
    with pytest.raises(raised, match="enough"):
        pgetpy.download_many([(url, tmp_path / "got")], settings=settings, progress=callback)
    # What is published stays; what is not appears at the next call.
    assert ("got" in names_in(tmp_path)) == (kind is Finished)
    eventually(lambda: server.open == 0, what="the end of the connections")
    assert fetch(url, tmp_path / "got", force=True).size == len(BODY)
    assert (tmp_path / "got").read_bytes() == BODY


@ONCE
def test_a_callback_may_call_the_interface_of_another_thread(
    server: Server, tmp_path: Path
) -> None:
    # As a server does that streams progress: the callback only hands on.
    url = server.add("/model", Resource(BODY))
    seen: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def callback(event: object) -> None:
            loop.call_soon_threadsafe(seen.append, event)
            if isinstance(event, Finished):
                loop.call_soon_threadsafe(done.set)

        await asyncio.to_thread(fetch, url, tmp_path / "got", progress=callback)
        await done.wait()

    asyncio.run(main())
    assert isinstance(seen[-1], Finished)


# ------------------------------------------------------------------- several files


def test_one_failure_of_several_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    server.add("/a", Resource(BODY))
    server.add("/c", Resource(OTHER))
    files = [(server.url(f"/{name}"), tmp_path / name) for name in "abc"]
    events = Events()
    found = pgetpy.download_many(files, settings=impatient(), progress=events)
    assert [type(outcome).__name__ for outcome in found] == [
        "DownloadResult",
        "DownloadFailure",
        "DownloadResult",
    ]
    failure = found[1]
    assert isinstance(failure, pgetpy.DownloadFailure)
    assert failure.url == server.url("/b")
    assert failure.dest == str(tmp_path / "b")
    assert isinstance(failure.error, HttpStatusError)
    assert (tmp_path / "a").read_bytes() == BODY
    assert (tmp_path / "c").read_bytes() == OTHER
    assert events.all[0] == Queued(3)
    assert {event.key for event in events.of(Finished)} == {0, 2}
    assert [event.key for event in events.of(Failed)] == [1]


def test_a_generator_of_files_runs_in_its_callers_thread(server: Server, tmp_path: Path) -> None:
    url = server.add("/x", Resource(body(1000)))

    def files() -> Iterator[tuple[str, Path]]:
        pgetpy.download(url, tmp_path / "first")
        yield url, tmp_path / "second"

    assert len(pgetpy.download_many(files())) == 1
    assert names_in(tmp_path) == ["first", "second"]


def test_fail_fast_raises_the_first_failure_and_stops_the_rest(
    server: Server, tmp_path: Path
) -> None:
    slow = server.add("/slow", Resource(BODY, faults=[Dam(99)]))
    files = [(slow, tmp_path / "slow"), (server.url("/missing"), tmp_path / "missing")]
    with pytest.raises(HttpStatusError):
        pgetpy.download_many(files, settings=impatient(stall_timeout=60), fail_fast=True)
    eventually(lambda: server.open == 0, what="the end of the connections")
    assert "slow" not in names_in(tmp_path)


@ONCE
def test_a_file_that_gets_no_answer_does_not_hold_up_the_others_of_its_host(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    mute = server.add("/mute", Resource(BODY, faults=[GateAfter(None, gate)]))
    files = [(mute, tmp_path / "mute")]
    files += [(server.add(f"/{n}", Resource(BODY)), tmp_path / str(n)) for n in range(3)]
    finished: list[str] = []

    def callback(event: object) -> None:
        if isinstance(event, Finished):
            finished.append(Path(event.result.dest).name)
            if len(finished) == 3:
                gate.open()

    # Were the others held up by it, the gate would never open, and it would fail.
    settings = impatient(stall_timeout=30, retries=0)
    found = pgetpy.download_many(files, settings=settings, progress=callback)
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    assert finished[3:] == ["mute"]


def test_no_files_are_no_error() -> None:
    assert pgetpy.download_many([], settings=impatient()) == ()


def test_many_small_files_go_over_few_connections(server: Server, tmp_path: Path) -> None:
    bodies = {f"/{n}": body(10_000, str(n)) for n in range(240)}
    files = [
        (server.add(path, Resource(data)), tmp_path / path[1:]) for path, data in bodies.items()
    ]
    found = pgetpy.download_many(files, settings=impatient())
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    assert all((tmp_path / path[1:]).read_bytes() == data for path, data in bodies.items())
    assert len(names_in(tmp_path)) == 240
    # On a busy machine a connection may look stuck, and its file is asked for once more.
    assert all(len(server.seen(path)) <= 2 for path in bodies)
    # The engine opens 64 at a time at most, and some may be opened again.
    assert server.connections < 120


@pytest.mark.parametrize("size", [1000, 2_500_001])
def test_two_files_of_one_call_that_would_have_one_path_are_refused(
    server: Server, tmp_path: Path, size: int
) -> None:
    urls = [
        server.add("/a/model", Resource(BODY[:size])),
        server.add("/b/model", Resource(OTHER[:size])),
    ]
    found = pgetpy.download_many([(url, f"{tmp_path}/") for url in urls], settings=impatient())
    results = [outcome for outcome in found if isinstance(outcome, pgetpy.DownloadResult)]
    failures = [outcome for outcome in found if isinstance(outcome, pgetpy.DownloadFailure)]
    assert len(results) == len(failures) == 1
    assert isinstance(failures[0].error, DestinationError)
    assert "another file of this call" in str(failures[0].error)
    assert str(tmp_path / "model") in str(failures[0].error)
    expected = BODY if results[0].url == urls[0] else OTHER
    assert (tmp_path / "model").read_bytes() == expected[:size]
    assert names_in(tmp_path) == ["model"]


@pytest.mark.parametrize("second", ["got", "./got", "sub/../got", "link/got"])
@pytest.mark.parametrize("force", [False, True])
def test_two_spellings_of_one_path_are_one_path(
    server: Server, tmp_path: Path, second: str, force: bool
) -> None:
    urls = [server.add("/a", Resource(BODY)), server.add("/b", Resource(OTHER))]
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    files = [(urls[0], str(tmp_path / "got")), (urls[1], f"{tmp_path}/{second}")]
    found = pgetpy.download_many(files, settings=impatient(), force=force)
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert isinstance(found[1], pgetpy.DownloadFailure)
    assert (tmp_path / "got").read_bytes() == BODY


def test_the_rate_limit_holds_for_all_files_of_a_call(server: Server, tmp_path: Path) -> None:
    files = [(server.add(f"/{n}", Resource(BODY[:400_000])), tmp_path / str(n)) for n in range(4)]
    started = time.monotonic()
    pgetpy.download_many(files, settings=impatient(limit_rate=1_600_000))
    assert time.monotonic() - started > 0.7


def test_a_disposition_that_fools_nobody(server: Server, tmp_path: Path) -> None:
    for number, evil in enumerate(["../../x", "/etc/passwd", ".bashrc", "a\x00b", "C:\\x\\y"]):
        header = Headers(add=(("Content-Disposition", f'attachment; filename="{evil}"'),))
        folder = tmp_path / str(number)
        folder.mkdir()
        if "\x00" in evil:
            continue
        result = fetch(server.add(f"/n{number}", Resource(BODY[:99], faults=[header])), folder)
        [name] = names_in(folder)
        assert result.dest == str(folder / name)
        assert not name.startswith(".")
    assert sorted(names_in(tmp_path)) == [str(number) for number in range(5)]


@ONCE
def test_a_second_call_for_one_path_waits_and_takes_the_file_of_the_first(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = server.add("/model", Resource(BODY, faults=[Dam(CHUNK + 50_000, gate)]))
    results: list[pgetpy.DownloadResult] = []
    events = Events()
    first = Caller(lambda: results.append(fetch(url, tmp_path / "got", chunk_size=CHUNK)))
    first.start()
    gate.wait_reached()
    second = Caller(lambda: results.append(fetch(url, tmp_path / "got", progress=events)))
    second.start()
    eventually(lambda: events.of(Waiting), what="the second call's waiting")
    gate.open()
    first.join(30)
    second.join(30)
    assert (first.error, second.error) == (None, None)
    assert sorted(result.shared for result in results) == [False, True]
    assert (tmp_path / "got").read_bytes() == BODY
