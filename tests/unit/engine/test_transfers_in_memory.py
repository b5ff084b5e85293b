"""Whole transfers over the transport that needs no network: every answer is by a script."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Remarked, StartedOver
from pgetpy.core.report.results import DownloadResult
from pgetpy.engine.context import EngineContext
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.transfer import Transfer
from pgetpy.engine.transports.base import Exchange, Transport, UnsupportedResponseError
from pgetpy.engine.transports.local import LocalTransport
from pgetpy.errors import ConnectionFailedError, HttpStatusError, PgetError, StalledError
from pgetpy.settings import Settings
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import Workers
from pgetpy.testing.memory import MemoryTransport, Stored, Turn
from tests.support.bodies import body, digest
from tests.support.fetching import Events, names_in

MIB = 1 << 20
URL = "http://127.0.0.1/model.bin"
BODY = body(5 * MIB + 7)
SETTINGS = Settings(retries=10, stall_timeout=0.3)


class Refusing:
    """A direct transport that will have nothing to do with anything."""

    async def carry(self, exchange: Exchange) -> None:
        raise UnsupportedResponseError("refusing")

    async def close(self) -> None:
        pass


def context(direct: Transport, full: Transport, chosen: Settings) -> EngineContext:
    workers = Workers()
    hosts = Hosts(chosen, workers)
    local = LocalTransport(workers)
    return EngineContext(
        chosen, hosts, workers, direct, full, None, ReservedPaths(), local, lambda: 0.0
    )


def fetch(
    stored: Stored | dict[str, Stored],
    dest: Path,
    *,
    events: Events | None = None,
    chosen: Settings = SETTINGS,
    checksum: str | None = None,
    claimed: bool = False,
) -> DownloadResult:
    """Fetch URL to `dest` over a network of these objects."""
    objects = stored if isinstance(stored, dict) else {URL: stored}
    transport = MemoryTransport(objects)
    expected = Checksum.parse(checksum) if checksum else None
    asked = Job(URL, str(dest), expected, claimed=claimed)

    async def scenario() -> DownloadResult:
        shared = context(transport, transport, chosen)
        return await asyncio.wait_for(Transfer(shared, asked, 0, events or Events()).run(), 30)

    return asyncio.run(scenario())


def test_an_object_becomes_a_file(tmp_path: Path) -> None:
    events = Events()
    result = fetch(Stored(BODY), tmp_path / "x", events=events)
    assert (tmp_path / "x").read_bytes() == BODY
    assert (result.size, result.validator, result.length_known) == (len(BODY), "strong", True)
    assert names_in(tmp_path) == ["x"]
    events.assert_monotonic()


@pytest.mark.parametrize(
    ("size", "claimed", "left"), [(5 * MIB, False, 2), (5 * MIB, True, 0), (9 * MIB, True, 2)]
)
def test_a_claimed_file_of_moderate_size_has_no_journal(
    tmp_path: Path, size: int, claimed: bool, left: int
) -> None:
    broken = Stored(body(size), script=[Turn(cut_after=2 * MIB)])
    chosen = replace(SETTINGS, retries=0, concurrency=1)
    with pytest.raises(ConnectionFailedError):
        fetch(broken, tmp_path / "x", chosen=chosen, claimed=claimed)
    assert len(names_in(tmp_path)) == left


def test_what_the_direct_transport_leaves_the_full_client_does(tmp_path: Path) -> None:
    full = MemoryTransport({URL: Stored(BODY)})

    async def scenario() -> DownloadResult:
        shared = context(Refusing(), full, SETTINGS)
        return await Transfer(shared, Job(URL, str(tmp_path / "x")), 0, Events()).run()

    assert asyncio.run(scenario()).size == len(BODY)
    assert (tmp_path / "x").read_bytes() == BODY


def test_a_version_that_changes_once_is_started_over(tmp_path: Path) -> None:
    new = body(len(BODY), "v2")

    class Changing(dict[str, Stored]):
        """Another version from the second request on."""

        def get(self, url: str, default: Stored | None = None) -> Stored:  # type: ignore[override]
            now, self[url] = self[url], Stored(new, '"2"')
            return now

    # The first answer breaks off: what it brought is of the version before.
    objects = Changing({URL: Stored(BODY, '"1"', script=[Turn(cut_after=MIB)])})
    fetch(objects, tmp_path / "x", chosen=replace(SETTINGS, chunk_size=MIB))
    assert (tmp_path / "x").read_bytes() == new


def drifting(answers: int) -> list[Turn]:
    """Answers whose validators differ; all but the last break off, so that others follow."""
    turns = [Turn(headers={"etag": f'"{n}"'}, cut_after=MIB) for n in range(answers)]
    return [*turns[:-1], replace(turns[-1], cut_after=None)]


def test_validators_that_go_on_changing_leave_one_stream(tmp_path: Path) -> None:
    events = Events()
    result = fetch(Stored(BODY, script=drifting(5)), tmp_path / "x", events=events)
    assert (tmp_path / "x").read_bytes() == BODY
    assert (result.single_stream, result.validator) == (True, "none")
    assert "contradict each other" in events.of(Remarked)[-1].remark


def test_validators_that_change_do_not_matter_where_there_is_a_digest(tmp_path: Path) -> None:
    events, known = Events(), f"sha256:{digest(BODY)}"
    stored = Stored(BODY, script=drifting(8))
    fetch(stored, tmp_path / "x", checksum=known, events=events)
    assert (tmp_path / "x").read_bytes() == BODY
    assert not events.of(StartedOver)


def test_a_new_version_between_two_answers_does_not_pass_the_digest(tmp_path: Path) -> None:
    new = body(len(BODY), "v2")
    turns = [Turn(body=new, headers={"etag": '"0"'}, cut_after=MIB)]
    fetch(Stored(BODY, script=turns), tmp_path / "x", checksum=f"sha256:{digest(BODY)}")
    assert (tmp_path / "x").read_bytes() == BODY


def test_a_server_that_is_never_well_is_given_up(tmp_path: Path) -> None:
    script = [Turn(status=503, body=b"not now")] * 50
    with pytest.raises(HttpStatusError, match="not now") as caught:
        fetch(Stored(BODY, script=script), tmp_path / "x", chosen=replace(SETTINGS, retries=2))
    assert caught.value.attempts == 3


def test_who_makes_progress_is_not_given_up(tmp_path: Path) -> None:
    script = [Turn(cut_after=300_000)] * 12
    result = fetch(Stored(BODY, script=script), tmp_path / "x", chosen=replace(SETTINGS, retries=1))
    assert (tmp_path / "x").read_bytes() == BODY
    assert result.retries >= 6


def test_a_last_resort_that_breaks_off_each_time_is_given_up(tmp_path: Path) -> None:
    script = [Turn(403), *[Turn(cut_after=100_000)] * 1000]
    with pytest.raises(ConnectionFailedError):
        fetch(
            Stored(BODY, ranges=False, script=script),
            tmp_path / "x",
            chosen=replace(SETTINGS, retries=2, stall_timeout=30),
        )
    assert names_in(tmp_path) == []


def test_a_last_resort_that_falls_silent_each_time_is_given_up(tmp_path: Path) -> None:
    """Ranges are tried beside each answer, and refused, which must not earn it new tries."""
    script = [Turn(403), *[Turn(silent_after=100_000)] * 1000]
    with pytest.raises(StalledError) as caught:
        fetch(
            Stored(BODY, ranges=False, script=script),
            tmp_path / "x",
            chosen=replace(SETTINGS, retries=2),
        )
    assert caught.value.attempts == 3
    assert names_in(tmp_path) == []


def test_a_few_bytes_before_each_silence_are_no_progress(tmp_path: Path) -> None:
    chosen = replace(SETTINGS, stall_timeout=0.1, retries=2, speed_limit=100_000.0)
    stored = Stored(BODY, script=[Turn(silent_after=1000)] * 10_000)
    with pytest.raises(StalledError) as caught:
        fetch(stored, tmp_path / "x", chosen=chosen)
    assert caught.value.attempts == 3


def test_an_object_without_ranges_that_breaks_off_begins_anew(tmp_path: Path) -> None:
    script = [Turn(cut_after=1_000_000), Turn(cut_after=0)]
    fetch(Stored(BODY, ranges=False, script=script), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BODY


def test_wrong_bytes_are_not_published(tmp_path: Path) -> None:
    wrong = Turn(body=bytes(len(BODY)), status=200, headers={"content-range": None})
    with pytest.raises(PgetError, match="checksum mismatch"):
        fetch(Stored(BODY, script=[wrong]), tmp_path / "x", checksum=f"sha256:{digest(BODY)}")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("etag", ['"1"', '"2"', 'W/"1"', None])
def test_an_object_that_shrank_since_an_earlier_run_is_started_over(
    tmp_path: Path, etag: str | None
) -> None:
    """What is asked for first lies behind its end then."""
    dest = tmp_path / "x"
    # Over one connection, so that no other takes over what breaks off.
    given_up = replace(SETTINGS, retries=0, concurrency=1)
    old = f"sha256:{digest(BODY)}"
    script = [Turn(cut_after=MIB + 300_000)]
    with pytest.raises(PgetError):
        fetch(Stored(BODY, script=script), dest, checksum=old, chosen=given_up)
    assert len(names_in(tmp_path)) == 2
    new, events = body(MIB, "v2"), Events()
    fetch(Stored(new, etag), dest, checksum=f"sha256:{digest(new)}", events=events)
    assert dest.read_bytes() == new
    assert events.of(StartedOver)


TURNS = st.one_of(
    st.builds(Turn, cut_after=st.sampled_from([0, 1, 100_000, 3 * MIB])),
    st.builds(Turn, silent_after=st.sampled_from([-1, 0, 200_000])),
    st.builds(Turn, status=st.sampled_from([408, 429, 500, 503, 404])),
    st.just(Turn(headers={"etag": '"2"'})),
    st.just(Turn(headers={"etag": None})),
    st.just(Turn(headers={"content-range": None})),
    st.just(Turn(headers={"content-range": f"bytes 0-99/{len(BODY)}"}, body=BODY[:100])),
    st.just(Turn(headers={"content-range": f"bytes 5-104/{len(BODY)}"}, body=BODY[5:105])),
    st.just(Turn(headers={"content-encoding": "gzip"})),
    st.just(Turn(200, headers={"content-range": None}, body=BODY)),
    st.just(Turn(200, headers={"content-range": None}, body=BODY, cut_after=MIB)),
    st.just(Turn(307, headers={"location": URL})),
    st.just(Turn()),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(TURNS, max_size=5),
    chunk_size=st.sampled_from([MIB, 125_000_000]),
    ranges=st.booleans(),
)
def test_whatever_the_script_the_end_is_the_right_file_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, script: list[Turn], chunk_size: int, ranges: bool
) -> None:
    dest = tmp_path_factory.mktemp("script") / "x"
    events = Events()
    chosen = replace(SETTINGS, chunk_size=chunk_size, stall_timeout=0.1, retries=3)
    try:
        fetch(Stored(BODY, ranges=ranges, script=script), dest, events=events, chosen=chosen)
    except PgetError:
        assert not dest.exists()
    else:
        assert dest.read_bytes() == BODY
        assert names_in(dest.parent) == ["x"]
    events.assert_monotonic()


# ------------------------------------------------------------------------------------ cancellation


class Stuck:
    """A transport whose thread is in the middle of a write when it is cancelled."""

    def __init__(self) -> None:
        self.entered, self.leave, self.left = (threading.Event() for _ in range(3))

    async def carry(self, exchange: Exchange) -> None:
        memory = MemoryTransport({URL: Stored(BODY, script=[Turn(cut_after=MIB)])})
        if exchange.part.start == 0:
            await memory.carry(exchange)
            return
        writing = asyncio.ensure_future(asyncio.to_thread(self._write))
        await wait_uncancelled(writing, lambda: None)

    async def close(self) -> None:
        pass

    def _write(self) -> None:
        self.entered.set()
        self.leave.wait(30)
        self.left.set()


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_transfer_ends_only_when_nobody_writes_any_more(
    tmp_path: Path, times: int
) -> None:
    stuck = Stuck()

    async def scenario() -> None:
        shared = context(stuck, stuck, replace(SETTINGS, stall_timeout=30))
        transfer = Transfer(shared, Job(URL, str(tmp_path / "x")), 0, Events())
        running = asyncio.ensure_future(transfer.run())
        while not stuck.entered.is_set():
            await asyncio.wait({running}, timeout=0.01)
        for _ in range(times):
            running.cancel()
            await asyncio.wait({running}, timeout=0.03)
            assert not running.done()
        stuck.leave.set()
        await asyncio.wait({running})
        assert running.cancelled()
        assert stuck.left.is_set()

    asyncio.run(scenario())
    assert len(names_in(tmp_path)) == 2, "the part file and its journal"
