"""What to ask for in one range: where it begins, and how much.

`next_gap` says where: at the first bytes that no request covers, in the order that the sink wants.

For the size, two aims conflict. Each request costs the time to its first byte, so ranges should be
few and long. All connections should end together, so no range should be longer than its
connection's share of what is left. `share` computes that share; `range_size` keeps it within what
is worth a request.

The share is a water level. Connection i can begin with new bytes at time b(i): an idle one after
one latency, a busy one after its current range and one more latency. Pour the unasked bytes U over
the connections; they fill up to the same time T:

    time
     T ~~~~|######|######|######|~~~~~~|~~~~~~      #  new bytes, at `rate` a second
           |######|######|......|      |//////      .  latency
           |######|......|//////|      |//////      /  what is under way
     b(1)  |......|//////|//////|      |//////      the last connection ends after T: it gets none
           +------+------+------+      +------

    U = sum of rate * (T - b(i)) over the n connections with b(i) < T
    T = (U / rate + sum of b(i)) / n

`share` adds connections in the order of b(i) until the next one would begin after T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pgetpy.core.http.pace import PERIOD
from pgetpy.core.http.range_request import RangeRequest, Window
from pgetpy.core.http.ranges import OPEN_END, Span, Spans

MIB = 1 << 20
# The least a connection is opened for: what it delivers in so many seconds, and in this part of the
# latency. Below that the other connections finish the rest sooner.
_LEAST_SECONDS = 0.05
_LEAST_LATENCIES = 0.125
_SMALLEST = MIB
# A range that another one follows on the same connection lasts at least this long and this many
# latencies: then waiting costs a connection a fifth of its time at most. Where the latency is
# short, no range lasts much longer than half a second, so that the plan can still adapt.
_WORTHWHILE_SECONDS = 0.1
_LATENCIES = 4.0
_LONGEST_SECONDS = 0.5
# A step to more connections takes a latency and a measuring period, and pays only if the rest of
# the transfer takes this many times longer.
_CLIMBS = 1.5
# The most to ask for while no connection's rate is known. If it is slow, its rest is split later.
_BLIND = 32 * MIB
# With so many connections each file has writers enough, and headers had better not wait for a hole.
_FEW = 4
# A hole of this size before the horizon is filled on the way to it.
_NEAR = 4 * MIB
# A window moves on in so many steps, so about as many requests are under way in it.
PARTS = 32


class Prospect(NamedTuple):
    """What is known when the next range is to be asked for.

    Attributes:
        now: seconds of a monotonic clock.
        rate: what one connection delivers, bytes a second; 0 while it is unknown.
        latency: seconds from asking to the first byte.
        connections: how many there may be now.
        expected: how many there may soon be, if the climb goes on.
        unasked: bytes that have not been requested yet.
        under_way: the requests that are in flight.
    """

    now: float
    rate: float
    latency: float
    connections: int
    expected: int
    unasked: int
    under_way: Sequence[RangeRequest]


def range_size(prospect: Prospect) -> tuple[int, int]:
    """Return how many bytes to ask for, and the fewest that are worth a request.

    Without a rate the unasked bytes are divided evenly, up to `_BLIND`.
    """
    rate, latency = prospect.rate, prospect.latency
    if rate <= 0:
        return max(_SMALLEST, min(_BLIND, prospect.unasked // prospect.connections)), _SMALLEST
    worth = rate * max(_WORTHWHILE_SECONDS, latency * _LATENCIES)
    least = max(_SMALLEST, int(rate * max(_LEAST_SECONDS, latency * _LEAST_LATENCIES)))
    left = prospect.unasked + sum(asked.owed for asked in prospect.under_way)
    useful = prospect.connections
    if left > rate * useful * _CLIMBS * (latency + PERIOD):
        # The climb goes on: leave work for connections yet to come, as far as each gets a range
        # that is worth it.
        useful = min(prospect.expected, max(useful, int(left / worth)))
    # No more connections than there are ranges of the least size.
    useful = min(useful, -(-left // least))
    size = share(prospect, useful)
    if size >= 2 * worth:
        # Half of the share now, the rest later: connections that turn out to be faster take more.
        size = min(max(worth, size / 2), max(worth, rate * _LONGEST_SECONDS))
    return max(least, int(size)), least


def share(prospect: Prospect, connections: int) -> float:
    """Return the share of an idle connection, in bytes, with which all connections end together.

    It is rate * (T - latency) with the T of the module's theory. `connections` beyond those under
    way are idle and begin after one latency.
    """
    rate, latency = prospect.rate, prospect.latency
    begins = [latency] * max(1, connections - len(prospect.under_way))
    begins += [each.ends_in(prospect.now, rate, latency) + latency for each in prospect.under_way]
    begins.sort()
    end = total = 0.0
    for number, begin in enumerate(begins, 1):
        if number > 1 and begin >= end:
            break
        total += begin
        end = (prospect.unasked / rate + total) / number
    return rate * (end - latency)


def next_gap(
    taken: Spans, total: int, window: Window | None, under_way: Sequence[RangeRequest] = ()
) -> tuple[Span | None, int]:
    """Return the bytes to ask for next, and how many bytes may be asked for in all.

    Args:
        taken: bytes held, and those that have been asked for.
        total: size of the object.
        window: of the sink; None where bytes may come in any order.
        under_way: the requests that are in flight.

    Returns:
        The first gap, or the first one in the window (`_wants_headers`); None where there is
        nothing to ask for.
    """
    if window is None:
        return next(taken.missing(0, total), None), total - taken.size
    if window.only or window.closed:
        gaps = [gap for span in window.only for gap in taken.missing(span.start, span.stop)]
        return next(iter(gaps), None), sum(gap.size for gap in gaps)
    first = next(taken.missing(0, total), None)
    horizon, stop = window.horizon, min(total, window.stop)
    unasked = sum(gap.size for gap in taken.missing(0, stop))
    few = len(under_way) < _FEW
    # A small gap just before the horizon is filled on the way to it.
    if first is not None and horizon - first.start >= _NEAR:
        hole = _hole_before(horizon, taken) if few else None
        start = horizon if hole is None else hole.start
        ahead = next(taken.missing(start, stop), None)
        if ahead is not None and not is_held_up(ahead, window):
            before = sum(gap.size for gap in taken.missing(0, horizon))
            if _wants_headers(before, total, horizon, under_way):
                return ahead, unasked
    if first is not None and window.files and few:
        first = _in_free_file(first, taken, window.files, under_way)
    return first, unasked


def _hole_before(horizon: int, taken: Spans) -> Span | None:
    """Return the little that is missing just before `horizon`.

    A window ends within some member. Once more is known, its rest would be asked for at the end.
    """
    before = max(0, horizon - _SMALLEST)
    hole = next(taken.missing(before, horizon), None)
    return hole if hole is not None and hole.start > before else None


def _in_free_file(
    first: Span, taken: Spans, files: Sequence[Span], under_way: Sequence[RangeRequest]
) -> Span:
    """Return `first`, or, if a request writes to its file, the first gap of one without any."""
    busy = Spans()
    for part in under_way:
        stop = part.stop if part.claim is None else part.claim
        busy.add(part.pos, OPEN_END if stop is None else max(part.pos, stop))
    if not any(busy.overlaps(*file) for file in files if file.start <= first.start < file.stop):
        return first
    free = (file for file in files if not busy.overlaps(*file))
    return next((gap for file in free for gap in taken.missing(*file)), first)


def _wants_headers(
    before: int, total: int, horizon: int, under_way: Sequence[RangeRequest]
) -> bool:
    """Whether the next request should be for bytes in the window, although `before` bytes of known
    place are left.

    What follows the horizon comes in order, a window at a time, and may take longer than all the
    rest. So it gets its share of the connections, twice over, from the beginning.
    """
    after = total - horizon
    ahead = sum(part.stop is not None and part.stop > horizon for part in under_way)
    return ahead * (before + after) < 2 * (len(under_way) + 1) * after


def is_held_up(gap: Span, window: Window | None) -> bool:
    """Whether `gap` has to wait until the window has moved on.

    A window moves on by little at a time. Except for the horizon itself nothing is asked for that
    would be a small part of the window, or most of the time would go into requests.
    """
    if window is None:
        return False
    room = window.stop - gap.start
    return room <= 0 or (gap.start > window.horizon and room < min(gap.size, window.size // PARTS))
