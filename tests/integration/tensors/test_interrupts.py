"""A call that is interrupted ends at once and leaves nothing, wherever it was; the next works."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pgetpy import WeightsDownloadCache, tensors
from tests.integration.tensors.test_load import open_files, readers
from tests.support.checkpoints import file_of, floats, same
from tests.support.delivery import Gate
from tests.support.entries import child, said
from tests.support.faults import GateAfter, When, midway
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import MIB, opened, serve

PATH = "/model.safetensors"
MADE = {"a": floats(1000, "a"), "b": floats(MIB, "b"), "c": floats(10, "c")}
DATA = file_of(MADE)
LITTLE = {"a": floats(1000, "a"), "b": floats(2000, "b")}


class InjectedError(BaseException):
    """What a server raises in the thread of a prediction that is cancelled."""


def loaded(reference: str | Path, cache: WeightsDownloadCache, **options: Any) -> dict[str, Any]:
    return tensors.load(reference, cache=cache, framework="numpy", **options)


class Calling(threading.Thread):
    """A thread that makes one call, and keeps what that raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self.raised: BaseException | None = None
        self._call = call
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.raised = error

    def inject(self) -> None:
        number = ctypes.c_ulong(self.ident or 0)
        kind = ctypes.py_object(InjectedError)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(number, kind) == 1


@pytest.mark.parametrize("only", [None, "b"], ids=["all", "only"])
def test_a_call_that_waits_is_ended_within_moments(
    server: Server, cache: WeightsDownloadCache, only: str | None
) -> None:
    gate = Gate()
    held = GateAfter(1000, gate, when=When(covers=len(DATA) - 50))
    url = serve(server, DATA, PATH, faults=[held])
    calling = Calling(lambda: loaded(url, cache, only=only))
    gate.wait_reached()
    calling.inject()
    calling.join(30)
    assert isinstance(calling.raised, InjectedError)
    eventually(lambda: server.open == 0 and readers() == 0)
    assert not gate.is_open
    gate.open()
    server.change(PATH, faults=[])
    assert same(loaded(url, cache), MADE)


def test_a_caller_starts_no_thread_himself(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is injected into a thread that is starting another may end the other, unseen."""
    starters: list[tuple[str, threading.Thread]] = []
    start = threading.Thread.start

    def noting(thread: threading.Thread) -> None:
        starters.append((thread.name, threading.current_thread()))
        start(thread)

    url = serve(server, DATA, PATH)
    path = tmp_path / "here.safetensors"
    path.write_bytes(DATA)
    with opened(tmp_path / "cache") as cache:
        assert same(loaded(url, cache, only="a"), {"a": MADE["a"]})  # the engine has begun
        monkeypatch.setattr(threading.Thread, "start", noting)
        for reference in (url, url, path):
            assert same(loaded(reference, cache), MADE)
        monkeypatch.undo()
    assert {name for name, _ in starters} >= {"pgetpy-reader"}
    assert threading.current_thread() not in {starter for _, starter in starters}


def test_ctrl_c_ends_a_process_that_waits(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, DATA, PATH, faults=[GateAfter(MIB + 1000, gate, when=When(request=1))])
    code = """
from pgetpy import tensors
from tests.support.weights import opened
cache = opened(sys.argv[1], concurrency=1)
say("ready")
try:
    tensors.load(sys.argv[2], cache=cache, framework="numpy")
except KeyboardInterrupt:
    say("interrupted")
"""
    with child(code, tmp_path / "cache", url) as running:
        assert said(running) == "ready"
        gate.wait_reached()
        running.send_signal(signal.SIGINT)
        assert said(running) == "interrupted"
        running.wait(10)
    gate.open()
    server.change(PATH, faults=[])
    with opened(tmp_path / "cache") as cache:
        assert same(loaded(url, cache), MADE)


def test_one_who_is_interrupted_does_not_hinder_another(
    server: Server, cache: WeightsDownloadCache
) -> None:
    gate = Gate()
    url = serve(server, DATA, PATH, faults=midway(MIB + 1000, gate))
    got: list[dict[str, Any]] = []
    first = Calling(lambda: loaded(url, cache))
    gate.wait_reached()
    second = Calling(lambda: got.append(loaded(url, cache)))
    first.inject()
    first.join(30)
    assert isinstance(first.raised, InjectedError)
    gate.open()
    second.join(20)
    assert second.raised is None
    assert same(got[0], MADE)


@contextmanager
def raising_at(count: int) -> Iterator[list[int]]:
    """Raise InjectedError in this thread before byte code number `count` of the package's rooms of
    tensors; say how many there were."""
    seen = [0]

    def local(frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode":
            seen[0] += 1
            if seen[0] == count:
                raise InjectedError
        return local

    def begin(frame: FrameType, event: str, _: object) -> Any:
        if "pgetpy/tensors" not in frame.f_code.co_filename:
            return None
        if frame.f_code.co_name == "__del__":
            return None  # what is raised there is not seen by anybody
        frame.f_trace_opcodes = True
        return local

    before = sys.gettrace()
    sys.settrace(begin)
    try:
        yield seen
    finally:
        sys.settrace(before)


# Work may be made and interrupted before it is handed to the engine.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc tells of")
@pytest.mark.parametrize("kind", ["fetched", "kept", "parts"])
def test_wherever_a_call_is_interrupted_nothing_is_left_and_the_next_works(
    server: Server, tmp_path: Path, kind: str
) -> None:
    data = file_of(LITTLE)
    with opened(tmp_path / "cache") as cache:
        url = serve(server, data, PATH)
        only = "b" if kind == "parts" else None
        expected = {name: LITTLE[name] for name in LITTLE if only in (None, name)}

        def call(count: int) -> tuple[bool, int]:
            if kind == "fetched":
                cache.remove(url)
            with raising_at(count) as seen:
                try:
                    loaded(url, cache, only=only)
                except InjectedError:
                    return True, seen[0]
            return False, seen[0]

        if kind == "kept":
            cache.ensure(url)
        assert call(0)[0] is False
        total = call(0)[1]
        at = 1
        while at < total:
            interrupted, _ = call(at)
            if not interrupted:
                break  # it had less to wait for
            at += max(1, total // 60) + at % 3
        assert at > total // 2
        assert same(loaded(url, cache, only=only), expected)
        assert cache.settle(30)
        eventually(lambda: readers() == 0 and server.open == 0)

        def weights_open() -> list[str]:
            gc.collect()
            own = ("/holders/", "/uses/")  # the cache's, for as long as it is open itself
            return [path for path in open_files(tmp_path) if not any(part in path for part in own)]

        eventually(lambda: not weights_open())
