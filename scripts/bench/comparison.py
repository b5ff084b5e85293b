"""What a comparison is: who does what, and what is hoped for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.bench.measure import Sample
from scripts.bench.peers import Peer
from scripts.bench.servers import Stage

# Medians of fewer are not published.
FEWEST_ROUNDS = 3
_ROUNDS = 7
# Enough where runs are long, or differ little.
FEW = 3
SOME = 5


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
    much more than that of `against` it may be. With `given`, `against` is the name of that number.
    """

    quantity: str
    against: str | None
    limit: float
    entrant: str = "pgetpy"
    apart: bool = False
    given: float | None = None


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: for the command line.
        title: what is done.
        entrants: who does it.
        goals: what is hoped for.
        about: a sentence for readers of the page: what the figures are good for.
        rounds: how many are timed; work that takes milliseconds needs more of them.
        profile: what the time is spent on, for readers who see a goal of the case missed.
    """

    name: str
    title: str
    entrants: tuple[Entrant, ...]
    goals: tuple[Goal, ...] = ()
    about: str = ""
    rounds: int = _ROUNDS
    profile: str = ""


@dataclass(frozen=True)
class Group:
    """Cases that a reader looks for together; `name` stands for all of them on the command line."""

    name: str
    title: str
    about: str
    cases: tuple[Case, ...]
