"""One transfer as a state machine: what to ask for next, what is on its way, whether all is there.

A plan knows bytes only. `take` gives the next range to ask for as a `Flight`; whoever carries it
moves `pos` forward as bytes reach the sink, and `end` takes it back. Ranges are given out from low
to high, so that a reader behind the front (a hash, a pipe) can follow. When nothing is left to give
out, the end of a slow flight is given to an idle connection, or its whole rest asked for a second
time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgetpy.core.http.pace import Pulse
from pgetpy.core.http.ranges import Span, Spans

MIB = 1 << 20
# A range should last long enough to make its round trip small, and not so long that connections
# which come later find nothing left to do.
_TARGET_SECONDS = 0.5
_SMALLEST = 4 * MIB
# As long as nothing is known of a connection's rate; if it is slow its rest is split again.
_BLIND = 32 * MIB
# Splitting a flight costs its connection: not for less than this.
_SMALLEST_SPLIT = MIB // 2
_WORTHWHILE_SECONDS = 0.1
# A rest that would take this many times longer than another connection needs is asked for twice.
_HEDGE = 2.0
_HEDGE_QUIET = 0.25
_ENDLESS = 1 << 62


@dataclass
class Window:
    """How far ahead bytes may come: a sink moves it, a plan keeps to it.

    Attributes:
        size: bytes that may come although they cannot be put anywhere yet.
        horizon: the first byte of which it is not known yet where it goes; those before it may come
            in any order, but this one is wanted most.
        only: what has to come before anything else may be asked for, where that is so.
        closed: whether what is not in `only` is not wanted at all.
    """

    size: int
    horizon: int = 0
    only: tuple[Span, ...] = ()
    closed: bool = False

    @property
    def stop(self) -> int:
        """Nothing from here on may be asked for; where there is an `only`, that alone says what."""
        return _ENDLESS if self.only else self.horizon + self.size


@dataclass(eq=False)
class Flight:
    """One range on its way: `pos` moves from `start` to `stop`.

    Attributes:
        stop: None where only the end of the body tells. Another thread may lower it.
        waiting: whether whoever carries it waits for the network just now.
        hedged: whether its rest is also asked for elsewhere.
        counted: up to where its bytes are in the sums already.
    """

    start: int
    stop: int | None
    pulse: Pulse
    pos: int = field(init=False)
    waiting: bool = True
    hedged: bool = False
    counted: int = 0

    def __post_init__(self) -> None:
        self.pos = self.counted = self.start

    @property
    def rest(self) -> int:
        """Bytes still to come; 0 where that is unknown."""
        return max(0, self.stop - self.pos) if self.stop is not None else 0

    @property
    def seconds_left(self) -> float:
        return self.rest / self.pulse.rate if self.pulse.rate > 0 else float("inf")


class Plan:
    """Which bytes are held, on their way, and missing.

    Args:
        chunk_size: the largest range to ask for.
        first: the size of the first range, which is also the probe.
        window: how far ahead a range may end; None for anywhere.
        held: what an earlier run left.
    """

    def __init__(
        self,
        *,
        chunk_size: int,
        first: int,
        window: Window | None = None,
        held: Spans | None = None,
    ) -> None:
        self.total: int | None = None
        self.ranged = True
        self.held = held or Spans()
        self.flights: list[Flight] = []
        self.window = window
        self._chunk_size = chunk_size
        self._first = min(first, chunk_size)

    @property
    def complete(self) -> bool:
        if self.window is not None and self.window.closed:
            return all(self.held.covers(*span) for span in self.window.only)
        return self.total is not None and self.held.size >= self.total

    @property
    def done(self) -> int:
        """Bytes held and landed, none counted twice."""
        return self.landed.size

    @property
    def front(self) -> int:
        """Every byte before this one has landed."""
        return self.landed.frontier

    def probe(self, now: float, total: int | None = None) -> Flight:
        """Return the first flight: the first missing bytes, of an object of `total` if known.

        Where everything is held the last byte is asked for again: its answer tells whether the
        object is still the same.
        """
        limit = total if total is not None else self.held.frontier + self._first
        gap = next(self.held.missing(0, max(1, limit)), None)
        if gap is None:
            gap = Span(limit - 1, limit)
        return self._launch(now, gap.start, min(gap.stop, gap.start + self._first))

    def take(self, now: float, rate: float, lanes: int) -> Flight | None:
        """Return the next flight for an idle connection, or None where there is nothing to do.

        `rate` is what one connection delivers in bytes a second (0: unknown), `lanes` how many
        there are.
        """
        if self.total is None or not self.ranged:
            return None
        gap = self._gap()
        # Where a reader in order holds up all that is new, what he waits for may still be hurried.
        held_up = gap is not None and self._is_beyond_window(gap.start)
        if gap is None or held_up:
            slowest = self._slowest()
            if slowest is None:
                return None
            if not self._late(slowest, now, rate):
                return None if held_up else self._split(slowest, now, rate)
            slowest.hedged = True
            gap = Span(slowest.pos, slowest.pos + slowest.rest)
        size = self._piece(rate, lanes, gap)
        return self._launch(now, gap.start, gap.start + size) if size > 0 else None

    def end(self, flight: Flight) -> None:
        """`flight` is over; what it landed is held."""
        self.held.add(flight.start, flight.pos)
        self.flights.remove(flight)

    def superfluous(self) -> list[Flight]:
        """Return the flights whose rest has arrived by another way."""
        hedged = [flight for flight in self.flights if flight.hedged]
        if not hedged:
            return []
        landed = self.landed
        return [f for f in hedged if f.rest and landed.covers(f.pos, f.pos + f.rest)]

    def forget(self) -> None:
        """Nothing that is held is worth anything: the object is another one."""
        self.held = Spans()
        self.total = None

    def _launch(self, now: float, start: int, stop: int) -> Flight:
        flight = Flight(start, stop, Pulse.at(now, start))
        self.flights.append(flight)
        return flight

    @property
    def landed(self) -> Spans:
        """What is held, and what has come on flights that are under way."""
        landed = Spans(self.held)
        for flight in self.flights:
            landed.add(flight.start, flight.pos)
        return landed

    def _gap(self) -> Span | None:
        """The bytes to ask for next, neither held nor under way: at the horizon, or the first."""
        assert self.total is not None
        taken = Spans(self.held)
        for flight in self.flights:
            stop = self.total if flight.stop is None else flight.stop
            taken.add(flight.start, flight.pos if flight.hedged else stop)
        if self.window is not None and (self.window.only or self.window.closed):
            gaps = (
                gap for span in self.window.only for gap in taken.missing(span.start, span.stop)
            )
            return next(gaps, None)
        first = next(taken.missing(0, self.total), None)
        if first is None or self.window is None or not self.window.size:
            return first
        horizon = self.window.horizon
        # What is left a little before the horizon is fetched on the way to it.
        if horizon - first.start < _SMALLEST or horizon >= self.total:
            return first
        at_horizon = not taken.covers(horizon, horizon + 1)
        return next(taken.missing(horizon, self.total)) if at_horizon else first

    def _is_beyond_window(self, pos: int) -> bool:
        return self.window is not None and pos >= self.window.stop

    def _piece(self, rate: float, lanes: int, gap: Span) -> int:
        assert self.total is not None
        wanted = max(_SMALLEST, int(rate * _TARGET_SECONDS)) if rate > 0 else _BLIND
        share = max(_SMALLEST, (self.total - gap.start) // (2 * max(1, lanes)))
        size = min(wanted, share, gap.size, self._chunk_size)
        if gap.size - size < _SMALLEST_SPLIT and gap.size <= self._chunk_size:
            size = gap.size
        if self.window is not None:
            size = min(size, self.window.stop - gap.start)
        return size

    def _slowest(self) -> Flight | None:
        """The flight that would be the last to end."""
        candidates = [f for f in self.flights if not f.hedged and f.rest > 0]
        return max(candidates, key=lambda f: (f.seconds_left, f.rest), default=None)

    def _late(self, flight: Flight, now: float, rate: float) -> bool:
        """Whether the rest of `flight` should be asked for again instead of waited for."""
        quiet = flight.pulse.quiet(now) >= _HEDGE_QUIET
        if now - flight.pulse.born < _HEDGE_QUIET:
            return False
        if rate <= 0:
            # Everything else came before anything could be measured.
            return quiet
        if not quiet and flight.pulse.rate * 4 > rate:
            return False
        return flight.seconds_left > max(_WORTHWHILE_SECONDS, _HEDGE * flight.rest / rate)

    def _split(self, flight: Flight, now: float, rate: float) -> Flight | None:
        """Give an idle connection the end of `flight`, so that both end together."""
        pulse = flight.pulse
        worthwhile = flight.seconds_left > _WORTHWHILE_SECONDS and pulse.rate > 0
        if not worthwhile or flight.rest < 2 * _SMALLEST_SPLIT:
            return None
        share = pulse.rate / (pulse.rate + max(rate, pulse.rate))
        middle = flight.pos + max(_SMALLEST_SPLIT, int(flight.rest * share))
        assert flight.stop is not None
        stop, flight.stop = flight.stop, middle
        return self._launch(now, middle, stop)
