"""The state of a call's transfers, gathered from their events.

Three counts of bytes differ, and are easily taken for each other:

    done    there now: falls when a file starts over; resumed bytes are in it from the start
    moved   fetched by this run: never falls; rates are made of it
    total   the size, known once the server has said it; `expected` is a guess before that

For several files `expected` takes the mean of the known sizes for the others. So the fraction may
fall when a large file shows up. A bar that goes backwards is not believed, so `fraction` never
falls, and stays below 1 while it is a guess.

The clock is an argument: `now` is in seconds, from any moment.
"""

from __future__ import annotations

from collections import deque

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.report.events import (
    Event,
    Failed,
    Finished,
    Progressed,
    Queued,
    Started,
    StartedOver,
    Verifying,
)

# Seconds that a rate is taken over. With fewer it jumps, and with more it hides that a transfer has
# come to a halt.
_RATE_WINDOW = 5.0
_RATE_STEP = 0.2
# The time left is told once one in so many bytes has arrived.
_LEAST_SHARE = 10_000


@dataclass
class Rate:
    """Bytes a second over the last five seconds, from a count that never falls.

    Samples closer than 0.2 s are merged, so only some 25 are kept, however many events come.
    """

    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, now: float, count: int) -> None:
        samples = self._samples
        if len(samples) > 1 and now - samples[-2][0] < _RATE_STEP:
            samples[-1] = (now, count)
        else:
            samples.append((now, count))
        while len(samples) > 2 and now - samples[1][0] >= _RATE_WINDOW:
            samples.popleft()

    def value(self, now: float) -> float | None:
        """Return the rate at `now`, None in the first 0.2 s. It falls while nothing is added."""
        if not self._samples:
            return None
        since, count = self._samples[0]
        if now - since < _RATE_STEP:
            return None
        return (self._samples[-1][1] - count) / (now - since)


@dataclass
class FileState:
    """One transfer.

    Attributes:
        key: its number in the call.
        started_at: when its first event came.
        done: bytes that are there.
        total: its size, None while that is not known.
        keeps: whether a later run can use what is there.
        moved: bytes that this run fetched, those before a start-over included.
        connections: how many it uses at present.
        verified: how much of it is hashed, from 0 to 1; None before that begins.
    """

    key: int
    dest: str
    started_at: float
    done: int = 0
    total: int | None = None
    keeps: bool = True
    moved: int = 0
    connections: int = 0
    verified: float | None = None
    rate: Rate = field(default_factory=Rate)

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 0.0

    @property
    def checking(self) -> float | None:
        """How much of the file is hashed, once all of it is there; None before."""
        return self.verified if self.done == self.total else None

    def remaining_seconds(self, now: float) -> float | None:
        rate = self.rate.value(now)
        if self.total is None or not rate:
            return None
        return (self.total - self.done) / rate

    def advance(self, now: float, done: int, total: int | None) -> None:
        if total is not None:
            self.total = total
            done = min(done, total)
        self.moved += max(0, done - self.done)
        self.done = max(self.done, done)
        self.rate.add(now, self.moved)


@dataclass
class Tally:
    """All transfers of a call.

    Attributes:
        files: how many there will be.
        announced: bytes of all of them, if they were known beforehand.
        active: those in flight by key, in the order of their start.
        stopped: those that failed, in their last state.
        finished, failed: how many have ended.
        moved: bytes this run fetched.
        ended_bytes: sizes of the files that have finished.
    """

    files: int = 1
    announced: int | None = None
    active: dict[int, FileState] = field(default_factory=dict)
    stopped: dict[int, FileState] = field(default_factory=dict)
    finished: int = 0
    failed: int = 0
    moved: int = 0
    ended_bytes: int = 0
    rate: Rate = field(default_factory=Rate)
    _shown: float = 0.0

    def take(self, event: Event, now: float) -> None:
        """Count `event`, which arrived at `now`."""
        # The most frequent ones first.
        if isinstance(event, Progressed):
            self._progress(event, now)
        elif isinstance(event, Started):
            self._start(event, now)
        elif isinstance(event, (Finished, Failed)):
            self._end(event, now)
        elif isinstance(event, Queued):
            self.files, self.announced = event.files, event.total
        elif isinstance(event, StartedOver):
            self._start_over(event, now)
        elif isinstance(event, Verifying):
            state = self._state(event.key, event.dest, now)
            state.verified = event.done / event.total if event.total else 1.0

    @property
    def ended(self) -> int:
        return self.finished + self.failed

    @property
    def done(self) -> int:
        """Bytes of finished files, and those there of files in flight."""
        return self.ended_bytes + sum(state.done for state in self.active.values())

    @property
    def total(self) -> int | None:
        """Bytes of all files that have not failed; None until the size of each is known."""
        if self.announced is not None and not self.failed:
            return self.announced
        return self.expected if self._known == self.files - self.failed else None

    @property
    def expected(self) -> int | None:
        """`total`, or a guess at it from the files whose size is known."""
        if self.announced is not None and not self.failed:
            return self.announced
        if not self._known:
            return None
        sizes = sum(state.total or 0 for state in self.active.values())
        return (self.ended_bytes + sizes) * (self.files - self.failed) // self._known

    @property
    def _known(self) -> int:
        return self.finished + sum(state.total is not None for state in self.active.values())

    @property
    def connections(self) -> int:
        return sum(state.connections for state in self.active.values())

    def fraction(self) -> float:
        """Return how much of all is done, at most 0.99 while that is a guess.

        It falls only after a start-over.
        """
        if self.ended >= self.files:
            return 1.0
        expected = self.expected
        fraction = self.done / expected if expected else self.ended / self.files
        most = 1.0 if self.total is not None else 0.99
        self._shown = max(self._shown, min(most, fraction))
        return self._shown

    def remaining_seconds(self, now: float) -> float | None:
        rate, expected = self.rate.value(now), self.expected
        if expected is None or not rate:
            return None
        if self.moved * _LEAST_SHARE < expected:
            return None  # a few small files say nothing about the large ones that follow
        return max(0, expected - self.done) / rate

    def _state(self, key: int, dest: str, now: float) -> FileState:
        state = self.active.get(key)
        if state is None:
            state = self.active[key] = FileState(key, dest, now)
        return state

    def _start(self, event: Started, now: float) -> None:
        state = self._state(event.key, event.dest, now)
        state.dest = event.dest
        state.keeps = event.keeps
        state.total = event.total
        state.done = max(state.done, event.held)
        state.rate.add(now, state.moved)
        self.rate.add(now, self.moved)

    def _progress(self, event: Progressed, now: float) -> None:
        state = self._state(event.key, "", now)
        before = state.moved
        state.advance(now, event.done, event.total)
        state.connections = event.connections
        self.moved += state.moved - before
        self.rate.add(now, self.moved)

    def _start_over(self, event: StartedOver, now: float) -> None:
        state = self._state(event.key, event.dest, now)
        state.done = 0
        state.verified = None
        self._shown = 0.0

    def _end(self, event: Finished | Failed, now: float) -> None:
        state = self.active.pop(event.key, None)
        if isinstance(event, Failed):
            self.failed += 1
            if state:
                self.stopped[event.key] = state
            return
        self.finished += 1
        self.ended_bytes += event.result.size
        done = state.done if state else event.result.resumed
        if not (event.result.shared or event.result.skipped):
            self.moved += max(0, event.result.size - done)
        self.rate.add(now, self.moved)
