"""One range that has been asked for: how far it is, how fast it comes, when it is late.

The positions of a request, all of them offsets in the object:

    start              pos                 claim               stop
      |=================|...................|- - - - - - - - - -|
           landed               owed           comes as well, if no other request is answered

`pos` only grows, and only the transport that carries the request moves it. `stop` only shrinks, so
that a rest can be given to another request while bytes flow. For most requests there is no `claim`,
and everything up to `stop` is owed. The open-ended first request has one: behind it other requests
begin, see `core/http/plan`.

Late is relative. A store that takes 0.3 s to answer is not late after 0.3 s, so `Latency` keeps the
host's own times to a first byte, and compares with what four of five answers need.

Silence is the network's only while this process looks. The engine looks every 25 ms or so. Where
the next look comes more than `_LATE` later, the process was stopped or had no processor, and bytes
may wait in the socket. `RateMeter` therefore moves `quiet_since` on by the excess:

    looks        |..|..|..|..............................|..|
    quiet time    ********                                **         what counts towards a stall
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

from pgetpy.core.http.ranges import OPEN_END, Span, Spans
from pgetpy.core.lazy_dataclass import dataclass, field

# The longest time between two looks at a connection that counts as silence in full.
_LATE = 0.1
# A connection this much slower than the others' median is better replaced.
_STRAGGLER = 0.1
# Below this many others a median says little.
_QUORUM = 3
# An answer is never late before so many seconds, nor before twice what four of five answers take.
_SOONEST_LATE = 0.25
_LATE_TIMES = 2.0
# How many of the latest answers count: enough for a median, few enough to follow a change.
_REMEMBERED = 32
# Of two requests for the same bytes, one is cancelled when the other will end so many times sooner.
_SOONER = 2.0
# After so many of the others' lulls a connection is silent for too long.
_LULLS = 1.5
# A file with so many bytes to write is worth a connection of its own beside a fast one.
LARGE_FILE = 64 << 20


@dataclass
class Latency:
    """Seconds from asking to the head of the answer, connecting and TLS included, at one host.

    Attributes:
        typical: the median of the latest answers; 0 before the first.
        late: after so many seconds an answer is late; infinite before the first. One answer in
            twenty may take ten times as long as the others without changing either value.
    """

    _typical: float = 0.0
    _late: float = float("inf")
    _recent: deque[float] = field(default_factory=partial(deque, maxlen=_REMEMBERED), repr=False)
    _changed: bool = False

    @property
    def typical(self) -> float:
        if self._changed:
            self._sort()
        return self._typical

    @property
    def late(self) -> float:
        if self._changed:
            self._sort()
        return self._late

    def add(self, seconds: float) -> None:
        """Add the time of one answer."""
        self._recent.append(seconds)
        self._changed = True

    def _sort(self) -> None:
        """Put in order what has been added. Small files add far more often than anyone looks."""
        self._changed = False
        ordered = sorted(self._recent)
        count = len(ordered)
        self._typical = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        most = ordered[min(count - 1, count * 4 // 5)]
        self._late = max(_SOONEST_LATE, _LATE_TIMES * most)


@dataclass
class RateMeter:
    """How one connection is doing, seen at intervals.

    Attributes:
        born: when it was asked for.
        quiet_since: when it was last seen to move, or not to wait for the network. Time in which
            this process did not run is added, so that it does not count as silence.
        seen_at, seen_pos: time and position of the last look.
        rate: bytes a second: the mean since the answer began, and after the first second an
            exponential average over about a second.
        answered: when the head of its answer came; None before that.
        lull: the longest time for which nothing came before it went on.
    """

    born: float
    quiet_since: float
    seen_at: float
    seen_pos: int
    rate: float = 0.0
    answered: float | None = None
    lull: float = 0.0

    def answer(self, now: float, pos: int) -> None:
        """The head of the answer has come; its body begins at `pos`."""
        self.answered = self.quiet_since = self.seen_at = now
        self.seen_pos = pos

    def observe(self, now: float, pos: int, *, waiting: bool) -> None:
        """Record that the connection has reached `pos`, and whether it waits for the network."""
        elapsed = now - self.seen_at
        if elapsed <= 0:
            return
        if pos != self.seen_pos or not waiting:
            if waiting and self.answered is not None:
                self.lull = max(self.lull, self.seen_at - self.quiet_since)
            self.quiet_since = now
        else:
            self.quiet_since += max(0.0, elapsed - _LATE)
        current = (pos - self.seen_pos) / elapsed
        age = now - (self.born if self.answered is None else self.answered)
        # Weighting by elapsed/age makes the average the plain mean while it is young. The least
        # weight of 0.05 s keeps looks in quick succession from freezing it.
        weight = min(1.0, max(elapsed, 0.05) / min(1.0, max(age, elapsed)))
        self.rate += (current - self.rate) * weight
        self.seen_at, self.seen_pos = now, pos

    def quiet(self, now: float) -> float:
        """Seconds spent waiting for the network without a byte."""
        return now - self.quiet_since - max(0.0, now - self.seen_at - _LATE)


def is_straggler(rate: float, others: Sequence[float]) -> bool:
    """Whether a connection at `rate` bytes a second is far behind the `others`' rates."""
    return len(others) >= _QUORUM and rate < median(others) * _STRAGGLER


def median(values: Sequence[float]) -> float:
    """The middle of `values`; importing statistics would cost each run 8 ms."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def usual_lull(parts: Sequence[RangeRequest]) -> float:
    """The median of the lulls of `parts`, in seconds; 0 where bytes flow steadily."""
    lulls = [part.meter.lull for part in parts if part.meter.answered is not None]
    return median(lulls) if lulls else 0.0


@dataclass
class Window:
    """How far ahead bytes may come: a sink moves it, a plan keeps to it.

        0                  horizon              horizon + size
        |--- any order -----|--- buffered --------|--- may not be asked for yet ---

    Attributes:
        size: bytes that may come although they cannot be put anywhere yet.
        horizon: the first byte whose place is not known yet. Those before it may come in any order;
            this one is wanted most.
        only: spans that have to come before anything else may be asked for; empty for none.
        closed: whether nothing outside `only` is wanted at all.
        keeps_all: whether bytes outside `only` are kept on disk until their turn.
        files: spans, before the horizon, that go to a large file each: writers of one file wait for
            each other, writers of two do not.
    """

    size: int
    horizon: int = 0
    only: tuple[Span, ...] = ()
    closed: bool = False
    keeps_all: bool = False
    files: tuple[Span, ...] = ()

    @property
    def stop(self) -> int:
        """The first byte that may not be asked for yet; no limit where `only` says what may."""
        return OPEN_END if self.only else self.horizon + self.size

    def has_two_places(self, landed: Spans) -> bool:
        """Whether a second connection would write elsewhere than the first, for a while.

        A fast connection is limited by the processor that writes its bytes. One more for the same
        file gains nothing; one for another file, or for headers far ahead, uses another processor.
        """
        if not self.files:
            return False
        if self.horizon < OPEN_END and self.horizon - landed.frontier >= LARGE_FILE:
            return True
        missing = (sum(gap.size for gap in landed.missing(*file)) for file in self.files)
        return sum(size >= LARGE_FILE for size in missing) > 1


@dataclass(eq=False)
class RangeRequest:
    """One range on its way: `pos` moves from `start` to `stop`.

    Attributes:
        stop: None where only the end of the body tells. Another thread may lower it.
        pos: every byte from `start` up to here has come.
        waiting: whether its transport waits for the network just now; False while a disk, a
            reader or a rate limit holds it up, so that this is not taken for silence.
        again: whether its bytes have been asked for before.
        twin: the request that was made for the same rest; each refers to the other.
        counted: position up to which its bytes are included in the host's and transfer's sums.
        reads_on: whether it asked for everything from `start` on, and reads on until it is known
            that the server answers a second request.
        claim: where other requests begin meanwhile; None for `stop`.
        most: where it stops at the latest, however long its answer is.
    """

    start: int
    stop: int | None
    pos: int
    counted: int
    meter: RateMeter
    waiting: bool = True
    again: bool = False
    twin: RangeRequest | None = None
    reads_on: bool = False
    claim: int | None = None
    most: int | None = None

    @property
    def rest(self) -> int:
        """Bytes still to come; 0 where that is unknown."""
        return max(0, self.stop - self.pos) if self.stop is not None else 0

    @property
    def owed(self) -> int:
        """Bytes still to come that no other request covers."""
        return max(0, self.claim - self.pos) if self.claim is not None else self.rest

    @property
    def seconds_left(self) -> float:
        return self.owed / self.meter.rate if self.meter.rate > 0 else float("inf")

    def ends_in(self, now: float, rate: float, latency: float) -> float:
        """Seconds to its end, at `rate` bytes a second or its own rate if that is lower.

        Before the answer, the rest of the usual `latency` is added.
        """
        if self.meter.answered is None:
            return max(0.0, self.meter.born + latency - now) + self.owed / rate
        own = self.meter.rate
        return self.owed / (min(own, rate) if own > 0 else rate)

    def is_silent_alone(self, parts: Sequence[RangeRequest], now: float, patience: float) -> bool:
        """Whether it has been silent for `patience` seconds, and for longer than the others of
        `parts` usually are, while most of these go on."""
        others = [part for part in parts if part is not self and part.meter.answered is not None]
        silent = sum(part.meter.quiet(now) >= _LATE for part in others)
        longest = max(patience, _LULLS * usual_lull(others))
        return self.meter.quiet(now) >= longest and 2 * silent <= len(others)

    @property
    def is_overtaken(self) -> bool:
        """Whether its twin will deliver the rest sooner, so that this one can be cancelled."""
        twin = self.twin
        if twin is None or self.meter.answered is None or twin.pos <= self.pos:
            return False
        return twin.seconds_left * _SOONER < self.seconds_left
