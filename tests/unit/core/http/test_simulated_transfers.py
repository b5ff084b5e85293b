"""Plan and pace against a clock, a network and servers that exist in numbers only.

What the engine does around them is played in a few lines: it launches what the plan gives out, as
many at a time as the pace says, and looks after the flights some forty times a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgetpy.core.http.pace import Pace, is_straggler
from pgetpy.core.http.plan import Flight, Plan, Window
from pgetpy.core.http.ranges import Span, Spans

MB = 1_000_000
MIB = 1 << 20
# The network moves in small steps; the engine looks after its flights at every fifth of them.
STEP = 0.005
LOOKS = 5
STALL_LIMIT = 15.0
STRAGGLER_PATIENCE = 3.0


@dataclass(frozen=True)
class Line:
    """How one connection behaves: `rate` bytes a second up to `dries_up` bytes, then `trickle`.

    It breaks after `breaks` bytes; its first byte comes after `latency` seconds.
    """

    rate: float = 20 * MB
    dries_up: float = float("inf")
    trickle: float = 0.0
    breaks: float = float("inf")
    latency: float = 0.03

    def delivered(self, age: float) -> float:
        """Bytes after `age` seconds, were there nothing but this line."""
        fast = max(0.0, age - self.latency) * self.rate
        if fast <= self.dries_up:
            return fast
        return self.dries_up + (fast - self.dries_up) / self.rate * self.trickle


@dataclass(eq=False)
class Carried:
    """A flight on its line; `credit` is what the line has delivered."""

    flight: Flight
    line: Line
    born: float
    credit: float = 0.0


@dataclass
class Transfer:
    """One object of `total` bytes fetched over lines; `line(n)` gives the n-th one opened."""

    total: int
    line: Callable[[int], Line] = lambda _: Line()
    ceiling: int = 64
    capacity: float = float("inf")
    window: int | None = None
    chunk_size: int = 125 * MB
    now: float = 0.0
    opened: int = 0
    moved: int = 0
    broken: int = 0
    stalled: int = 0
    levels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        window = Window(self.window) if self.window is not None else None
        self.plan = Plan(chunk_size=self.chunk_size, first=MIB, window=window)
        self.pace = Pace(self.ceiling)
        self.carried: list[Carried] = []
        self._rate = 0.0
        self._rated = 0
        self._ended = 0
        self._steps = 0
        self._known = False

    def run(self, within: float) -> Transfer:
        """Fetch it all in at most `within` seconds of its own clock."""
        done = 0
        while not self.plan.complete or self.carried:
            assert self.now < within, f"{self.plan.done} of {self.total} bytes after {within} s"
            self._launch()
            self.now += STEP
            self._steps += 1
            self._move()
            if self._steps % LOOKS == 0:
                self._look_after()
                assert self.plan.done >= done, "progress went backwards"
                done = self.plan.done
                self.levels.append(self.pace.level)
        assert list(self.plan.held) == [Span(0, self.total)]
        return self

    @property
    def waste(self) -> int:
        """Bytes that were fetched more than once."""
        return self.moved - self.total

    def _launch(self) -> None:
        if self.plan.window is not None:
            self.plan.window.horizon = self.plan.front
        if not self._known:
            if not self.carried:
                self._carry(self.plan.probe(self.now))
            return
        while len(self.carried) < self.pace.level:
            lanes = max(self.pace.level, len(self.carried))
            flight = self.plan.take(self.now, self._rate, lanes)
            if flight is None:
                return
            self._carry(flight)

    def _carry(self, flight: Flight) -> None:
        assert flight.stop is not None
        assert 0 <= flight.start < flight.stop
        assert not self._known or flight.stop <= self.total, "a range beyond the end"
        assert flight.stop - flight.start <= self.chunk_size
        if self.window is not None and self._known:
            assert flight.stop <= self.plan.front + self.window, "a range beyond the window"
        self.carried.append(Carried(flight, self.line(self.opened), self.now))
        self.opened += 1

    def _move(self) -> None:
        due = {c: self._due(c) for c in self.carried}
        share = min(1.0, self.capacity * STEP / max(1.0, sum(due.values())))
        for carried, count in due.items():
            self.moved += self._land(carried, count * share)
        for carried in list(self.carried):
            if self._known and not carried.flight.rest:
                self._end(carried)
            elif carried.credit >= carried.line.breaks:
                self.broken += 1
                self._end(carried)

    def _due(self, carried: Carried) -> float:
        age = self.now - carried.born
        line = carried.line
        return line.delivered(age) - line.delivered(max(0.0, age - STEP))

    def _land(self, carried: Carried, count: float) -> int:
        flight = carried.flight
        if count and not self._known:
            self._known, self.plan.total = True, self.total
            flight.stop = min(flight.stop or 0, self.total)
        before = flight.pos
        carried.credit += count
        reached = flight.start + int(min(carried.credit, carried.line.breaks))
        assert flight.stop is not None
        # Who carries it may only see a moment later that it was cut short.
        flight.pos = max(before, min(reached, flight.stop))
        return flight.pos - before

    def _look_after(self) -> None:
        self._observe()
        for carried in list(self.carried):
            flight = carried.flight
            flight.pulse.observe(self.now, flight.pos, waiting=True)
            others = [c.flight.pulse.rate for c in self.carried if c is not carried]
            if flight.pulse.quiet(self.now) > STALL_LIMIT:
                self.stalled += 1
                self._end(carried)
            elif self.now - carried.born > STRAGGLER_PATIENCE and is_straggler(
                flight.pulse.rate, others
            ):
                self._end(carried)
        superfluous = self.plan.superfluous()
        for carried in [c for c in self.carried if c.flight in superfluous]:
            self._end(carried)

    def _observe(self) -> None:
        delivering = sum(c.flight.pos > c.flight.start for c in self.carried)
        if delivering:
            current = (self.moved - self._rated) / (STEP * LOOKS) / delivering
            self._rate += (current - self._rate) * (0.3 if self._rate else 1.0)
        self._rated = self.moved
        self.pace.observe(self.now, self.moved, self._ended, len(self.carried), delivering)

    def _end(self, carried: Carried) -> None:
        self.plan.end(carried.flight)
        self.carried.remove(carried)
        self._ended += 1


def all_but(odd: dict[int, Line], usual: Line | None = None) -> Callable[[int], Line]:
    """Lines of the usual kind, but for those with these numbers."""
    return lambda number: odd.get(number, usual or Line())


# --------------------------------------------------------------------------- how many connections


def test_a_store_that_limits_each_connection_is_climbed_to_the_ceiling() -> None:
    transfer = Transfer(total=2500 * MB).run(within=12)
    assert max(transfer.levels) == 64
    assert transfer.waste < transfer.total / 20


def test_a_stream_that_fills_the_network_alone_is_left_nearly_alone() -> None:
    lone = Line(rate=1000 * MB, latency=0.002)
    transfer = Transfer(total=8000 * MB, line=lambda _: lone, capacity=1000 * MB)
    transfer.run(within=12)
    mean = sum(transfer.levels) / len(transfer.levels)
    assert mean < 3
    assert max(transfer.levels) <= 8
    assert transfer.waste < transfer.total / 20


def test_a_network_that_four_connections_fill_is_not_climbed_much_further() -> None:
    transfer = Transfer(total=3000 * MB, line=lambda _: Line(rate=50 * MB), capacity=200 * MB)
    transfer.run(within=30)
    settled = transfer.levels[len(transfer.levels) // 3 :]
    assert 3 <= sum(settled) / len(settled) < 12


@pytest.mark.parametrize("ceiling", [1, 2, 5, 8])
def test_the_ceiling_is_never_passed(ceiling: int) -> None:
    transfer = Transfer(total=200 * MB, ceiling=ceiling).run(within=30)
    assert max(transfer.levels) <= ceiling
    assert max(transfer.levels) == ceiling


# -------------------------------------------------------------------------- connections that fail


@pytest.fixture(scope="module")
def undisturbed() -> float:
    """Seconds of a transfer over eight good connections."""
    return Transfer(total=600 * MB, ceiling=8).run(within=20).now


@pytest.mark.parametrize("number", [1, 8])
@pytest.mark.parametrize("landed", [0, 3 * MB])
def test_what_a_stalled_connection_owes_is_taken_over(
    number: int, landed: int, undisturbed: float
) -> None:
    stalled = all_but({number: Line(dries_up=landed)})
    transfer = Transfer(total=600 * MB, ceiling=8, line=stalled).run(within=20)
    assert transfer.stalled == 0, "it was waited for until its time limit"
    assert transfer.now <= undisturbed * 1.3


@pytest.mark.parametrize("number", [1, 4, 8])
def test_what_a_crawling_connection_owes_is_taken_over(number: int, undisturbed: float) -> None:
    crawling = all_but({number: Line(rate=200_000)})
    transfer = Transfer(total=600 * MB, ceiling=8, line=crawling).run(within=20)
    assert transfer.now <= undisturbed * 1.3


def test_a_single_connection_that_stalls_is_ended_by_its_time_limit() -> None:
    stalled = all_but({1: Line(dries_up=3 * MB)})
    transfer = Transfer(total=100 * MB, ceiling=1, line=stalled).run(within=60)
    assert transfer.stalled == 1


def test_a_probe_that_never_answers_is_asked_again() -> None:
    transfer = Transfer(total=10 * MB, line=all_but({0: Line(dries_up=0)})).run(within=30)
    assert transfer.stalled == 1


def test_the_end_is_not_left_to_its_slowest_connection() -> None:
    slow_last = all_but({n: Line(rate=2 * MB) for n in range(6, 9)})
    transfer = Transfer(total=400 * MB, ceiling=8, line=slow_last).run(within=20)
    assert transfer.now < 5


def test_a_loser_that_wakes_up_leaves_the_whole_exact() -> None:
    waking = all_but({3: Line(dries_up=1 * MB, trickle=5 * MB)})
    Transfer(total=100 * MB, ceiling=4, line=waking).run(within=20)


def test_when_every_connection_stalls_each_is_given_up_in_its_time() -> None:
    stalled = all_but({n: Line(dries_up=2 * MB) for n in range(1, 10)})
    transfer = Transfer(total=200 * MB, ceiling=4, line=stalled).run(within=60)
    assert transfer.stalled >= 1


def test_a_reader_of_the_bytes_in_order_is_not_held_up_by_a_stalled_connection() -> None:
    stalled = all_but({3: Line(dries_up=1 * MB)})
    transfer = Transfer(total=300 * MB, ceiling=8, line=stalled, window=32 * MIB)
    transfer.run(within=30)
    assert transfer.stalled == 0


# ------------------------------------------------------------------------------------- properties

LINES = st.builds(
    Line,
    rate=st.sampled_from([1 * MB, 5 * MB, 20 * MB, 200 * MB]),
    dries_up=st.sampled_from([float("inf"), 0, 100_000, 2 * MB]),
    trickle=st.sampled_from([0, 0.1 * MB, MB]),
    breaks=st.sampled_from([float("inf"), float("inf"), 1, 300_000, 4 * MB]),
    latency=st.sampled_from([0.0, 0.03, 0.4]),
)


@settings(max_examples=20)
@given(
    total=st.integers(1, 12 * MB),
    odd=st.lists(LINES, max_size=8),
    ceiling=st.sampled_from([1, 3, 16]),
    window=st.sampled_from([None, MIB, 8 * MIB]),
    chunk_size=st.sampled_from([MIB, 5 * MB, 125 * MB]),
)
def test_however_lines_behave_every_byte_comes_in_the_end(
    total: int, odd: list[Line], ceiling: int, window: int | None, chunk_size: int
) -> None:
    lines = all_but(dict(enumerate(odd)))
    # Each odd line may cost the longest stall, and what they trickle may count as alive.
    limit = 60 + 16 * len(odd) + 10 * total / MB * bool(odd)
    transfer = Transfer(total, lines, ceiling=ceiling, window=window, chunk_size=chunk_size).run(
        within=limit
    )
    # It is known to be the whole, for the plan says so; that it is no more is for us to say.
    assert transfer.moved >= total


@settings(max_examples=25)
@given(
    total=st.integers(1, 60 * MB), held=st.lists(st.tuples(st.integers(0, 59), st.integers(1, 9)))
)
def test_what_an_earlier_run_left_is_not_fetched_again(
    total: int, held: list[tuple[int, int]]
) -> None:
    transfer = Transfer(total)
    spans = Spans()
    for start, size in held:
        spans.add(min(start * MB, total), min((start + size) * MB, total))
    kept = spans.size
    transfer.plan.held = spans
    transfer.run(within=60)
    # One byte may be asked for again, to see whether the object is still the same.
    assert transfer.moved <= max(total - kept, 1)
