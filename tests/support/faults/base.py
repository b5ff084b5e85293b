"""What a fault is, and which requests it meets."""

import sys
from collections.abc import Container
from dataclasses import dataclass, field

from ..delivery import Outcome
from ..resources import Answer, Resource
from ..rfc9110 import Request

Which = int | Container[int] | None


def at_least(first: int) -> range:
    """The numbers from ``first`` on, for ``When``."""
    return range(first, sys.maxsize)


@dataclass
class Tally:
    """What has happened to one resource so far."""

    requests: int = 0
    active: int = 0
    fired: "dict[int, tuple[Fault, int]]" = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    let_out: int = 0

    def fire(self, fault: "Fault") -> int:
        """Count one more meeting with this very fault."""
        # By identity, for a fault may hold a set; kept here, so that no other takes its id.
        _, count = self.fired.get(id(fault), (fault, 0))
        self.fired[id(fault)] = (fault, count + 1)
        return count + 1

    def let(self, wanted: int, most: int) -> int:
        """How many of ``wanted`` body bytes may go out if ``most`` may in all; counts them."""
        granted = max(0, min(wanted, most - self.let_out))
        self.let_out += granted
        return granted

    @property
    def sent(self) -> int:
        """Body bytes sent, those of answers still under way included."""
        return sum(outcome.sent for outcome in self.outcomes)


@dataclass(frozen=True)
class Exchange:
    """One request as a fault sees it: ``nth`` on its resource and ``connection``, from 1."""

    request: Request
    nth: int
    connection: int
    tally: Tally
    resource: Resource


def _is(number: int | None, which: Which) -> bool:
    if which is None:
        return True
    if number is None:
        return False
    return number == which if isinstance(which, int) else number in which


@dataclass(frozen=True)
class When:
    """Which requests a fault meets; every condition given must hold.

    ``request`` and ``connection`` count from 1; ``start`` is the first byte asked for, ``covers``
    a byte that the range asked for includes; ``times`` stops after the first so many; ``after``
    waits until so many body bytes of the resource have been sent.
    """

    request: Which = None
    connection: Which = None
    start: Which = None
    covers: int | None = None
    times: int | None = None
    after: int = 0
    method: str | None = None
    ranged: bool | None = None

    def matches(self, exchange: Exchange) -> bool:
        request = exchange.request
        return (
            _is(exchange.nth, self.request)
            and _is(exchange.connection, self.connection)
            and _is(request.start, self.start)
            and (self.covers is None or self._covered(exchange))
            and exchange.tally.sent >= self.after
            and self.method in (None, request.method)
            and self.ranged in (None, bool(request.specs))
        )

    def _covered(self, exchange: Exchange) -> bool:
        total = len(exchange.resource.body)
        spans = [spec.span(total) for spec in exchange.request.specs] or [(0, total)]
        return any(span and span[0] <= (self.covers or 0) < span[1] for span in spans)


@dataclass(frozen=True)
class Fault:
    """The base of all; changes nothing."""

    when: When = field(default=When(), kw_only=True)

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return resource

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return answer


def met(exchange: Exchange) -> list[Fault]:
    """The faults of the resource that meet this request; counts them against their ``times``."""
    found = []
    for fault in exchange.resource.faults:
        if not fault.when.matches(exchange):
            continue
        count = exchange.tally.fire(fault)
        if fault.when.times is None or count <= fault.when.times:
            found.append(fault)
    return found
