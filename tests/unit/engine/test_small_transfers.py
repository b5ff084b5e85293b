"""Several files at a time, small ones by the lane of their own, over a network in memory."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pgetpy
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.policy import Policy
from pgetpy.core.report.events import Retrying, Started
from pgetpy.engine.engine import Engine
from pgetpy.engine.transports.base import Request
from pgetpy.errors import (
    DestinationError,
    DigestMismatchError,
    DiskFullError,
    HttpStatusError,
    NotAllowedError,
    PgetError,
)
from pgetpy.settings import Settings
from pgetpy.testing import MemoryTransport, Stored, Turn, network
from tests.support.bodies import body, digest
from tests.support.fetching import Events, names_in

MIB = 1 << 20
SIZE = 100_000
BODY = body(SIZE)
SETTINGS = Settings(retries=3, stall_timeout=0.4)

Outcome = pgetpy.DownloadResult | pgetpy.DownloadFailure


def url(number: int) -> str:
    return f"http://192.0.2.1/{number}"


def jobs(count: int, folder: Path) -> list[Job]:
    return [Job(url(number), str(folder / str(number))) for number in range(count)]


def fetch(
    objects: Mapping[int, Stored],
    folder: Path,
    *,
    chosen: Settings = SETTINGS,
    wanted: list[Job] | None = None,
    events: Events | None = None,
) -> tuple[list[Outcome], MemoryTransport]:
    """Fetch `objects`, and another small one beside them, so that it is more than one file."""
    stored = {url(number): each for number, each in objects.items()}
    stored[url(len(objects))] = Stored(b"beside")
    wanted = wanted or jobs(len(stored), folder)
    with network(stored) as transport:
        found = pgetpy.download_many(wanted, settings=chosen, progress=events)
    return list(found), transport


def asked(transport: MemoryTransport, number: int = 0) -> int:
    return [request.url for request in transport.requests].count(url(number))


def error_of(outcome: Outcome) -> PgetError:
    assert isinstance(outcome, pgetpy.DownloadFailure)
    return outcome.error


@pytest.mark.parametrize("size", [1, SIZE, MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_each_size_takes_one_request(tmp_path: Path, size: int) -> None:
    chosen = replace(SETTINGS, concurrency=1)
    events = Events()
    found, transport = fetch({0: Stored(body(size))}, tmp_path, chosen=chosen, events=events)
    result = found[0]
    assert isinstance(result, pgetpy.DownloadResult)
    assert (result.size, result.requests, result.retries) == (size, 1, 0)
    assert (tmp_path / "0").read_bytes() == body(size)
    assert asked(transport) == 1
    assert names_in(tmp_path) == ["0", "1"]
    assert [event.total for event in events.of(Started) if event.key == 0] == [size]
    events.assert_monotonic()


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_a_pause_gets_it(tmp_path: Path, status: int) -> None:
    events = Events()
    busy = Stored(BODY, script=[Turn(status, headers={"retry-after": "1"})])
    found, transport = fetch({0: busy}, tmp_path, events=events)
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert (found[0].retries, asked(transport)) == (1, 2)
    assert [event.after >= 0.9 for event in events.of(Retrying)] == [True]
    assert (tmp_path / "0").read_bytes() == BODY


def test_a_server_that_is_never_well_is_given_up_with_its_words(tmp_path: Path) -> None:
    ill = Stored(BODY, script=[Turn(503, headers={"retry-after": "0"}, body=b"not now")] * 20)
    found, transport = fetch({0: ill}, tmp_path)
    assert isinstance(error_of(found[0]), HttpStatusError)
    assert "not now" in str(error_of(found[0]))
    with network({url(0): ill}) as alone, pytest.raises(HttpStatusError):
        pgetpy.download(url(0), tmp_path / "0", settings=SETTINGS)
    assert asked(transport) == asked(alone)
    assert names_in(tmp_path) == ["1"]


@pytest.mark.parametrize("turn", [Turn(cut_after=SIZE // 2), Turn(silent_after=SIZE // 2)])
def test_an_answer_that_breaks_off_is_completed(tmp_path: Path, turn: Turn) -> None:
    found, transport = fetch({0: Stored(BODY, script=[turn])}, tmp_path)
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert (tmp_path / "0").read_bytes() == BODY
    assert asked(transport) == 2


def test_a_server_that_says_nothing_is_asked_again(tmp_path: Path) -> None:
    found, transport = fetch({0: Stored(BODY, script=[Turn(silent_after=-1)])}, tmp_path)
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert (tmp_path / "0").read_bytes() == BODY
    assert asked(transport) == 2


def test_the_full_client_does_what_the_direct_one_leaves(tmp_path: Path) -> None:
    found, transport = fetch({0: Stored(BODY, script=[Turn(not_for_me="odd")])}, tmp_path)
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert found[0].requests == asked(transport) == 2


@pytest.mark.parametrize("right", [True, False])
def test_a_digest_is_checked_before_the_file_appears(tmp_path: Path, right: bool) -> None:
    wanted = jobs(2, tmp_path)
    expected = Checksum("sha256", digest(BODY) if right else "0" * 64)
    wanted[0] = replace(wanted[0], checksum=expected)
    found, transport = fetch({0: Stored(BODY)}, tmp_path, wanted=wanted)
    if right:
        assert isinstance(found[0], pgetpy.DownloadResult)
        assert found[0].digest == str(expected)
    else:
        assert isinstance(error_of(found[0]), DigestMismatchError)
    assert names_in(tmp_path) == (["0", "1"] if right else ["1"])
    assert asked(transport) == 1


def test_what_exists_stays_and_is_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"mine")
    found, transport = fetch({0: Stored(BODY)}, tmp_path)
    assert isinstance(error_of(found[0]), DestinationError)
    found, transport = fetch(
        {0: Stored(BODY)}, tmp_path, chosen=replace(SETTINGS, skip_existing=True)
    )
    assert not isinstance(found[0], pgetpy.DownloadFailure)
    assert asked(transport) == 0
    assert (tmp_path / "0").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("policy", "requests"),
    [
        (Policy.public(), 0),
        (Policy(allow_networks=("192.0.2.0/24",), max_bytes=SIZE - 1), 1),
        (Policy(allow_networks=("192.0.2.0/24",), only_safetensors=True), 1),
    ],
    ids=["address", "size", "content"],
)
def test_a_policy_holds(tmp_path: Path, policy: Policy, requests: int) -> None:
    chosen = replace(SETTINGS, policy=policy)
    found, transport = fetch({0: Stored(BODY)}, tmp_path, chosen=chosen)
    assert isinstance(error_of(found[0]), NotAllowedError)
    assert asked(transport) == requests
    assert "0" not in names_in(tmp_path)


class Awaited(list[Request]):
    """Requests, of which `count` can be waited for."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.complete = asyncio.Event()
        self._count = count

    def append(self, request: Request) -> None:
        super().append(request)
        if len(self) >= self._count:
            self.complete.set()


@pytest.mark.parametrize("silent_after", [-1, SIZE // 2])
def test_who_cancels_half_way_finds_nothing(tmp_path: Path, silent_after: int) -> None:
    stored = Stored(BODY, script=[Turn(silent_after=silent_after)] * 9)

    async def scenario(transport: MemoryTransport) -> None:
        async with Engine(replace(SETTINGS, stall_timeout=60.0)) as engine:
            wanted = jobs(2, tmp_path)
            transport.requests = requests = Awaited(len(wanted))
            fetching = asyncio.ensure_future(
                engine.download_all(wanted, lambda _: None, fail_fast=False)
            )
            await requests.complete.wait()
            for _ in range(20):  # what is in memory has come by then
                await asyncio.sleep(0)
            fetching.cancel()
            await asyncio.wait([fetching])
            assert fetching.cancelled()

    with network({url(0): stored, url(1): stored}) as transport:
        asyncio.run(scenario(transport))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "pwrite", "replace"])
def test_a_failing_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    honest = getattr(os, call)
    (tmp_path / "full").mkdir()

    def full(*arguments: object, **options: object) -> object:
        found = arguments[0]
        place = os.readlink(f"/proc/self/fd/{found}") if isinstance(found, int) else str(found)
        if str(tmp_path / "full") in place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(*arguments, **options)

    monkeypatch.setattr(os, call, full)
    wanted = jobs(2, tmp_path)
    wanted[0] = replace(wanted[0], dest=str(tmp_path / "full" / "0"))
    found, transport = fetch({0: Stored(BODY)}, tmp_path, wanted=wanted)
    assert isinstance(error_of(found[0]), DiskFullError)
    assert asked(transport) == 1
    assert names_in(tmp_path / "full") == []
    assert (tmp_path / "1").read_bytes() == b"beside"


# What an answer may be like beside right. None of them is a lie that no client could see through.
TURNS = st.sampled_from(
    [
        Turn(),
        Turn(404),
        Turn(429, headers={"retry-after": "0"}),
        Turn(503, headers={"retry-after": "0"}),
        Turn(416, headers={"content-range": "bytes */5"}),
        Turn(302, headers={"location": url(9)}),
        Turn(302, headers={"location": "nowhere://"}, body=b"moved"),
        Turn(200, headers={"content-range": None}),
        Turn(headers={"content-range": None}),
        Turn(headers={"content-range": "bytes 5-9/10"}),
        Turn(headers={"content-length": None}),
        Turn(headers={"content-encoding": "br"}),
        Turn(headers={"etag": None}),
        Turn(headers={"etag": '"other"'}),
        Turn(cut_after=0),
        Turn(cut_after=MIB // 3),
        Turn(cut_after=MIB),
        Turn(silent_after=1000),
        Turn(silent_after=-1),
    ]
)


@pytest.mark.hypothesis
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sizes=st.lists(
        st.sampled_from([0, 1, SIZE, MIB - 1, MIB, MIB + 1, 2 * MIB]), min_size=1, max_size=4
    ),
    scripts=st.lists(st.lists(TURNS, max_size=3), min_size=4, max_size=4),
    ranges=st.booleans(),
)
def test_every_file_is_right_or_an_error(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    scripts: list[list[Turn]],
    ranges: bool,
) -> None:
    folder = tmp_path_factory.mktemp("files")
    objects = {
        number: Stored(body(size), ranges=ranges, script=scripts[number])
        for number, size in enumerate(sizes)
    }
    chosen = replace(SETTINGS, stall_timeout=0.1, retries=5)
    found, transport = fetch(objects, folder, chosen=chosen)
    right = []
    for number, size in enumerate(sizes):
        if isinstance(found[number], pgetpy.DownloadResult):
            right.append(str(number))
            assert (folder / str(number)).read_bytes() == body(size)
        assert asked(transport, number) <= 30
    # What another run could go on with is kept under other names.
    names = [name for name in names_in(folder) if name.isdecimal()]
    assert names == sorted([*right, str(len(sizes))])
