"""One transfer as a state machine: what to ask for next, what is under way, whether all is there.

A plan knows bytes only. `take` gives the next `RangeRequest`, a transport moves its `pos` forward
as bytes reach the sink, and `end` takes it back. Ranges are given out from low to high, so
that a reader behind the front (a hash, a pipe) can follow.

Each request costs the time to its first byte, so a connection gets as few as possible, and ranges
are sized so that all connections end together (`range_size`):

    connection 1  |latency|==================|
    connection 2  |latency|==================|          no second request, no rest
    connection 3       |latency|=============|

Where that fails, because connections are not equally fast, an idle connection is given the end of
a slow request (`_split`), or asked for all of its rest (`_late`), but only if what is left takes
longer than another connection needs to overtake it. As long as nothing fails, no bytes are
requested a third time: a request made `again` is neither split nor repeated.

Some links are good for one answer, and some servers serve a range once and never again. So the
first request may ask for everything from its start on, and reads on until another one has been
answered; until then it holds a claim, behind which the others are asked for their bytes:

    first    |latency|==========claim>- - - reads on, should no other be answered - - - - - ->
    second       |latency|            ==========|
    third        |latency|                       ==========|
"""

from __future__ import annotations

from pgetpy.core.http.range_request import Latency, RangeRequest, RateMeter, Window, usual_lull
from pgetpy.core.http.range_size import PARTS, Prospect, is_held_up, next_gap, range_size
from pgetpy.core.http.ranges import OPEN_END, Span, Spans

MIB = 1 << 20
# Seconds that one connection may take for a window before several share it.
_WINDOW_TIME = 0.2
# Splitting a request costs its connection: not for less than this.
_SMALLEST_SPLIT = MIB // 2
_WORTHWHILE_SECONDS = 0.1
# Bytes of requests that still deliver may come twice: 1/64 of the object, at least 4 MiB.
_BUDGET = 64
_LEAST_BUDGET = 4 * MIB
# A rest that takes this many times longer than another connection would need is requested twice.
_HEDGE = 2.0
# A connection is slow if the others are 4 times as fast (within the budget), or 10 times (always).
_SLOW, _CRAWLS = 4, 10
_HEDGE_QUIET = 0.25
# What may be on its way, beside what comes in a latency, when a connection is closed.
_IN_FLIGHT = MIB // 8
# The first answer of a host whose latency is unknown is late after so many seconds.
_PROBE_LATE = 1.0


class Plan:
    """Which bytes are held, on their way, and missing.

    Args:
        chunk_size: the largest range to ask for.
        first: the size of the first range, which is also the probe.
        open_ended: whether the first request asks for all that follows as well.
        window: how far ahead a range may end; None for anywhere.
        held: what an earlier run left.

    Attributes:
        chunk_size, first: as given.
        latency: of the host that is asked.
    """

    def __init__(
        self,
        *,
        chunk_size: int,
        first: int,
        open_ended: bool = False,
        window: Window | None = None,
        held: Spans | None = None,
    ) -> None:
        self.total: int | None = None
        self.ranged = True
        self.held = held or Spans()
        self.parts: list[RangeRequest] = []
        self.window = window
        self.latency = Latency()
        self.chunk_size = chunk_size
        self.first = min(first, chunk_size)
        self._open_ended = open_ended
        self._again = 0

    @property
    def complete(self) -> bool:
        """Whether every byte has landed, whatever is still under way."""
        if self.window is not None and self.window.closed:
            landed = self.landed
            return all(landed.covers(*span) for span in self.window.only)
        if self.total is None:
            return False
        under_way = sum(part.pos - part.start for part in self.parts)
        return self.held.size + under_way >= self.total and self.landed.size >= self.total

    @property
    def done(self) -> int:
        """Bytes held and landed, none counted twice."""
        return self.landed.size

    @property
    def front(self) -> int:
        """Every byte before this one has landed."""
        return self.landed.frontier

    def probe(self, now: float, total: int | None = None) -> RangeRequest:
        """Return the first request: the first missing bytes, of an object of `total` if known.

        Where everything is held the last byte is asked for again: its answer tells whether the
        object is still the same.
        """
        limit = total if total is not None else self.held.frontier + self.first
        gap = next(self.held.missing(0, max(1, limit)), None)
        if gap is None:
            gap = Span(limit - 1, limit)
            return self._launch(now, *gap)
        probe = self._launch(now, gap.start, min(gap.stop, gap.start + self.first))
        probe.reads_on = self._open_ended and not self.held.overlaps(gap.start, OPEN_END)
        return probe

    def rest(self, now: float) -> RangeRequest | None:
        """Return a request for all that follows the first missing byte; None where one is under
        way or nothing is missing."""
        gap = None if self.total is None else next(self.held.missing(0, self.total), None)
        if gap is None or self.parts:
            return None
        rest = self._launch(now, gap.start, self.total or 0)
        rest.reads_on = True
        return rest

    @property
    def reader(self) -> RangeRequest | None:
        """The request that will deliver all that is missing if no other one does."""
        return next((p for p in self.parts if p.reads_on and p.meter.answered is not None), None)

    def end_reading_on(self) -> None:
        """Stop reading on at the claim: another request has been answered."""
        for part in self.parts:
            part.reads_on = False
            if part.claim is not None and part.stop is not None:
                part.stop = min(part.stop, max(part.claim, part.pos))
                part.claim = None

    @property
    def wants_only(self) -> bool:
        """Whether the sink wants something else before what comes in order."""
        return self.window is not None and bool(self.window.only)

    @property
    def fewest(self) -> int:
        """How many requests there may be at least: two where something else is wanted first, which
        the one that reads on may never reach, and where two files can be written at a time."""
        if self.wants_only:
            return 2 if self.reader is not None else 1
        two = self.window is not None and self.window.has_two_places(self.landed)
        return 2 if two else 1

    def keep_to_window(self, *, alone: bool) -> None:
        """Where something else is wanted first, what reads on ends with the window, unless what
        follows can be kept; and in any case if it is `alone`, so that no other may be asked."""
        if self.window is None or not self.wants_only or (self.window.keeps_all and not alone):
            return
        limit = self.window.horizon + self.window.size
        for part in self.parts:
            if part.reads_on and part.meter.answered is not None:
                part.claim = min(limit, part.claim or limit)
        self.end_reading_on()

    def probe_again(self, now: float) -> RangeRequest | None:
        """Ask for the first bytes a second time where the first answer is late."""
        if len(self.parts) != 1:
            return None
        probe = self.parts[0]
        patience = self.latency.late if self.latency.typical else _PROBE_LATE
        if probe.again or probe.stop is None or probe.meter.quiet(now) < patience:
            return None
        twin = self._launch_twin(now, probe)
        if twin is not None:
            twin.reads_on = probe.reads_on
        return twin

    def take(
        self, now: float, rate: float, connections: int, expected: int | None = None
    ) -> RangeRequest | None:
        """Return the next request for an idle connection, or None where there is nothing to do.

        `rate` is what one connection delivers in bytes a second (0: unknown), `connections` how
        many there may be now, and `expected` how many soon.
        """
        if self.total is None or not self.ranged:
            return None
        reader = self.reader
        if reader is not None and reader.claim is None:
            if not self.wants_only:
                if self._about_to_show(now, rate):
                    return None
                self._give_claim(reader, now, rate, connections, expected or connections)
            elif self.window is not None:
                # Where the rest goes depends on what is wanted: that is not waited for.
                reader.claim = max(reader.pos, self.window.horizon + self.window.size)
                reader.claim = min(reader.claim, reader.stop or self.total)
        gap, unasked = self._gap()
        # Where a reader in order holds up all that is new, what it waits for may still be hurried.
        held_up = gap is not None and is_held_up(gap, self.window)
        if gap is None or held_up:
            slowest = self._slowest()
            if slowest is None:
                return None
            if self._late(slowest, now, rate):
                return self._launch_twin(now, slowest)
            return None if held_up else self._split(slowest, now, rate)
        if self._about_to_show(now, rate) and not self.wants_only:
            return None
        latency, expected = self.latency.typical, expected or connections
        prospect = Prospect(now, rate, latency, connections, expected, unasked, self.parts)
        size = self._fitted(gap, prospect)
        return self._launch(now, gap.start, gap.start + size) if size > 0 else None

    def end(self, part: RangeRequest, *, failed: bool = False) -> None:
        """Take `part` back: what it landed is held, the rest is missing again. If it `failed`, its
        rest may be asked for as often as before."""
        self.held.add(part.start, part.pos)
        self.parts.remove(part)
        twin = part.twin
        if twin is not None:
            twin.twin = None
            # A second request that fails is not made a third time.
            twin.again = part.again or not failed

    def superfluous(self) -> list[RangeRequest]:
        """Return the requests whose rest has arrived by another way, or is about to."""
        if self.total is None:
            return []  # what is held may have to be thrown away yet
        if not self.ranged:
            # The one answer that brings the whole is enough.
            return [part for part in self.parts if part.meter.answered is None]
        landed = self.landed
        return [
            part
            for part in self.parts
            if part.rest and (landed.covers(part.pos, part.pos + part.rest) or part.is_overtaken)
        ]

    def forget(self) -> None:
        """Discard what is held: the object is another one."""
        self.held = Spans()
        self.total = None

    def _launch(self, now: float, start: int, stop: int, *, again: bool = False) -> RangeRequest:
        meter = RateMeter(born=now, quiet_since=now, seen_at=now, seen_pos=start)
        part = RangeRequest(start, stop, pos=start, counted=start, meter=meter, again=again)
        self.parts.append(part)
        return part

    @property
    def landed(self) -> Spans:
        """Bytes held, and bytes received by requests that are still under way."""
        landed = Spans(self.held)
        for part in self.parts:
            landed.add(part.start, part.pos)
        return landed

    def _gap(self) -> tuple[Span | None, int]:
        """The bytes to ask for next, neither held nor under way; and how many such bytes may be
        asked for in all."""
        assert self.total is not None
        return next_gap(self._taken(self.total), self.total, self.window, self.parts)

    def _taken(self, total: int) -> Spans:
        """Bytes held, and bytes that requests under way will deliver."""
        taken = Spans(self.held)
        for part in self.parts:
            stop = part.stop if part.claim is None else max(part.claim, part.pos)
            taken.add(part.start, total if stop is None else stop)
        return taken

    def _fitted(self, gap: Span, prospect: Prospect) -> int:
        """How much of `gap` to ask for next."""
        size, least = range_size(prospect)
        if self.window is not None:
            # A window that moves on by little would be asked for in many small pieces.
            size = max(size, self.window.size // (2 * prospect.connections))
            slow = prospect.rate * _WINDOW_TIME < self.window.size
            if slow and gap.start >= self.window.horizon and not self.wants_only:
                # Several requests share the window, or it would move on at the pace of one.
                size = min(size, self.window.size // min(4, prospect.connections))
        size = min(size, gap.size, self.chunk_size)
        if gap.size - size < min(least, size) and gap.size <= self.chunk_size:
            size = gap.size
        return size if self.window is None else min(size, self.window.stop - gap.start)

    def _about_to_show(self, now: float, rate: float) -> bool:
        """Whether a rate will be known in a moment, which tells how much to ask for."""
        return rate <= 0 and any(part.meter.quiet(now) < _HEDGE_QUIET for part in self.parts)

    def _give_claim(
        self, reader: RangeRequest, now: float, rate: float, connections: int, expected: int
    ) -> None:
        """Set the claim of `reader`: a range as for a new connection, which would have to wait."""
        assert self.total is not None
        others = [part for part in self.parts if part is not reader]
        latency, gap = self.latency.typical, Span(reader.pos, self.total)
        prospect = Prospect(now, rate, latency, connections, expected, gap.size, others)
        # The largest size of a range does not apply: this one has been requested already.
        size = range_size(prospect)[0] + int(rate * latency)
        if (window := self.window) is not None:
            # What follows the horizon waits for it, so it is not longer than another range.
            size = min(size, max(MIB, window.size // PARTS, window.horizon - reader.pos))
            size = min(size, window.stop - reader.pos)
        stop = reader.stop or self.total
        reader.claim = stop if stop - gap.start - size < _SMALLEST_SPLIT else gap.start + size

    def _slowest(self) -> RangeRequest | None:
        """The request that would be the last to end, of those asked for once."""
        reader = self.reader
        # While the first request reads on it covers the others' ranges: only it can be helped.
        parts = self.parts if reader is None else [reader]
        candidates = [f for f in parts if not f.again and f.twin is None and f.owed > 0]
        # The rest of a request may have landed by another one that has just read on over it.
        landed = self.landed
        candidates = [f for f in candidates if not landed.covers(f.pos, f.pos + f.owed)]
        return max(candidates, key=lambda f: (f.seconds_left, f.owed), default=None)

    def _late(self, part: RangeRequest, now: float, rate: float) -> bool:
        """Whether the rest of `part` should be asked for again instead of waited for."""
        meter = part.meter
        if meter.answered is None:
            return now - meter.born >= self.latency.late and meter.quiet(now) >= self.latency.late
        if now - meter.answered < _HEDGE_QUIET:
            return False
        quiet = part.is_silent_alone(self.parts, now, max(_HEDGE_QUIET, self.latency.typical))
        if rate <= 0:
            # Everything else came before anything could be measured.
            return quiet
        if not quiet and not self._slow_enough(part, rate):
            return False
        needed = self.latency.typical + _HEDGE * part.owed / rate
        return part.seconds_left > max(_WORTHWHILE_SECONDS, needed)

    def _slow_enough(self, part: RangeRequest, rate: float) -> bool:
        """Whether `part`, which delivers, is so far behind the others that it may be replaced."""
        if usual_lull(self.parts) >= _HEDGE_QUIET:
            return False  # between two bursts every connection is slow for a while
        own = part.meter.rate
        # It may be short of processor time, and then another connection would be too: so be strict.
        return own * _CRAWLS <= rate or (own * _SLOW <= rate and self._within_budget(part.owed))

    def _launch_twin(self, now: float, slow: RangeRequest) -> RangeRequest | None:
        """Ask for the rest of `slow` a second time, or for as much of it as one range may be."""
        start = self._not_landed(slow.pos, slow.pos + slow.owed)
        stop = min(slow.pos + slow.owed, start + self.chunk_size)
        if self.window is not None:
            stop = min(stop, self.window.stop)
        if stop <= start:
            return None  # the window has closed since it was asked for
        self._again += stop - start
        twin = self._launch(now, start, stop, again=True)
        slow.twin, twin.twin = twin, slow
        return twin

    def _split(self, part: RangeRequest, now: float, rate: float) -> RangeRequest | None:
        """Give an idle connection the end of `part`, so that both end together."""
        meter, latency = part.meter, self.latency.typical
        own = meter.rate
        if meter.answered is None or now - meter.answered < max(_WORTHWHILE_SECONDS, latency):
            return None  # how fast it is has yet to show
        if own <= 0 or part.seconds_left <= latency + 2 * _WORTHWHILE_SECONDS:
            return None
        other = max(rate, own)
        # Both end after T seconds: own * T + other * (T - latency) is the rest.
        pos, owed = part.pos, part.owed
        seconds = (owed + other * latency) / (own + other)
        kept = max(_SMALLEST_SPLIT, int(own * seconds))
        middle, stop = self._not_landed(pos + kept, pos + owed), pos + owed
        gained = part.seconds_left - seconds
        if stop - middle < _SMALLEST_SPLIT or gained < _WORTHWHILE_SECONDS:
            return None
        size = min(stop - middle, self.chunk_size)
        wasted = min(size, _IN_FLIGHT + int(own * latency))
        if not self._within_budget(wasted):
            return None
        if part.reads_on:
            part.claim = middle
        else:
            part.stop = middle
        self._again += wasted
        return self._launch(now, middle, middle + size, again=True)

    def _not_landed(self, start: int, stop: int) -> int:
        """The first byte from `start` on that no request has landed; `stop` if all have come."""
        return next(self.landed.missing(start, stop), Span(stop, stop)).start

    def _within_budget(self, size: int) -> bool:
        """Whether `size` more bytes may come twice to save time."""
        assert self.total is not None
        return self._again + size <= max(_LEAST_BUDGET, self.total // _BUDGET)
