"""Tensors while their file arrives: when they come, and what becomes of them if it goes wrong."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.errors import (
    BadSettingError,
    DigestMismatchError,
    NotWeightsError,
    ObjectChangedError,
    TransferError,
)
from tests.support.checkpoints import file_of, floats, same
from tests.support.delivery import Gate
from tests.support.entries import child, said, sha256, tell
from tests.support.faults import (
    Chunked,
    EtagPerRequest,
    Fault,
    FinAfter,
    GateAfter,
    IgnoreRange,
    NoLength,
    NoValidators,
    Overwritten,
    Replaced,
    ResetAfter,
    ResetAt,
    Status,
    WeakEtag,
    When,
    at_least,
)
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import MIB, opened, partials, serve

pytestmark = pytest.mark.usefixtures("forked_runs")

PATH = "/model.safetensors"
SMALL, LARGE = floats(1000, "small"), floats(MIB, "large")
MADE = {"first": SMALL, "middle": floats(MIB // 4, "middle"), "large": LARGE, "last": SMALL}
DATA = file_of(MADE)
OTHER = {name: floats(len(made.data) // 4, f"other {name}") for name, made in MADE.items()}
OTHER_DATA = file_of(OTHER)
assert len(DATA) == len(OTHER_DATA)


@pytest.fixture
def one_lane(tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    """A cache that fetches by one connection at a time, in small ranges."""
    with opened(tmp_path / "cache", concurrency=1, chunk_size=MIB) as cache:
        yield cache


def streamed(url: str, cache: WeightsDownloadCache, **options: Any) -> Iterator[tuple[str, Any]]:
    return tensors.stream(url, cache=cache, framework="numpy", **options)


def loaded(url: str, cache: WeightsDownloadCache, **options: Any) -> dict[str, Any]:
    return tensors.load(url, cache=cache, framework="numpy", **options)


def test_a_tensor_comes_while_later_ones_are_held_back(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    gate = Gate()
    late = When(covers=len(DATA) - 1, times=1)
    url = serve(server, DATA, PATH, faults=[GateAfter(1000, gate, when=late)])
    coming = streamed(url, one_lane)
    name, array = next(coming)
    assert array.tobytes() == MADE[name].data
    assert not gate.is_open
    assert one_lane.lookup(url) is None
    gate.open()
    assert same({name: array, **dict(coming)}, MADE)
    assert one_lane.lookup(url) is not None


def test_to_change_a_tensor_as_it_comes_changes_no_other(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    """A mapped page that is written to is a copy, in which what lands afterwards is missing."""
    made = {f"{at:02}": floats(50_001, f"t{at}") for at in range(40)}
    url = serve(server, file_of(made), PATH)
    found = {}
    for name, array in streamed(url, one_lane):
        assert array.tobytes() == made[name].data
        array[:] = 0
        found[name] = array
    assert found.keys() == made.keys()
    assert not any(array.any() for array in found.values())
    assert same(loaded(url, one_lane), made)


def test_what_lands_on_the_page_of_a_tensor_that_was_changed_is_seen(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    gate = Gate()
    made = {"a": floats(200_000, "a"), "b": floats(300_000, "b")}
    data = file_of(made)
    stop_of_a = len(data) - len(made["b"].data)
    assert stop_of_a % 4096
    url = serve(server, data, PATH, faults=[GateAfter(stop_of_a + 8, gate, when=When(request=1))])
    first = threading.Event()
    wrong = []

    def change_all() -> None:
        for name, array in streamed(url, one_lane):
            wrong.extend([name] if array.tobytes() != made[name].data else [])
            array[:] = 0
            first.set()

    changing = threading.Thread(target=change_all)
    changing.start()
    gate.wait_reached()
    first.wait(0.5)  # it need not come yet, but if it does, it is changed now
    gate.open()
    changing.join(20)
    assert first.is_set()
    assert wrong == []


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_small_file_that_grows_while_it_is_looked_at_comes_whole(
    server: Server, cache: WeightsDownloadCache, size: int
) -> None:
    gate = Gate()
    made = {"a": SMALL, "b": floats(size)}
    data = file_of(made)
    url = serve(server, data, PATH, faults=[GateAfter(len(data) - 200, gate)])
    opening = threading.Thread(target=lambda: (gate.wait_reached(), gate.open()))
    opening.start()
    assert same(loaded(url, cache), made)
    opening.join(20)


def test_arguments_are_judged_by_the_call_and_not_by_the_first_tensor(
    cache: WeightsDownloadCache,
) -> None:
    with pytest.raises(BadSettingError):
        streamed("https://host/x", cache, only="a", digest="0" * 64)
    with pytest.raises(BadSettingError):
        streamed("https://host/x", cache, wanted="folder")
    with pytest.raises(BadSettingError):
        streamed("https://host/x", cache, device="cuda")


def test_who_closes_a_stream_ends_the_download_and_the_next_goes_on(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    gate = Gate()
    url = serve(
        server, DATA, PATH, faults=[GateAfter(MIB // 2, gate, when=When(request=at_least(3)))]
    )
    coming = streamed(url, one_lane)
    next(coming)
    gate.wait_reached()
    coming.close()  # type: ignore[attr-defined]
    eventually(lambda: server.open == 0)
    assert one_lane.lookup(url) is None
    asked = len(server.asked(PATH))
    before = server.sent(PATH)
    gate.open()
    server.change(PATH, faults=[])
    assert same(loaded(url, one_lane), MADE)
    assert server.sent(PATH) - before < len(DATA)
    assert min(start or 0 for start, _ in filter(None, server.asked(PATH)[asked:])) > 0


def test_a_digest_that_is_wrong_shows_at_the_end_and_nothing_is_kept(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, DATA, PATH)
    coming = streamed(url, cache, digest="0" * 64)
    found: list[str] = []
    with pytest.raises(DigestMismatchError):
        found.extend(name for name, _ in coming)
    assert set(found) <= set(MADE)
    with pytest.raises(DigestMismatchError):
        loaded(url, cache, digest="0" * 64)
    assert cache.lookup(url) is None
    assert partials(cache.path) == []
    assert same(loaded(url, cache, digest=sha256(DATA)), MADE)
    assert same(dict(streamed(url, cache, digest=sha256(DATA))), MADE)
    with pytest.raises(DigestMismatchError):
        loaded(url, cache, digest="0" * 64)


LATER = When(request=at_least(2))


@pytest.mark.parametrize(
    "faults",
    [
        [IgnoreRange()],
        [Chunked()],
        [NoLength()],
        [IgnoreRange(), NoLength()],
        [WeakEtag()],
        [NoValidators()],
        [ResetAfter(300_000, when=When(times=2))],
        [FinAfter(300_000, when=When(times=2))],
        [ResetAfter(10, when=When(times=2))],
        [ResetAfter(MIB, when=When(request=1)), IgnoreRange(when=When(request=2))],
        [IgnoreRange(), ResetAfter(600_000, when=When(times=1))],
        [ResetAfter(MIB, when=When(request=1)), Status(503, when=When(request=range(2, 4)))],
    ],
    ids=str,
)
@pytest.mark.parametrize("get", [loaded, streamed])
def test_faults_of_the_network_change_no_tensor(
    server: Server, cache: WeightsDownloadCache, faults: list[Fault], get: Callable[..., Any]
) -> None:
    url = serve(server, DATA, PATH, faults=faults)
    try:
        found = dict(get(url, cache))
    except ObjectChangedError:
        # Of what comes again from its beginning the stream may have given out something.
        assert get is streamed
        found = loaded(url, cache)
    assert same(found, MADE)
    assert same(loaded(url, cache), MADE)


@pytest.mark.parametrize("etag", ['"v2"', None, ""], ids=["new", "none", "same"])
@pytest.mark.parametrize("get", [loaded, streamed])
def test_of_an_object_that_is_replaced_meanwhile_no_two_versions_are_mixed(
    server: Server, one_lane: WeightsDownloadCache, etag: str | None, get: Callable[..., Any]
) -> None:
    replaced = Replaced(OTHER_DATA, etag=etag, last_modified=None, when=LATER)
    url = serve(server, DATA, PATH, faults=[replaced], last_modified=None)
    digest = sha256(OTHER_DATA) if etag == "" else None  # nothing else would tell
    try:
        found = dict(get(url, one_lane, digest=digest))
    except (TransferError, DigestMismatchError):
        assert get is streamed or etag != '"v2"'
        server.change(PATH, faults=[], body=OTHER_DATA, etag='"v3"')
        found = loaded(url, one_lane)
    assert same(found, OTHER)


def test_a_stream_of_a_file_that_begins_anew_says_so(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    gate = Gate()
    faults = [
        GateAfter(None, gate, when=When(request=2)),
        Replaced(OTHER_DATA, etag='"v2"', when=LATER),
    ]
    url = serve(server, DATA, PATH, faults=faults)
    coming = streamed(url, one_lane)
    name, array = next(coming)
    gate.open()
    with pytest.raises(ObjectChangedError):
        list(coming)
    assert array.tobytes() == MADE[name].data
    assert same(loaded(url, one_lane), OTHER)


def test_a_file_that_is_overwritten_in_place_is_caught_by_its_digest(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    overwritten = Overwritten(2 * MIB, OTHER_DATA, when=LATER)
    url = serve(server, DATA, PATH, faults=[overwritten])
    with pytest.raises(DigestMismatchError):
        loaded(url, one_lane, digest=sha256(DATA))
    assert one_lane.lookup(url) is None
    server.change(PATH, faults=[])
    assert same(loaded(url, one_lane, digest=sha256(DATA)), MADE)


@pytest.mark.parametrize(
    "faults",
    [(ResetAt(MIB), ResetAfter(0, when=LATER)), (Status(404),)],
    ids=["reset", "404"],
)
@pytest.mark.parametrize("get", [loaded, streamed])
def test_a_server_that_fails_for_good_is_an_error_and_leaves_nothing(
    server: Server, cache: WeightsDownloadCache, faults: tuple[Fault, ...], get: Callable[..., Any]
) -> None:
    url = serve(server, DATA, PATH, faults=faults)
    with pytest.raises(TransferError):
        dict(get(url, cache))
    assert cache.lookup(url) is None
    server.change(PATH, faults=[])
    assert same(loaded(url, cache), MADE)


@pytest.mark.parametrize("fault", [IgnoreRange(when=LATER), EtagPerRequest(2)], ids=str)
def test_a_server_that_can_be_used_in_one_stream_only_will_do(
    server: Server, cache: WeightsDownloadCache, fault: Fault
) -> None:
    broken = ResetAfter(MIB, when=When(request=1))
    url = serve(server, DATA, PATH, faults=[broken, fault])
    assert same(loaded(url, cache), MADE)
    assert server.asked(PATH)[-1] in (None, (0, None))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<html><body>Please log in to go on</body></html>", "Please log in to go on"),
        (b'{"error": "no such version"}', "no such version"),
        (b"", "empty"),
        (DATA[:200_000], "broken safetensors"),
        (DATA + b"x", "broken safetensors"),
        (b"\xff" * 8 + DATA[8:], "broken safetensors|data of an unknown kind"),
        (b"\0" * 3000, "broken safetensors|data of an unknown kind"),
        (bytes(8), "broken safetensors|data of an unknown kind"),
    ],
    ids=["page", "JSON", "empty", "cut off", "too long", "absurd header", "zeros", "eight zeros"],
)
@pytest.mark.parametrize("only", [None, "first"])
def test_what_is_no_safetensors_file_is_said_to_be_none(
    server: Server, cache: WeightsDownloadCache, data: bytes, said: str, only: str | None
) -> None:
    url = serve(server, data, PATH)
    with pytest.raises(NotWeightsError, match=said):
        loaded(url, cache, only=only)
    assert cache.lookup(url) is None


def test_processes_that_want_one_file_cause_one_download(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, DATA, PATH, faults=[GateAfter(MIB, gate, when=When(request=1))])
    code = """
from pgetpy import tensors
from tests.support.weights import opened
with opened(sys.argv[1], concurrency=1) as cache:
    say("ready")
    for _, array in tensors.stream(sys.argv[2], cache=cache, framework="numpy"):
        array[:] = 0
    found = tensors.load(sys.argv[2], cache=cache, framework="numpy")
    import hashlib
    say(hashlib.sha256(b"".join(array.tobytes() for array in found.values())).hexdigest())
input()
"""
    with child(code, tmp_path / "cache", url) as one, child(code, tmp_path / "cache", url) as two:
        assert said(one) == said(two) == "ready"
        gate.wait_reached()
        gate.open()
        bytes_of_all = b"".join(made.data for made in MADE.values())
        assert {said(one), said(two)} == {sha256(bytes_of_all).removeprefix("sha256:")}
        tell(one)
        tell(two)
    assert server.sent(PATH) <= 1.05 * len(DATA)


def test_a_stream_that_nobody_reads_on_is_given_up(
    server: Server, one_lane: WeightsDownloadCache
) -> None:
    gate = Gate()
    url = serve(server, DATA, PATH, faults=[GateAfter(1000, gate, when=LATER)])
    coming = streamed(url, one_lane)
    next(coming)
    del coming
    gc.collect()
    eventually(lambda: server.open == 0)
    gate.open()
