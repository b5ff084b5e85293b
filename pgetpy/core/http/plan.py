"""One transfer as a state machine: what to ask for next, what is on its way, whether all is there.

A plan knows bytes only. `take` gives the next range to ask for as a `Flight`; whoever carries it
moves `pos` forward as bytes reach the sink, and `end` takes it back. Ranges are given out from low
to high, so that a reader behind the front (a hash, a pipe) can follow.

Each request costs the time to its first byte, so a connection is asked as seldom as possible, and
ranges are sized so that all connections end together (`_piece`):

    connection 1  |latency|==================|
    connection 2  |latency|==================|          no second request, no rest
    connection 3       |latency|=============|

Where that fails, because connections are not equally fast, the end of a slow flight is given to an
idle connection (`_split`), or its whole rest asked for a second time (`_late`), but only if what is
left takes longer than another connection needs to overtake it. The same bytes are not asked for a
third time as long as nothing fails: what is asked for `again` is neither split nor asked for anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgetpy.core.http.pace import PERIOD, Latency, Pulse
from pgetpy.core.http.ranges import Span, Spans

MIB = 1 << 20
# More connections are not opened for less than this, nor for less than this part of the latency.
_LEAST_SECONDS = 0.05
_LEAST_LATENCIES = 0.125
# A step of the climb pays after so many times what it takes.
_CLIMBS = 1.5
# A range is followed by another on the same connection only if it lasts this many times the time to
# its first byte; where that is short, no range lasts much longer than this.
_LATENCIES = 4.0
_LONGEST_SECONDS = 0.5
_SMALLEST = MIB
# As long as nothing is known of a connection's rate; if it is slow its rest is split again.
_BLIND = 32 * MIB
# A hole of this size before the horizon is filled on the way to it.
_NEAR = 4 * MIB
# Splitting a flight costs its connection: not for less than this.
_SMALLEST_SPLIT = MIB // 2
_WORTHWHILE_SECONDS = 0.1
# What delivers is asked for anew up to this part of the object in all, or so many bytes.
_BUDGET = 64
_LEAST_BUDGET = 4 * MIB
# A rest that would take this many times longer than another connection needs is asked for twice.
_HEDGE = 2.0
# How many times slower than the others a connection has to be for its rest to be asked for twice.
_SLOW, _CRAWLS = 4, 10
_HEDGE_QUIET = 0.25
# The first answer of a host that has not been asked before is late after so many seconds.
_PROBE_LATE = 1.0
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
        again: whether its bytes have been asked for before.
        twin: the flight that was asked for the same rest; each has the other.
        counted: up to where its bytes are in the sums already.
    """

    start: int
    stop: int | None
    pulse: Pulse
    pos: int = field(init=False)
    waiting: bool = True
    again: bool = False
    twin: Flight | None = None
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

    def ends_in(self, now: float, rate: float, latency: float) -> float:
        """Seconds to its end, at `rate` bytes a second or its own if it is slower."""
        if self.pulse.answered is None:
            return max(0.0, self.pulse.born + latency - now) + self.rest / rate
        own = self.pulse.rate
        return self.rest / (min(own, rate) if own > 0 else rate)

    @property
    def is_overtaken(self) -> bool:
        """Whether its twin will have brought the rest sooner: one of the two is enough."""
        twin = self.twin
        if twin is None or self.pulse.answered is None or twin.pos <= self.pos:
            return False
        return twin.seconds_left * _HEDGE < self.seconds_left


class Plan:
    """Which bytes are held, on their way, and missing.

    Args:
        chunk_size: the largest range to ask for.
        first: the size of the first range, which is also the probe.
        window: how far ahead a range may end; None for anywhere.
        held: what an earlier run left.

    Attributes:
        latency: of the host that is asked.
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
        self.latency = Latency()
        self._chunk_size = chunk_size
        self._first = min(first, chunk_size)
        self._again = 0

    @property
    def complete(self) -> bool:
        """Whether every byte has landed, whatever is still under way."""
        if self.window is not None and self.window.closed:
            landed = self.landed
            return all(landed.covers(*span) for span in self.window.only)
        if self.total is None:
            return False
        under_way = sum(flight.pos - flight.start for flight in self.flights)
        return self.held.size + under_way >= self.total and self.landed.size >= self.total

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

    def probe_again(self, now: float) -> Flight | None:
        """Ask for the first bytes a second time where the first answer is late."""
        if len(self.flights) != 1:
            return None
        probe = self.flights[0]
        patience = self.latency.late if self.latency.typical else _PROBE_LATE
        if probe.again or probe.stop is None or probe.pulse.quiet(now) < patience:
            return None
        return self._launch_twin(now, probe)

    def take(
        self, now: float, rate: float, lanes: int, expected: int | None = None
    ) -> Flight | None:
        """Return the next flight for an idle connection, or None where there is nothing to do.

        `rate` is what one connection delivers in bytes a second (0: unknown), `lanes` how many
        there may be now, and `expected` how many soon.
        """
        if self.total is None or not self.ranged:
            return None
        gap, unasked = self._gap()
        # Where a reader in order holds up all that is new, what he waits for may still be hurried.
        held_up = gap is not None and self._is_beyond_window(gap.start)
        if gap is None or held_up:
            slowest = self._slowest()
            if slowest is None:
                return None
            if self._late(slowest, now, rate):
                return self._launch_twin(now, slowest)
            return None if held_up else self._split(slowest, now, rate)
        if rate <= 0 and any(flight.pulse.quiet(now) < _HEDGE_QUIET for flight in self.flights):
            return None  # how much to ask for is about to show
        size = self._piece(now, rate, (lanes, expected or lanes), gap, unasked)
        return self._launch(now, gap.start, gap.start + size) if size > 0 else None

    def end(self, flight: Flight, *, failed: bool = False) -> None:
        """`flight` is over; what it landed is held, and what it owed after it `failed` may be asked
        for as often as before."""
        self.held.add(flight.start, flight.pos)
        self.flights.remove(flight)
        twin = flight.twin
        if twin is not None:
            twin.twin = None
            # A second request that fails is not made a third time.
            twin.again = flight.again or not failed

    def superfluous(self) -> list[Flight]:
        """Return the flights whose rest has arrived by another way, or is about to."""
        if self.total is None:
            return []  # what is held may have to be thrown away yet
        if not self.ranged:
            # The one answer that brings the whole is enough.
            return [flight for flight in self.flights if flight.pulse.answered is None]
        landed = self.landed
        return [
            flight
            for flight in self.flights
            if flight.rest
            and (landed.covers(flight.pos, flight.pos + flight.rest) or flight.is_overtaken)
        ]

    def forget(self) -> None:
        """Nothing that is held is worth anything: the object is another one."""
        self.held = Spans()
        self.total = None

    def _launch(self, now: float, start: int, stop: int, *, again: bool = False) -> Flight:
        flight = Flight(start, stop, Pulse.at(now, start), again=again)
        if again:
            self._again += stop - start
        self.flights.append(flight)
        return flight

    @property
    def landed(self) -> Spans:
        """What is held, and what has come on flights that are under way."""
        landed = Spans(self.held)
        for flight in self.flights:
            landed.add(flight.start, flight.pos)
        return landed

    def _gap(self) -> tuple[Span | None, int]:
        """The bytes to ask for next, neither held nor under way: at the horizon, or the first; and
        how many such bytes may be asked for in all."""
        assert self.total is not None
        taken = Spans(self.held)
        for flight in self.flights:
            taken.add(flight.start, self.total if flight.stop is None else flight.stop)
        if self.window is None:
            return next(taken.missing(0, self.total), None), self.total - taken.size
        if self.window.only or self.window.closed:
            gaps = [
                gap for span in self.window.only for gap in taken.missing(span.start, span.stop)
            ]
            return next(iter(gaps), None), sum(gap.size for gap in gaps)
        first = next(taken.missing(0, self.total), None)
        unasked = sum(gap.size for gap in taken.missing(0, min(self.total, self.window.stop)))
        if first is None or not self.window.size:
            return first, unasked
        horizon = self.window.horizon
        # What is left a little before the horizon is fetched on the way to it.
        if horizon - first.start < _NEAR or horizon >= self.total:
            return first, unasked
        at_horizon = not taken.covers(horizon, horizon + 1)
        return (next(taken.missing(horizon, self.total)) if at_horizon else first), unasked

    def _is_beyond_window(self, pos: int) -> bool:
        return self.window is not None and pos >= self.window.stop

    def _piece(
        self, now: float, rate: float, lanes: tuple[int, int], gap: Span, unasked: int
    ) -> int:
        """How much of `gap` to ask for next.

        As much as lets all connections end together; where that would take long, a part of it, so
        that something is left for connections that turn out to be faster.
        """
        if rate > 0:
            latency = self.latency.typical
            worth = rate * max(_WORTHWHILE_SECONDS, latency * _LATENCIES)
            least = max(_SMALLEST, int(rate * max(_LEAST_SECONDS, latency * _LEAST_LATENCIES)))
            left = unasked + sum(flight.rest for flight in self.flights)
            useful = lanes[0]
            if left > rate * useful * _CLIMBS * (latency + PERIOD):
                # Something is kept for connections that are yet to come, if it is worth a range.
                useful = min(lanes[1], max(useful, int(left / worth)))
            useful = min(useful, -(-left // least))
            share = self._share(now, rate, useful, unasked)
            if share >= 2 * worth:
                share = min(max(worth, share / 2), max(worth, rate * _LONGEST_SECONDS))
        else:
            least = _SMALLEST
            share = min(_BLIND, unasked / lanes[0])
        size = min(max(least, int(share)), gap.size, self._chunk_size)
        if gap.size - size < min(least, size) and gap.size <= self._chunk_size:
            size = gap.size
        if self.window is not None:
            # A window that moves on by little would be asked for in many small pieces.
            size = min(max(size, self.window.size // (2 * lanes[0])), gap.size, self._chunk_size)
            size = min(size, self.window.stop - gap.start)
        return size

    def _share(self, now: float, rate: float, lanes: int, unasked: int) -> float:
        """How many of the bytes that are not asked for yet the next connection is to bring.

        Each connection can begin with them once it has brought what it was asked for and waited for
        another answer. If all end after T seconds, what they bring until then is all there is:
        the sum of rate * (T - begin) over those that begin before T.
        """
        latency = self.latency.typical
        begins = [latency] * max(1, lanes - len(self.flights))
        begins += [flight.ends_in(now, rate, latency) + latency for flight in self.flights]
        begins.sort()
        end = total = 0.0
        for number, begin in enumerate(begins, 1):
            if number > 1 and begin >= end:
                break
            total += begin
            end = (unasked / rate + total) / number
        return rate * (end - latency)

    def _slowest(self) -> Flight | None:
        """The flight that would be the last to end, of those asked for once."""
        candidates = [f for f in self.flights if not f.again and f.twin is None and f.rest > 0]
        return max(candidates, key=lambda f: (f.seconds_left, f.rest), default=None)

    def _late(self, flight: Flight, now: float, rate: float) -> bool:
        """Whether the rest of `flight` should be asked for again instead of waited for."""
        pulse = flight.pulse
        if pulse.answered is None:
            return now - pulse.born >= self.latency.late and pulse.quiet(now) >= self.latency.late
        if now - pulse.answered < _HEDGE_QUIET:
            return False
        quiet = pulse.quiet(now) >= max(_HEDGE_QUIET, self.latency.typical)
        if rate <= 0:
            # Everything else came before anything could be measured.
            return quiet
        if not quiet and not self._slow_enough(flight, rate):
            return False
        needed = self.latency.typical + _HEDGE * flight.rest / rate
        return flight.seconds_left > max(_WORTHWHILE_SECONDS, needed)

    def _slow_enough(self, flight: Flight, rate: float) -> bool:
        """Whether `flight`, which delivers, is so far behind the others that it may be replaced."""
        own = flight.pulse.rate
        # It may be processors that it lacks: another connection would lack them as well.
        return own * _CRAWLS <= rate or (own * _SLOW <= rate and self._within_budget(flight.rest))

    def _launch_twin(self, now: float, slow: Flight) -> Flight:
        """Ask for the rest of `slow` a second time, or for as much of it as one range may be."""
        stop = min(slow.pos + slow.rest, slow.pos + self._chunk_size)
        if self.window is not None:
            stop = min(stop, self.window.stop)
        twin = self._launch(now, slow.pos, stop, again=True)
        slow.twin, twin.twin = twin, slow
        return twin

    def _split(self, flight: Flight, now: float, rate: float) -> Flight | None:
        """Give an idle connection the end of `flight`, so that both end together."""
        pulse, latency = flight.pulse, self.latency.typical
        own = pulse.rate
        if pulse.answered is None or now - pulse.answered < max(_WORTHWHILE_SECONDS, latency):
            return None  # how fast it is has yet to show
        if own <= 0 or flight.seconds_left <= latency + 2 * _WORTHWHILE_SECONDS:
            return None
        other = max(rate, own)
        # Both end after T seconds: own * T + other * (T - latency) is the rest.
        seconds = (flight.rest + other * latency) / (own + other)
        kept = max(_SMALLEST_SPLIT, int(own * seconds))
        middle, stop = flight.pos + kept, flight.stop
        assert stop is not None
        gained = flight.seconds_left - seconds
        if stop - middle < _SMALLEST_SPLIT or gained < _WORTHWHILE_SECONDS:
            return None
        size = min(stop - middle, self._chunk_size)
        if not self._within_budget(size):
            return None
        flight.stop = middle
        return self._launch(now, middle, middle + size, again=True)

    def _within_budget(self, size: int) -> bool:
        """Whether `size` bytes that are on their way may be asked for anew to save time."""
        assert self.total is not None
        return self._again + size <= max(_LEAST_BUDGET, self.total // _BUDGET)
