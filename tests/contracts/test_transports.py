"""What every transport does, over a network or without one."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pgetpy.core.http.answers import Identity, Redirected
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.destinations.sinks.memory import MemorySink
from pgetpy.errors import (
    ConnectionFailedError,
    HttpStatusError,
    ObjectChangedError,
    RangeNotHonouredError,
)

from ..support.bodies import body
from .worlds import (
    Asking,
    PlacingSink,
    RecordingSink,
    World,
    run,
    trouble,
    until,
)

KIB = 1024
MIB = 1 << 20
BODY = body(3 * MIB + 123)
SMALL = body(100_000)
TOTAL = len(BODY)


@pytest.fixture(params=["a sink to write to", "a file with places"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordingSink]:
    if request.param == "a sink to write to":
        yield RecordingSink()
        return
    placing = PlacingSink(tmp_path / "sink")
    yield placing
    placing.close()


def settled(asking: Asking) -> None:
    """Of an exchange that is over all that landed is marked, nothing else, and right."""
    part, kept = asking.part, asking.sink
    assert isinstance(kept, RecordingSink)
    assert list(kept.marked) == ([Span(part.start, part.pos)] if part.pos > part.start else [])


# ------------------------------------------------------------------------------- bytes that land


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (TOTAL - 1, TOTAL),
        (1, 255 * KIB),
        (77, 77 + 257 * KIB),
        (MIB + 1, 3 * MIB),
        (0, TOTAL),
        (None, None),
    ],
)
def test_a_range_lands_where_it_belongs(
    world: World, sink: RecordingSink, start: int | None, stop: int | None
) -> None:
    asking = Asking(world, world.add("/x", BODY), start, stop, sink)
    run(world, asking.carry())
    first, last = start or 0, stop or TOTAL
    assert sink.content(first, last) == BODY[first:last]
    assert (asking.part.start, asking.part.pos, asking.part.stop) == (
        first,
        last,
        last,
    )
    assert len(asking.heads) == 1
    settled(asking)


def test_many_ranges_at_one_time_make_the_whole(world: World, sink: RecordingSink) -> None:
    url = world.add("/x", BODY)
    cuts = [*range(0, TOTAL, 200_003), TOTAL]
    parts = [Asking(world, url, *pair, sink) for pair in pairwise(cuts)]

    async def all_at_once() -> None:
        await asyncio.gather(*(part.carry() for part in parts))

    run(world, all_at_once())
    assert sink.content(0, TOTAL) == BODY
    assert list(sink.marked) == [Span(0, TOTAL)]


def test_one_range_after_another_makes_the_whole(world: World, sink: RecordingSink) -> None:
    url = world.add("/x", BODY)

    async def in_turn() -> None:
        for start in range(0, TOTAL, 600_000):
            await Asking(world, url, start, min(TOTAL, start + 600_000), sink).carry()

    run(world, in_turn())
    assert sink.content(0, TOTAL) == BODY


def test_an_empty_object_is_nothing(world: World) -> None:
    asking = Asking(world, world.add("/x", b""), sink=RecordingSink())
    run(world, asking.carry())
    assert (asking.part.pos, asking.part.stop) == (0, 0)


def test_an_honest_shorter_answer_sets_the_flight_to_what_it_promises(world: World) -> None:
    url = world.add("/x", SMALL, trouble("shorter", 5000))
    asking = Asking(world, url, 1000, 90_000)
    run(world, asking.carry())
    assert (asking.part.pos, asking.part.stop) == (6000, 6000)
    assert isinstance(asking.sink, RecordingSink)
    assert asking.sink.content(1000, 6000) == SMALL[1000:6000]
    settled(asking)


def test_the_whole_object_sets_the_flight_to_its_beginning(world: World) -> None:
    asking = Asking(world, world.add("/x", SMALL, trouble("whole")), 1000, 90_000)
    run(world, asking.carry())
    assert (asking.part.start, asking.part.pos) == (0, len(SMALL))
    assert isinstance(asking.sink, RecordingSink)
    assert asking.sink.content(0, len(SMALL)) == SMALL
    settled(asking)


def test_an_object_lands_in_a_memory_sink(world: World) -> None:
    memory, marked = MemorySink(), Spans()
    memory.mark = marked.add  # type: ignore[method-assign]
    run(world, Asking(world, world.add("/x", BODY), 0, TOTAL, memory).carry())
    assert memory.data == BODY
    assert list(marked) == [Span(0, TOTAL)]


# --------------------------------------------------------------------------------- the judge first


@pytest.mark.parametrize("size", [SMALL, BODY], ids=["small", "large"])
def test_the_head_is_judged_before_a_byte_is_kept(
    world: World, sink: RecordingSink, size: bytes
) -> None:
    asking = Asking(world, world.add("/x", size), 0, len(size), sink)
    sink.on_write = lambda pos, data: judged()
    sink.on_mark = lambda start, stop: judged()

    def judged() -> None:
        assert len(asking.heads) == 1

    run(world, asking.carry())
    assert asking.heads[0].headers["content-range"] == f"bytes 0-{len(size) - 1}/{len(size)}"


@pytest.mark.parametrize(
    ("kind", "args", "expected"),
    [
        ("another range", (), RangeNotHonouredError),
        ("another version", ('"v2"',), ObjectChangedError),
        ("redirected", ("/elsewhere",), Redirected),
        ("refused", (404, "no such thing", None), HttpStatusError),
    ],
)
@pytest.mark.parametrize("content", [SMALL, BODY], ids=["small", "large"])
def test_nothing_is_kept_of_an_answer_that_is_not_believed(
    world: World,
    sink: RecordingSink,
    content: bytes,
    kind: str,
    args: tuple[object, ...],
    expected: type[Exception],
) -> None:
    url = world.add("/x", content, trouble(kind, *args))
    known = Identity(len(content), '"v1"')
    refused = Asking(world, url, 1000, 90_000, sink, known=known)
    again = Asking(world, url, 1000, 90_000, sink, known=known)

    async def scenario() -> None:
        with pytest.raises(expected):
            await refused.carry()
        assert not sink.written
        assert not sink.marked
        assert refused.part.pos == 1000
        await again.carry()

    run(world, scenario())
    assert sink.content(1000, 90_000) == content[1000:90_000]


def test_what_the_server_says_with_an_error_is_told(world: World) -> None:
    url = world.add("/x", SMALL, trouble("refused", 503, "back in a moment", 7))
    with pytest.raises(HttpStatusError) as caught:
        run(world, Asking(world, url, 0, 1000).carry())
    assert caught.value.status == 503
    assert "back in a moment" in caught.value.words
    assert caught.value.retry_after == 7


def test_a_redirect_is_handed_on_as_it_was_sent(world: World) -> None:
    url = world.add("/x", SMALL, trouble("redirected", "../y?z=%20"))
    with pytest.raises(Redirected) as caught:
        run(world, Asking(world, url, 0, 1000).carry())
    assert (caught.value.head.status, caught.value.location) == (307, "../y?z=%20")


def test_what_is_not_there_is_a_status(world: World) -> None:
    url = world.add("/x", SMALL)
    with pytest.raises(HttpStatusError) as caught:
        run(world, Asking(world, url + "-not", 0, 1000).carry())
    assert caught.value.status == 404


# ----------------------------------------------------------------------------- answers that break


@pytest.mark.parametrize("kind", ["broken off", "ended"])
@pytest.mark.parametrize("landed", [0, 1, 50_000, 2 * MIB])
def test_a_body_that_breaks_off_is_an_error_and_what_came_of_it_is_right(
    world: World, sink: RecordingSink, kind: str, landed: int
) -> None:
    asking = Asking(world, world.add("/x", BODY, trouble(kind, landed)), 0, TOTAL, sink)
    with pytest.raises(ConnectionFailedError):
        run(world, asking.carry())
    # A client with a buffer of its own may lose what was in it.
    assert landed - MIB <= asking.part.pos <= landed
    assert sink.content(0, asking.part.pos) == BODY[: asking.part.pos]
    settled(asking)


@pytest.mark.parametrize("kind", ["broken off", "ended"])
def test_a_small_body_that_breaks_off_is_an_error(world: World, kind: str) -> None:
    asking = Asking(world, world.add("/x", SMALL, trouble(kind, 60_000)), 0, len(SMALL))
    with pytest.raises(ConnectionFailedError):
        run(world, asking.carry())
    assert asking.part.pos <= 60_000
    settled(asking)


def test_a_broken_connection_is_not_used_again(world: World) -> None:
    url = world.add("/x", BODY, trouble("broken off", 1000), trouble("ended", 1000))

    async def scenario() -> Asking:
        for _ in range(2):
            with pytest.raises(ConnectionFailedError):
                await Asking(world, url, 0, TOTAL).carry()
        return await Asking(world, url, 0, TOTAL).carry()

    asking = run(world, scenario())
    assert isinstance(asking.sink, RecordingSink)
    assert asking.sink.data == BODY


# ----------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("content", [SMALL, BODY], ids=["small", "large"])
@pytest.mark.parametrize("landed", [None, 0, 60_000])
def test_a_silent_connection_waits_for_the_network_until_it_is_cancelled(
    world: World, sink: RecordingSink, content: bytes, landed: int | None
) -> None:
    silent = trouble("silent before the head") if landed is None else trouble("silent", landed)
    asking = Asking(world, world.add("/x", content, silent), 0, len(content), sink)

    async def scenario() -> None:
        carrying = asyncio.ensure_future(asking.carry())
        if landed is not None:
            await until(lambda: asking.heads)
        await asyncio.wait({carrying}, timeout=0.05)
        await until(lambda: asking.part.waiting)
        assert not carrying.done()
        carrying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carrying

    run(world, scenario())
    assert asking.part.pos <= (landed or 0)
    assert sink.content(0, asking.part.pos) == content[: asking.part.pos]
    settled(asking)


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_call_ends_only_when_it_writes_no_more(
    world: World, sink: RecordingSink, times: int
) -> None:
    """However often it is cancelled: the sink may be closed as soon as it has ended."""
    asking = Asking(world, world.add("/x", BODY), 0, TOTAL, sink)
    entered, leave = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        entered.set()
        assert leave.wait(30)

    # Bytes that the kernel moves are seen when they are marked only.
    sink.on_mark = slow

    async def scenario() -> int:
        carrying = asyncio.ensure_future(asking.carry())
        await until(entered.is_set)
        for _ in range(times):
            carrying.cancel()
            await asyncio.wait({carrying}, timeout=0.03)
            assert not carrying.done(), "it ended while the sink was still at work"
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await carrying
        sink.on_mark = sink.on_write = lambda *_: late.append(1)
        return asking.part.pos

    late: list[int] = []
    before = run(world, scenario())
    assert asking.part.pos == before < TOTAL
    assert not late
    assert sink.content(0, before) == BODY[:before]
    settled(asking)


def test_after_a_cancelled_call_the_transport_goes_on(world: World) -> None:
    url = world.add("/x", BODY, trouble("silent", 500_000))

    async def scenario() -> Asking:
        silent = Asking(world, url, 0, TOTAL)
        carrying = asyncio.ensure_future(silent.carry())
        await until(lambda: silent.heads)
        carrying.cancel()
        await asyncio.wait({carrying})
        return await Asking(world, url, 0, TOTAL).carry()

    asking = run(world, scenario())
    assert isinstance(asking.sink, RecordingSink)
    assert asking.sink.data == BODY


# ------------------------------------------------------------------------------ a part cut short


def test_a_flight_that_is_cut_short_ends_there_and_leaves_no_bytes_to_others(
    world: World, sink: RecordingSink
) -> None:
    url = world.add("/x", BODY)
    cut = 2 * MIB + 17
    asking = Asking(world, url, 0, TOTAL, sink)

    def shorten(*_: object) -> None:
        asking.part.stop = cut

    sink.on_mark = shorten
    following = [Asking(world, url, at, at + 100_000) for at in (0, 300_000, 600_000)]

    async def scenario() -> None:
        await asking.carry()
        for one in following:
            await one.carry()

    run(world, scenario())
    assert asking.part.pos == cut
    assert sink.content(0, cut) == BODY[:cut]
    assert list(sink.marked) == [Span(0, cut)]
    for one in following:
        assert isinstance(one.sink, RecordingSink)
        assert one.sink.content(one.part.start, one.part.pos) == BODY[one.part.start : one.part.pos]


def test_a_flight_cut_short_behind_its_position_ends_at_once(world: World) -> None:
    asking = Asking(world, world.add("/x", BODY, trouble("silent", 2 * MIB)), 0, TOTAL)
    assert isinstance(asking.sink, RecordingSink)

    def shorten(*_: object) -> None:
        asking.part.stop = 1

    asking.sink.on_mark = shorten
    run(world, asking.carry())
    assert asking.part.pos >= 1
    assert asking.sink.content(0, asking.part.pos) == BODY[: asking.part.pos]
    settled(asking)


# ------------------------------------------------------------------------------- a sink that fails


@pytest.mark.parametrize("content", [SMALL, BODY], ids=["small", "large"])
def test_what_the_sink_raises_is_not_taken_for_the_networks(world: World, content: bytes) -> None:
    asking = Asking(world, world.add("/x", content), 0, len(content))
    assert isinstance(asking.sink, RecordingSink)

    def full(pos: int, data: memoryview) -> None:
        if pos + len(data) > 80_000:
            raise OSError(errno.ENOSPC, "full")

    asking.sink.on_write = full
    with pytest.raises(OSError, match="full") as caught:
        run(world, asking.carry())
    assert caught.type is OSError
    assert caught.value.errno == errno.ENOSPC
    assert list(asking.sink.written) in ([], [Span(0, asking.part.pos)])
    settled(asking)


def test_a_failed_place_is_not_taken_for_the_networks(world: World, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        placing = PlacingSink(tmp_path / "sink")
        own, placing.fd = placing.fd, full.fileno()
        asking = Asking(world, world.add("/x", BODY), 0, TOTAL, placing)
        try:
            with pytest.raises(OSError, match="No space left") as caught:
                run(world, asking.carry())
        finally:
            placing.fd = own
            placing.close()
    assert caught.value.errno == errno.ENOSPC
    assert asking.part.pos == 0
    settled(asking)


def test_a_callback_that_fails_is_not_swallowed(world: World) -> None:
    asking = Asking(world, world.add("/x", BODY), 0, TOTAL)
    assert isinstance(asking.sink, RecordingSink)

    def bug(*_: object) -> None:
        raise ZeroDivisionError

    asking.sink.on_mark = bug
    with pytest.raises(ZeroDivisionError):
        run(world, asking.carry())


# ------------------------------------------------------------------------------------- the throttle


@pytest.mark.parametrize("content", [SMALL, BODY], ids=["small", "large"])
def test_every_byte_passes_the_throttle_and_a_pause_is_no_silence(
    world: World, sink: RecordingSink, content: bytes
) -> None:
    taken: list[int] = []
    loop_thread = threading.get_ident()

    def throttle(count: int) -> float:
        assert threading.get_ident() != loop_thread, "a pause would stop the loop"
        taken.append(count)
        return 0.002

    asking = Asking(world, world.add("/x", content), 0, len(content), sink, throttle=throttle)
    run(world, asking.carry())
    assert sum(taken) == len(content)
    assert max(taken) <= 128 * KIB
    assert sink.content(0, len(content)) == content


def test_a_throttled_call_is_cancelled_at_once(world: World, sink: RecordingSink) -> None:
    url = world.add("/x", BODY)
    paused = threading.Event()

    def throttle(count: int) -> float:
        paused.set()
        return 3600.0

    asking = Asking(world, url, 0, TOTAL, sink, throttle=throttle)

    async def scenario() -> None:
        carrying = asyncio.ensure_future(asking.carry())
        await until(paused.is_set)
        assert not asking.part.waiting
        carrying.cancel()
        await asyncio.wait({carrying}, timeout=30)
        assert carrying.cancelled()

    run(world, scenario())
    settled(asking)
