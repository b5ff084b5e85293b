"""What is compared with what, and what is hoped for: the tables of the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.bench import peers
from scripts.bench.measure import Sample
from scripts.bench.peers import Peer
from scripts.bench.servers import Stage, nginx, origin
from scripts.bench.work import TMPFS, ManyFiles, OneFile, StartUp
from scripts.origin import Behaviour

GIB = 1 << 30
MIB = 1 << 20


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

    Without `against` the limit is absolute: seconds, or bytes for `rss`.
    """

    quantity: str
    against: str | None
    limit: float
    entrant: str = "pgetpy"


@dataclass(frozen=True)
class Case:
    """One comparison. `times` multiplies the rounds of work that is short."""

    name: str
    title: str
    entrants: tuple[Entrant, ...]
    goals: tuple[Goal, ...] = ()
    times: int = 1


def _each(work: OneFile | ManyFiles, *who: Peer) -> tuple[Entrant, ...]:
    return tuple(Entrant(peer, work.attempt) for peer in who)


_OURS = peers.pgetpy()
_COUNTED = peers.pgetpy("pgetpy", "--json")
_ALL = (_OURS, peers.PGET_16M, peers.PGET, peers.ARIA2, peers.HF_TRANSFER, peers.CURL)
_PACE = 20_000_000
_MEMORY = 96_000_000
_PACED = origin(Behaviour(pace=_PACE))
_EIGHT = ("-c", "8", "--json")

CASES = (
    Case(
        "big-plain",
        "2 GiB over HTTP, to disk",
        _each(OneFile(2 * GIB, nginx("plain")), *_ALL),
        (
            Goal("wall", "pget -m 16M", 0.7),
            Goal("wall", "pget", 0.4),
            Goal("wall", "hf_transfer", 0.25),
            Goal("wall", "aria2c -x16", 0.35),
            Goal("wall", "curl", 0.6),
            Goal("cpu", "pget -m 16M", 0.65),
        ),
    ),
    Case(
        "big-plain-tmpfs",
        "2 GiB over HTTP, to tmpfs",
        _each(OneFile(2 * GIB, nginx("plain"), TMPFS), *_ALL),
    ),
    Case(
        "big-tls",
        "2 GiB over TLS, to disk",
        _each(OneFile(2 * GIB, nginx("tls")), *_ALL),
        (Goal("wall", "pget -m 16M", 1.0),),
    ),
    Case(
        "big-tls-tmpfs",
        "2 GiB over TLS, to tmpfs",
        _each(OneFile(2 * GIB, nginx("tls"), TMPFS), *_ALL),
    ),
    Case("mid-plain", "64 MiB over HTTP", _each(OneFile(64 * MIB, nginx("plain")), *_ALL)),
    Case("mid-tls", "64 MiB over TLS", _each(OneFile(64 * MIB, nginx("tls")), *_ALL)),
    Case(
        "paced",
        "2 GiB, each connection held to 20 MB/s",
        # curl's one connection would take 107 s a run and show nothing new.
        _each(
            OneFile(2 * GIB, _PACED),
            _COUNTED,
            peers.PGET,
            peers.PGET_16M,
            peers.ARIA2,
            peers.HF_TRANSFER,
        ),
        (Goal("wall", "pget", 0.15), Goal("wall", "aria2c -x16", 0.35)),
    ),
    Case(
        "straggler",
        "1 GiB over eight connections of 20 MB/s, one of which fails",
        (
            Entrant(peers.pgetpy("all healthy", *_EIGHT), OneFile(GIB, _PACED).attempt),
            Entrant(
                peers.pgetpy("one stalls", *_EIGHT),
                OneFile(GIB, origin(Behaviour(pace=_PACE, stall_nth=3))).attempt,
            ),
            Entrant(
                peers.pgetpy("one crawls", *_EIGHT),
                OneFile(GIB, origin(Behaviour(pace=_PACE, crawl_nth=3))).attempt,
            ),
        ),
        (
            Goal("wall", "all healthy", 1.3, "one stalls"),
            Goal("wall", "all healthy", 1.3, "one crawls"),
        ),
    ),
    Case(
        "many",
        "2,000 files of 100 kB by one manifest",
        _each(ManyFiles(2000, 100_000, nginx("plain")), _OURS, peers.PGET, peers.ARIA2, peers.CURL),
        (Goal("wall", "pget", 1.2),),
    ),
    Case(
        "startup",
        "Start and say the version",
        (
            Entrant(_OURS, StartUp().attempt),
            Entrant(peers.PYTHON, StartUp(("-c", "pass")).attempt),
            Entrant(peers.PGET, StartUp().attempt),
        ),
        (Goal("wall", "python -c pass", 3.0),),
        times=3,
    ),
    Case(
        "memory",
        "Peak memory with up to 64 connections, HTTP",
        _each(
            OneFile(2 * GIB, nginx("slow")),
            peers.pgetpy("pgetpy -c 64", "-c", "64", "--json"),
            peers.PGET_64,
        ),
        (Goal("rss", None, _MEMORY, "pgetpy -c 64"),),
    ),
    Case(
        "memory-tls",
        "Peak memory with up to 64 connections, TLS",
        _each(
            OneFile(2 * GIB, nginx("slow_tls")),
            peers.pgetpy("pgetpy -c 64", "-c", "64", "--json"),
            peers.PGET_64,
        ),
        (Goal("rss", None, _MEMORY, "pgetpy -c 64"),),
    ),
)
