"""What every sink does: bytes in any order make the object; and what each of them adds to that."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import resource
import signal
import stat
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgetpy.core.destinations.journal import Subject, parse_journal
from pgetpy.core.destinations.names import journal_path
from pgetpy.core.http.answers import Identity
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.sinks.file import FileSink
from pgetpy.destinations.sinks.ledger import Ledger
from pgetpy.destinations.sinks.memory import MemorySink
from pgetpy.destinations.sinks.null import NullSink
from pgetpy.destinations.sinks.ordered import OrderedSink
from pgetpy.destinations.sinks.parts import PartsSink
from pgetpy.errors import DestinationError, DiskFullError
from pgetpy.system.file_locks import boot_id, locks_exclude
from pgetpy.system.filesystem import disk_error

from ..support.bodies import body, digest
from ..support.waiting import eventually

KIB = 1024
MIB = 1 << 20
BODY = body(700_001)
TOTAL = len(BODY)
Write = tuple[int, int]


class Reader(threading.Thread):
    """Reads a pipe to its end, as somebody behind standard output does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.read_end, self.write_end = os.pipe()
        self.data = bytearray()
        self.may_read = threading.Event()
        self.may_read.set()

    def run(self) -> None:
        while self.may_read.wait(30) and (piece := os.read(self.read_end, 65536)):
            self.data += piece

    def finish(self) -> bytes:
        """End the writing side; what was read in all."""
        self.may_read.set()
        os.close(self.write_end)
        self.join(30)
        os.close(self.read_end)
        return bytes(self.data)


@dataclass
class Bench:
    """A sink, and `finish`, which gives what is at its other end when all has been written."""

    sink: Any
    finish: Callable[[], bytes]
    keeps: bool = True


def subject(total: int | None = TOTAL, etag: str = '"v1"') -> Subject:
    return Subject("key", Identity(total, etag), boot_id())


def ledger_of(dest: Path) -> Ledger:
    ledger = Ledger(dest)
    assert ledger.acquire()
    return ledger


def file_bench(folder: Path, *, with_ledger: bool, total: int) -> Bench:
    dest = folder / "model.bin"
    sink = FileSink(dest, ledger_of(dest) if with_ledger else None)
    sink.begin(subject(total), Spans())

    def finish() -> bytes:
        sink.publish(total)
        return dest.read_bytes()

    return Bench(sink, finish)


def pipe_bench() -> Bench:
    reader = Reader()
    reader.start()
    return Bench(OrderedSink(reader.write_end), reader.finish)


def stream_file_bench(folder: Path) -> Bench:
    fd = os.open(folder / "stream", os.O_RDWR | os.O_CREAT)

    def finish() -> bytes:
        os.close(fd)
        return (folder / "stream").read_bytes()

    return Bench(OrderedSink(fd), finish)


def memory_bench() -> Bench:
    sink = MemorySink()
    return Bench(sink, lambda: bytes(sink.data))


def parts_bench(total: int) -> Bench:
    sink = PartsSink(1, lambda _, size, landed: ((Span(0, size),), bool(landed)))
    sink.begin(total)

    def finish() -> bytes:
        data = os.pread(sink.fd, total + 1, 0)
        sink.close()
        return data

    return Bench(sink, finish)


KINDS = ["file with ledger", "file", "ordered into a pipe", "ordered into a file"]
KINDS += ["memory", "parts", "null"]


def bench_of(kind: str, folder: Path, total: int = TOTAL) -> Bench:
    if kind.startswith("file"):
        return file_bench(folder, with_ledger="ledger" in kind, total=total)
    if kind == "ordered into a pipe":
        return pipe_bench()
    if kind == "ordered into a file":
        return stream_file_bench(folder)
    if kind == "memory":
        return memory_bench()
    if kind == "parts":
        return parts_bench(total)
    return Bench(NullSink(), lambda: b"", keeps=False)


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return bench_of(request.param, tmp_path)


def put(sink: Sink, data: bytes, start: int, stop: int) -> None:
    sink.write(start, memoryview(data)[start:stop])
    sink.mark(start, stop)


def pieces(total: int, size: int) -> list[Write]:
    return [(at, min(total, at + size)) for at in range(0, total, size)]


def shuffled(writes: list[Write], seed: int = 1) -> list[Write]:
    return random.Random(seed).sample(writes, len(writes))


# --------------------------------------------------------------------------------------- them all


@pytest.mark.parametrize("order", [sorted, shuffled, lambda w: sorted(w, reverse=True)])
def test_any_order_of_writes_gives_the_object(
    bench: Bench, order: Callable[[list[Write]], list[Write]]
) -> None:
    for start, stop in order(pieces(TOTAL, 30_011)):
        put(bench.sink, BODY, start, stop)
    assert bench.finish() == (BODY if bench.keeps else b"")


def test_bytes_that_come_twice_change_nothing(bench: Bench) -> None:
    writes = shuffled(pieces(TOTAL, 30_011) + pieces(TOTAL, 44_044) + pieces(TOTAL, 30_011))
    for start, stop in writes:
        put(bench.sink, BODY, start, stop)
    assert bench.finish() == (BODY if bench.keeps else b"")


def test_threads_write_side_by_side(bench: Bench) -> None:
    writes = shuffled(pieces(TOTAL, 7_001))
    failures: list[BaseException] = []

    def work(mine: list[Write]) -> None:
        try:
            for start, stop in mine:
                put(bench.sink, BODY, start, stop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(writes[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert bench.finish() == (BODY if bench.keeps else b"")


def test_an_empty_object_is_an_empty_object(tmp_path: Path) -> None:
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        assert bench_of(kind, folder, total=0).finish() == b""


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, 4999), max_size=12),
    again=st.lists(st.tuples(st.integers(0, 4999), st.integers(1, 3000)), max_size=6),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("kind", ["file", "ordered into a file", "memory", "parts"])
def test_however_an_object_is_cut_and_mixed_it_comes_together(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    again: list[tuple[int, int]],
    seed: int,
) -> None:
    content = BODY[:5000]
    edges = sorted({0, 5000, *cuts})
    writes = list(pairwise(edges))
    writes += [(start, min(5000, start + size)) for start, size in again]
    bench = bench_of(kind, tmp_path_factory.mktemp("mixed"), total=5000)
    for start, stop in shuffled(writes, seed):
        put(bench.sink, content, start, stop)
    assert bench.finish() == content


def test_a_place_and_a_write_agree(bench: Bench) -> None:
    """Half of the object goes where the sink says, half through the sink itself."""
    for number, (start, stop) in enumerate(pieces(TOTAL, 50_000)):
        pos = start
        place = bench.sink.place(pos) if number % 2 else None
        while place is not None and pos < stop:
            size = min(place.room, stop - pos)
            pos += os.pwrite(place.fd, BODY[pos : pos + size], place.offset)
            place = bench.sink.place(pos)
        put(bench.sink, BODY, pos, stop)
    assert bench.finish() == (BODY if bench.keeps else b"")


# ---------------------------------------------------------------------------------- ordered sinks


def test_what_is_ahead_waits_and_what_is_due_goes_on() -> None:
    bench = pipe_bench()
    put(bench.sink, BODY, 100, 200)
    put(bench.sink, BODY, 300, 400)
    assert bench.sink.front == 0
    put(bench.sink, BODY, 0, 100)
    assert bench.sink.front == 200
    put(bench.sink, BODY, 150, 320)
    assert bench.sink.front == 400
    assert bench.finish() == BODY[:400]


def test_who_keeps_to_the_window_holds_no_more_than_that_in_memory() -> None:
    content = memoryview(body(3 * MIB))
    window = MIB
    fd = os.open(os.devnull, os.O_WRONLY)
    sink = OrderedSink(fd, window=window)
    generator = random.Random(7)
    todo = pieces(len(content), 29_973)
    tracemalloc.start()
    try:
        while todo:
            allowed = [write for write in todo if write[1] <= sink.front + window]
            start, stop = generator.choice(allowed)
            todo.remove((start, stop))
            # The same bytes a second time, cut otherwise: what a second connection brings.
            for at in (start, start + 10_000, start):
                sink.write(at, content[at:stop])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        os.close(fd)
    assert sink.front == len(content)
    assert peak <= window * 1.2


def test_a_plan_keeps_to_the_window_of_its_sink() -> None:
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=Window(8 * MIB))
    plan.total = 512 * MIB
    out = 0
    while (part := plan.take(0.0, 20e6, 4)) is not None:
        out += 1
        assert part.stop is not None
        assert part.stop <= 8 * MIB
    assert out
    assert plan.front == 0


def test_a_plan_asks_for_the_horizon_before_what_lies_far_behind_it() -> None:
    window = Window(8 * MIB, horizon=500 * MIB)
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=window)
    plan.total = 512 * MIB
    at_horizon = plan.take(0.0, 20e6, 4)
    behind = plan.take(0.0, 20e6, 4)
    assert at_horizon is not None
    assert behind is not None
    assert (at_horizon.start, behind.start) == (500 * MIB, 0)


def test_what_comes_in_order_gets_its_share_of_the_connections() -> None:
    """Half of the object lies behind the horizon: its connections are done no later than others."""
    window = Window(8 * MIB, horizon=256 * MIB)
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=window)
    plan.total = 512 * MIB
    parts = [plan.take(0.0, 20e6, 8) for _ in range(8)]
    ahead = [part for part in parts if part is not None and part.start >= window.horizon]
    assert len(ahead) == 4


def test_a_window_that_has_moved_on_by_little_is_not_asked_for_in_small_pieces() -> None:
    window = Window(16 * MIB)
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=window)
    plan.total = 512 * MIB
    while plan.take(0.0, 20e6, 16) is not None:
        pass
    window.horizon = 100_000
    assert plan.take(0.0, 20e6, 16) is None
    window.horizon = 2 * MIB
    part = plan.take(0.0, 20e6, 16)
    assert part is not None
    assert part.start == 16 * MIB
    assert part.rest >= MIB


def test_a_plan_fetches_what_is_left_shortly_before_the_horizon_on_the_way_to_it() -> None:
    window = Window(8 * MIB, horizon=MIB + 2000)
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=window, held=Spans([Span(0, MIB)]))
    plan.total = 512 * MIB
    part = plan.take(0.0, 0.0, 1)
    assert part is not None
    assert part.start == MIB
    assert part.stop is not None
    assert part.stop > MIB + 2000


def test_a_plan_whose_horizon_is_closed_still_fetches_what_lies_before_it() -> None:
    window = Window(0, horizon=100 * MIB)
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=window, held=Spans([Span(0, 99 * MIB)]))
    plan.total = 512 * MIB
    part = plan.take(0.0, 0.0, 1)
    assert part is not None
    assert (part.start, part.stop) == (99 * MIB, 100 * MIB)
    assert plan.take(0.0, 0.0, 1) is None


def plan_of_two_files(window: Window) -> Plan:
    """A plan whose one request so far is within the first of two files."""
    plan = Plan(chunk_size=128 * MIB, first=MIB, window=window)
    plan.total = 512 * MIB
    part = plan.take(0.0, 1e9, 1)
    assert part is not None
    assert part.start == 0
    return plan


def test_a_second_connection_writes_to_another_file() -> None:
    first, second = Span(0, 300 * MIB), Span(300 * MIB, 512 * MIB)
    plan = plan_of_two_files(Window(8 * MIB, horizon=1 << 63, files=(first, second)))
    assert plan.fewest == 2
    beside = plan.take(0.0, 1e9, 2)
    assert beside is not None
    assert beside.start == second.start
    third = plan.take(0.0, 1e9, 3)
    assert third is not None
    assert third.start == plan.parts[0].stop


def test_a_second_connection_goes_to_headers_that_are_far_ahead() -> None:
    window = Window(8 * MIB, horizon=300 * MIB, files=(Span(0, 300 * MIB),))
    plan = Plan(chunk_size=128 * MIB, first=MIB, window=window)
    plan.total = 512 * MIB
    assert plan.fewest == 2
    plan.held.add(0, 299 * MIB)
    assert plan.fewest == 1


@pytest.mark.parametrize("left", [Span(0, 300 * MIB), Span(460 * MIB, 512 * MIB)])
def test_one_connection_is_enough_for_a_single_file(left: Span) -> None:
    files = Span(0, 300 * MIB), Span(300 * MIB, 512 * MIB)
    plan = plan_of_two_files(Window(8 * MIB, horizon=1 << 63, files=files))
    plan.held = Spans(Spans([left]).missing(0, 512 * MIB))
    plan.parts.clear()
    assert plan.fewest == 1


def test_the_rest_of_a_window_is_fetched_with_the_headers_behind_it() -> None:
    horizon = 400 * MIB + 2000
    held = Spans([Span(300 * MIB, 400 * MIB)])
    plan = Plan(chunk_size=64 * MIB, first=MIB, window=Window(8 * MIB, horizon), held=held)
    plan.total = 512 * MIB
    part = plan.take(0.0, 1e9, 1)
    assert part is not None
    assert part.start == 400 * MIB


def taken(plan: Plan) -> list[tuple[int, int | None]]:
    """Where the parts lie that a plan gives to idle connections, which then bring everything."""
    found = []
    while (part := plan.take(0.0, 0.0, 2)) is not None:
        assert part.stop is not None
        found.append((part.start, part.stop))
        part.pos = part.stop
        plan.end(part)
    return found


def test_a_plan_whose_window_is_closed_asks_for_nothing_but_what_is_wanted() -> None:
    wanted = (Span(5, 9), Span(90 * MIB, 91 * MIB), Span(500 * MIB, 500 * MIB))
    window = Window(0, only=(Span(0, 4),), closed=True)
    plan = Plan(chunk_size=64 * MIB, first=4, window=window)
    plan.total = 512 * MIB
    assert not plan.complete
    assert taken(plan) == [(0, 4)]
    assert plan.complete
    window.only = wanted
    assert not plan.complete
    assert taken(plan) == [(5, 9), (90 * MIB, 91 * MIB)]
    assert plan.complete
    window.only = ()
    assert plan.complete
    assert taken(plan) == []


def test_a_plan_whose_window_is_not_closed_goes_on_with_the_rest() -> None:
    window = Window(8 * MIB, only=(Span(0, 4),))
    plan = Plan(chunk_size=64 * MIB, first=4, window=window)
    plan.total = 6 * MIB
    assert taken(plan) == [(0, 4)]
    assert not plan.complete
    window.only = ()
    assert sum((stop or 0) - start for start, stop in taken(plan)) == 6 * MIB - 4
    assert plan.complete


def test_parts_are_chosen_by_the_first_of_them_and_asked_for_once_they_are() -> None:
    asked: list[int] = []

    def choose(fd: int, size: int, landed: Spans) -> tuple[tuple[Span, ...], bool]:
        asked.append(landed.size)
        assert size == TOTAL
        if not landed.covers(0, 1000):
            return (Span(0, 1000),), False
        assert os.pread(fd, 1000, 0) == BODY[:1000]
        return (Span(5000, 6000),), True

    sink = PartsSink(100, choose)
    assert sink.window.only == (Span(0, 100),)
    sink.begin(TOTAL)
    put(sink, BODY, 0, 100)
    assert sink.window.only == (Span(0, 1000),)
    put(sink, BODY, 100, 1000)
    put(sink, BODY, 5000, 6000)
    assert (sink.window.only, asked) == ((Span(5000, 6000),), [100, 1000])
    kept = os.dup(sink.fd)
    sink.close()
    assert os.pread(kept, 1000, 5000) == BODY[5000:6000]
    assert os.fstat(kept).st_size == TOTAL
    os.close(kept)


def test_a_reader_who_goes_away_is_an_error() -> None:
    reader = Reader()
    sink = OrderedSink(reader.write_end)
    os.close(reader.read_end)
    with pytest.raises(BrokenPipeError):
        sink.write(0, memoryview(BODY))
    os.close(reader.write_end)


def test_a_reader_who_sleeps_holds_the_writer_until_he_is_stopped() -> None:
    reader = Reader()
    sink = OrderedSink(reader.write_end)
    writing = threading.Thread(target=sink.write, args=(0, memoryview(BODY)), daemon=True)
    writing.start()
    eventually(lambda: sink.front)
    writing.join(0.1)
    assert writing.is_alive(), "a pipe holds less than this"
    sink.stop()
    writing.join(30)
    assert not writing.is_alive()
    assert 0 < sink.front < TOTAL
    reader.start()
    assert reader.finish() == BODY[: sink.front]


def test_a_digest_sees_exactly_what_goes_out() -> None:
    reader = Reader()
    reader.start()
    hashed = hashlib.sha256()
    sink = OrderedSink(reader.write_end, digest=hashed)
    for start, stop in shuffled(pieces(TOTAL, 10_007) + pieces(TOTAL, 13_001)):
        sink.write(start, memoryview(BODY)[start:stop])
    assert reader.finish() == BODY
    assert hashed.hexdigest() == digest(BODY)


def test_a_descriptor_that_does_not_block_is_waited_for() -> None:
    reader = Reader()
    flags = fcntl.fcntl(reader.write_end, fcntl.F_GETFL)
    fcntl.fcntl(reader.write_end, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    sink = OrderedSink(reader.write_end)
    writing = threading.Thread(target=sink.write, args=(0, memoryview(BODY)), daemon=True)
    writing.start()
    reader.start()
    writing.join(30)
    assert reader.finish() == BODY


# --------------------------------------------------------------------------------- sinks that fail


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond `size`, as if the disk were full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", ["file with ledger", "file", "ordered into a file"])
def test_a_write_that_fails_is_an_error_and_what_was_written_before_is_right(
    kind: str, tmp_path: Path
) -> None:
    bench = bench_of(kind, tmp_path)
    with file_size_limit(300_000):
        put(bench.sink, BODY, 0, 250_000)
        with pytest.raises(OSError, match="large") as caught:
            bench.sink.write(250_000, memoryview(BODY)[250_000:])
    assert caught.value.errno == errno.EFBIG
    put(bench.sink, BODY, 250_000, TOTAL)
    assert bench.finish()[:250_000] == BODY[:250_000]


def test_a_full_disk_is_called_by_its_name(tmp_path: Path) -> None:
    full = disk_error(OSError(errno.ENOSPC, "x"), tmp_path / "a")
    assert isinstance(full, DiskFullError)
    assert full.free > 0
    quota = disk_error(OSError(errno.EDQUOT, "x"), tmp_path / "a")
    assert isinstance(quota, DiskFullError)
    other = disk_error(OSError(errno.EIO, "x"), tmp_path / "a")
    assert isinstance(other, DestinationError)
    assert other.errno == errno.EIO


def test_a_journal_that_cannot_be_written_stops_and_stays_true(tmp_path: Path) -> None:
    """The bytes of the object still land; the next run knows of fewer of them."""
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, 100_000)
    size = journal_path(dest).stat().st_size
    with file_size_limit(size + 10):
        sink.mark(100_000, 200_000)
    sink.mark(200_000, 300_000)
    sink.keep()
    journal = parse_journal(journal_path(dest).read_bytes())
    assert list(journal.written) == [Span(0, 100_000)]


def test_after_a_torn_line_a_journal_is_gone_on_with(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    for start in (0, 100, 200):
        sink = FileSink(dest, ledger_of(dest))
        held = sink.load_held()
        assert held == Spans([Span(0, start)])
        sink.begin(subject(), held)
        put(sink, BODY, start, start + 100)
        sink.keep()
        with open(journal_path(dest), "ab") as journal:
            journal.write(b"w 5000 6")


def test_a_part_file_that_another_run_begins_anew_at_the_same_time_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines that share a folder need not see the locks of one another."""
    dest = tmp_path / "model.bin"
    first = FileSink(dest, ledger_of(dest))
    first.begin(subject(), Spans())
    put(first, BODY, 0, 1000)
    first.keep()
    unlink = os.unlink

    def other_is_faster(path: str) -> None:
        unlink(path)
        Path(path).write_bytes(b"another run's")

    sink = FileSink(dest, ledger_of(dest))
    monkeypatch.setattr("pgetpy.destinations.sinks.file.os.unlink", other_is_faster)
    with pytest.raises(DestinationError, match="taken by another run; run it again"):
        sink.begin(subject(etag='"v2"'), Spans())
    assert Path(sink.part).read_bytes() == b"another run's"


# ------------------------------------------------------------------------------------- file sinks


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[True, False], ids=["with ledger", "without"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileSink]:
    dest = tmp_path / "model.bin"
    made = FileSink(dest, ledger_of(dest) if request.param else None)
    yield made
    with suppress(OSError):
        made.keep()


def test_nothing_stands_at_the_destination_before_it_is_published(
    sink: FileSink, tmp_path: Path
) -> None:
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, TOTAL)
    assert not Path(sink.dest).exists()
    sink.publish(TOTAL)
    assert names(tmp_path) == ["model.bin"]
    assert Path(sink.dest).read_bytes() == BODY


def test_a_published_file_has_the_mode_of_a_plain_new_file(sink: FileSink) -> None:
    umask = os.umask(0o027)
    try:
        with open(Path(sink.dest).with_name("plain"), "wb"):
            pass
        other = FileSink(Path(sink.dest).with_name("other"), None)
        other.begin(subject(0), Spans())
        other.publish(0)
    finally:
        os.umask(umask)
    plain, published = (Path(sink.dest).with_name(n).stat().st_mode for n in ("plain", "other"))
    assert stat.S_IMODE(published) == stat.S_IMODE(plain) == 0o640


@pytest.mark.parametrize("fsync", [False, True])
def test_a_published_file_takes_the_place_of_what_stood_there(
    sink: FileSink, tmp_path: Path, fsync: bool
) -> None:
    Path(sink.dest).write_bytes(b"old")
    with open(Path(sink.dest), "rb") as reader:
        sink.begin(subject(), Spans())
        put(sink, BODY, 0, TOTAL)
        sink.publish(TOTAL, fsync=fsync)
        assert reader.read() == b"old", "who has it open keeps what he has"
    assert Path(sink.dest).read_bytes() == BODY
    assert names(tmp_path) == ["model.bin"]


def test_a_file_of_another_size_is_not_published(sink: FileSink, tmp_path: Path) -> None:
    sink.begin(subject(None), Spans())
    put(sink, BODY, 0, 1000)
    with pytest.raises(DestinationError, match="1000 bytes instead of 2000"):
        sink.publish(2000)
    assert not (tmp_path / "model.bin").exists()


def test_a_file_that_cannot_be_published_leaves_the_part(sink: FileSink, tmp_path: Path) -> None:
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, TOTAL)
    Path(sink.dest).mkdir()
    with pytest.raises(OSError, match="directory"):
        sink.publish(TOTAL)
    assert Path(sink.part).read_bytes() == BODY
    assert Path(sink.dest).is_dir()


def test_what_is_discarded_leaves_nothing(sink: FileSink, tmp_path: Path) -> None:
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, 1000)
    sink.discard()
    assert names(tmp_path) == []


def test_what_is_kept_is_what_the_next_run_can_use(sink: FileSink, tmp_path: Path) -> None:
    has_ledger = sink.ledger is not None
    sink.begin(subject(), Spans())
    put(sink, BODY, 1000, 5000)
    sink.keep()
    if not has_ledger:
        assert names(tmp_path) == []
        return
    assert len(names(tmp_path)) == 2
    assert not Path(sink.dest).exists()
    again = FileSink(sink.dest, ledger_of(Path(sink.dest)))
    assert again.load_held() == Spans([Span(1000, 5000)])
    again.begin(subject(), again.load_held())
    put(again, BODY, 0, 1000)
    put(again, BODY, 5000, TOTAL)
    again.publish(TOTAL)
    assert Path(sink.dest).read_bytes() == BODY
    assert names(tmp_path) == ["model.bin"]


def test_what_cannot_be_gone_on_with_is_not_kept(sink: FileSink, tmp_path: Path) -> None:
    sink.begin(subject(), Spans(), resumable=False)
    put(sink, BODY, 0, 1000)
    sink.keep()
    assert names(tmp_path) == []


def test_files_without_a_ledger_stand_side_by_side(tmp_path: Path) -> None:
    sinks = [FileSink(tmp_path / "x", None) for _ in range(3)]
    for number, one in enumerate(sinks):
        one.begin(subject(10), Spans())
        put(one, bytes([number]) * 10, 0, 10)
    assert len(names(tmp_path)) == 3
    for one in sinks:
        one.publish(10)
    assert (tmp_path / "x").read_bytes() == bytes([2]) * 10
    assert names(tmp_path) == ["x"]


def test_too_little_room_is_an_error_before_a_byte_is_written(sink: FileSink) -> None:
    with pytest.raises(DiskFullError) as caught:
        sink.begin(subject(1 << 60), Spans())
    assert caught.value.needed == 1 << 60
    assert os.fstat(sink.fd).st_size == 0


def test_the_room_that_shall_stay_is_left(sink: FileSink) -> None:
    with pytest.raises(DiskFullError, match="to stay free"):
        sink.begin(subject(1000), Spans(), min_free=1 << 60)


def test_the_longest_name_there_is_can_be_written(tmp_path: Path) -> None:
    dest = tmp_path / ("ä" * 127)
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(3), Spans())
    put(sink, b"abc", 0, 3)
    sink.publish(3)
    assert dest.read_bytes() == b"abc"
    assert len(names(tmp_path)) == 1


# ----------------------------------------------------------------------------------- its journal


def test_the_journal_says_what_was_marked_and_nothing_else(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(), Spans())
    sink.write(0, memoryview(BODY)[:5000])
    put(sink, BODY, 10_000, 20_000)
    put(sink, BODY, 20_000, 30_000)
    journal = parse_journal(journal_path(dest).read_bytes())
    assert journal.subject == subject()
    assert list(journal.written) == [Span(10_000, 30_000)]
    assert list(journal.flushed) == []
    sink.flush()
    journal = parse_journal(journal_path(dest).read_bytes())
    assert list(journal.flushed) == [Span(10_000, 30_000)]
    sink.discard()


def test_a_system_without_fdatasync_flushes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync", raising=False)
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, 1000)
    sink.flush()
    sink.keep()
    assert list(parse_journal(journal_path(dest).read_bytes()).flushed) == [Span(0, 1000)]


def test_bytes_that_a_short_part_file_lacks_are_not_trusted(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, 1000)
    put(sink, BODY, 5000, 9000)
    sink.keep()
    os.truncate(sink.part, 6000)
    again = FileSink(dest, ledger_of(dest))
    assert list(again.load_held()) == [Span(0, 1000)]
    again.discard()


def test_a_part_file_that_is_gone_is_not_trusted(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, 1000)
    sink.keep()
    Path(sink.part).unlink()
    again = FileSink(dest, ledger_of(dest))
    assert not again.load_held()
    again.discard()


def test_another_object_begins_with_an_empty_part_file(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(), Spans())
    put(sink, BODY, 0, TOTAL)
    sink.keep()
    again = FileSink(dest, ledger_of(dest))
    again.begin(subject(500, '"v2"'), Spans())
    put(again, BODY, 0, 100)
    journal = parse_journal(journal_path(dest).read_bytes())
    assert journal.subject == subject(500, '"v2"')
    assert list(journal.written) == [Span(0, 100)]
    assert os.pread(again.fd, 1000, 0) == BODY[:100] + bytes(400)
    again.discard()


def test_a_destination_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    first, second = ledger_of(dest), Ledger(dest)
    assert not second.acquire()
    first.close()
    assert second.acquire()
    assert not second.orphaned
    second.remove()
    assert names(tmp_path) == []


def test_who_waited_sees_that_the_file_was_published(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(10), Spans())
    put(sink, BODY, 0, 10)
    waiting = Ledger(dest)
    assert not waiting.acquire()
    sink.publish(10)
    assert waiting.acquire()
    assert waiting.orphaned
    assert waiting.journal.published
    assert waiting.journal.subject == subject(10)
    waiting.close()


def test_who_opened_the_journal_first_and_lost_its_lock_sees_that_as_well(tmp_path: Path) -> None:
    """The run with the lock did not make the journal, so it puts one of its own in its place."""
    dest = tmp_path / "model.bin"
    waiting = Ledger(dest)
    sink = FileSink(dest, ledger_of(dest))
    assert not waiting.acquire()
    sink.begin(subject(10), Spans())
    assert waiting.orphaned
    assert not waiting.acquire(), "it would take the destination for free"
    put(sink, BODY, 0, 10)
    sink.publish(10)
    assert waiting.acquire()
    assert waiting.journal.published
    assert waiting.journal.subject == subject(10)
    waiting.close()


def test_who_waits_at_a_replaced_journal_goes_on_when_its_run_gives_up(tmp_path: Path) -> None:
    dest = tmp_path / "model.bin"
    waiting = Ledger(dest)
    sink = FileSink(dest, ledger_of(dest))
    sink.begin(subject(10), Spans())
    put(sink, BODY, 0, 5)
    sink.keep()
    assert waiting.acquire()
    assert waiting.orphaned
    assert not waiting.journal.published
    waiting.close()
    assert ledger_of(dest).journal.subject == subject(10)


def test_whether_locks_exclude_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locks_exclude(tmp_path)
    monkeypatch.setattr(fcntl, "flock", lambda fd, operation: None)
    assert not locks_exclude(tmp_path)
    assert names(tmp_path) == []


def test_a_link_in_the_way_of_the_part_file_is_not_followed(tmp_path: Path) -> None:
    dest, victim = tmp_path / "model.bin", tmp_path / "victim"
    victim.write_bytes(b"mine")
    sink = FileSink(dest, ledger_of(dest))
    part = Path(sink.part)
    sink.discard()
    part.symlink_to(victim)
    ledger = ledger_of(dest)
    with pytest.raises(OSError, match="symbolic links"):
        FileSink(dest, ledger)
    ledger.remove()
    assert victim.read_bytes() == b"mine"
