"""Cases of the weights cache and of generations made from it."""

from __future__ import annotations

from dataclasses import replace

from scripts.bench import peers
from scripts.bench.comparison import FEW, Case, Entrant, Goal
from scripts.bench.peers import Peer
from scripts.bench.servers import nginx
from scripts.bench.work import Called, SelfTimed

_GIB = 1 << 30
# Tasks whose folder is kept for the next run, and what it is called.
_KEPT = {"hits": "cache", "generation": "generations", "cp": "generations"}


def _python(name: str) -> Peer:
    return replace(peers.PYTHON, name=name)


def _self_timed(name: str, *arguments: str) -> Entrant:
    kept = f"{_KEPT[arguments[0]]}-{arguments[1]}" if arguments[0] in _KEPT else ""
    return Entrant(_python(name), SelfTimed(arguments, kept).attempt)


def _called(name: str, task: str, *, digest: bool = False) -> Entrant:
    return Entrant(_python(name), Called(task, _GIB, nginx("plain"), digest).attempt)


CACHES = (
    Case(
        "cache-hit",
        "A hit of the weights cache, median",
        (
            _self_timed("100 entries", "hits", "100"),
            _self_timed("100,000 entries", "hits", "100000"),
        ),
        (
            Goal("wall", None, 150e-6, "100 entries"),
            Goal("wall", None, 150e-6, "100,000 entries"),
            Goal("wall", "100 entries", 1.3, "100,000 entries"),
        ),
        "`ensure` of what is there, 5,000 times in one process; CPU and memory are of all of it.",
    ),
    Case(
        "cache-cold",
        "1 GiB over HTTP into the weights cache",
        (
            _called("ensure", "ensure"),
            _called("download", "download"),
            _called("ensure, digest", "ensure", digest=True),
            _called("download, checksum", "download", digest=True),
        ),
        (
            Goal("wall", "download", 1.05, "ensure"),
            Goal("wall", "download, checksum", 1.05, "ensure, digest"),
        ),
        "What the cache adds to a download that misses it.",
        profile="Where no digest is known beforehand, the cache computes sha256: 0.7 s of CPU a "
        "GiB. Alone with the download on two processors, that takes 1.25 of the download's time.",
    ),
    Case(
        "cache-evict",
        "10,000 entries leave the weights cache",
        (_self_timed("evict", "evict", "10000"), _self_timed("evict 1,000", "evict", "1000")),
        (Goal("wall", None, 2.0, "evict"), Goal("wall", "evict 1,000", 12.0, "evict")),
        "Ten times the entries should take ten times as long, and no more.",
        FEW,
    ),
    Case(
        "cache-import",
        "Import the weights cache",
        (_self_timed("import", "import"),),
        (Goal("wall", None, 0.15, "import"),),
        "What a predictor's own start pays for the class.",
    ),
    Case(
        "generations",
        "2,000 verified files of the cache linked and published as a generation, without fsync",
        (
            _self_timed("pgetpy.generations", "generation", "2000"),
            _self_timed("cp -al, unverified", "cp", "2000"),
        ),
        (Goal("wall", None, 0.1, "pgetpy.generations"),),
        "What a node takes to switch to another set of weights that it has.",
    ),
)
