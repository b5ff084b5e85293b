"""How much to ask for in one range.

Two things pull at it. Each request costs the time to its first byte, so ranges should be few and
long; and all connections should end together, so none should be given more than its part.
`share` finds that part, `range_size` keeps it within what pays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgetpy.core.http.pace import PERIOD
from pgetpy.core.http.range_request import RangeRequest

MIB = 1 << 20
# A connection is not opened for less than this, nor for less than this part of the latency.
_LEAST_SECONDS = 0.05
_LEAST_LATENCIES = 0.125
_SMALLEST = MIB
# A range is followed by another on the same connection only if it lasts this long, and this many
# times the latency; and where the latency is short, no range lasts much longer than half a second.
_WORTHWHILE_SECONDS = 0.1
_LATENCIES = 4.0
_LONGEST_SECONDS = 0.5
# A step of the climb to more connections takes a latency and a measuring period, and pays only if
# what is left takes this many times longer.
_CLIMBS = 1.5
# While nothing is known of a connection's rate. If it is slow, its rest is split again.
_BLIND = 32 * MIB


@dataclass(frozen=True)
class Prospect:
    """What is known when the next range is to be asked for.

    Attributes:
        now: seconds, by any clock that goes on steadily.
        rate: what one connection delivers, bytes a second; 0 while it is unknown.
        latency: seconds from asking to the first byte.
        connections: how many there may be now.
        expected: how many there may soon be, if the climb goes on.
        unasked: bytes that nobody has been asked for yet.
        under_way: what has been asked for.
    """

    now: float
    rate: float
    latency: float
    connections: int
    expected: int
    unasked: int
    under_way: Sequence[RangeRequest]


def range_size(prospect: Prospect) -> tuple[int, int]:
    """Return how many bytes to ask for, and the fewest that are worth a request."""
    rate, latency = prospect.rate, prospect.latency
    if rate <= 0:
        return max(_SMALLEST, min(_BLIND, prospect.unasked // prospect.connections)), _SMALLEST
    worth = rate * max(_WORTHWHILE_SECONDS, latency * _LATENCIES)
    least = max(_SMALLEST, int(rate * max(_LEAST_SECONDS, latency * _LEAST_LATENCIES)))
    left = prospect.unasked + sum(asked.owed for asked in prospect.under_way)
    useful = prospect.connections
    if left > rate * useful * _CLIMBS * (latency + PERIOD):
        # Keep something for connections that are yet to come, as far as it is worth a range.
        useful = min(prospect.expected, max(useful, int(left / worth)))
    useful = min(useful, -(-left // least))
    size = share(prospect, useful)
    if size >= 2 * worth:
        # Leave something for connections that turn out to be faster.
        size = min(max(worth, size / 2), max(worth, rate * _LONGEST_SECONDS))
    return max(least, int(size)), least


def share(prospect: Prospect, connections: int) -> float:
    """Return how many bytes the next connection is to bring so that all of them end together.

    A connection can begin with new bytes once it has brought what it was asked for and waited for
    another answer. If all end after T seconds, the bytes that nobody was asked for yet are the sum
    of rate * (T - begin) over the connections that begin before T.
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
