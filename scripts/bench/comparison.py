"""What a comparison is: who does what, and what is hoped for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.bench.measure import Sample
from scripts.bench.peers import Peer
from scripts.bench.servers import Stage


@dataclass(frozen=True)
class Entrant:
    """One bar of a case: who does what."""

    peer: Peer
    attempt: Callable[[Stage, Peer, bool], tuple[Sample, str]]

    @property
    def name(self) -> str:
        return self.peer.name


@dataclass(frozen=True)
class Goal:
    """`quantity` of `entrant` is to be at most `limit` times that of `against`.

    Without `against` the limit is absolute: seconds, or bytes for `rss`. With `apart` it says how
    much more than that of `against` it may be.
    """

    quantity: str
    against: str | None
    limit: float
    entrant: str = "pgetpy"
    apart: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison. `times` multiplies the rounds of work that is short."""

    name: str
    title: str
    entrants: tuple[Entrant, ...]
    goals: tuple[Goal, ...] = ()
    times: int = 1
