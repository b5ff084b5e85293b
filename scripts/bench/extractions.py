"""Cases of archives that are extracted while they arrive."""

from __future__ import annotations

from dataclasses import replace

from scripts.bench import peers
from scripts.bench.archives import Files, Recipe
from scripts.bench.comparison import SOME, Case, Entrant, Goal
from scripts.bench.peers import Peer
from scripts.bench.servers import nginx, origin
from scripts.bench.work import TMPFS, OneArchive
from scripts.origin import Behaviour

_MEMORY = 96_000_000
_EXTRACTING = peers.pgetpy("pgetpy -x", "-x")
_TAR = Recipe("tar", Files(2, 750_000_000), Files(300, 333_000))
_PLAIN_TAR = OneArchive(_TAR, nginx("plain"))
_SMALL = OneArchive(Recipe("tar", small=Files(50_000, 4_000)), nginx("plain"), keep=True)


def _each(work: OneArchive, *who: Peer) -> tuple[Entrant, ...]:
    return tuple(Entrant(peer, work.attempt) for peer in who)


def _goal(quantity: str, against: str | None, limit: float) -> Goal:
    return Goal(quantity, against, limit, _EXTRACTING.name)


def _small(name: str, where: str, about: str, work: OneArchive) -> Case:
    return Case(
        name,
        f"Tar of 50,000 files of 4 kB, extracted to {where}",
        _each(work, _EXTRACTING, peers.CURL_TAR, peers.PGET_X),
        (_goal("wall", "curl | tar", 1.4), _goal("wall", "pget -x", 0.8)),
        about,
        profile="About 23 µs of Python and 18 µs of the kernel for each file. A straight loop in "
        "Python that has no journal and refuses nothing takes 1.0 to 1.2 s on tmpfs.",
    )


def _compressed(
    kind: str, title: str, about: str, limit: float, *theirs: Peer, rounds: int = SOME
) -> Case:
    """Extract 1 GB of weights from a compressed tar."""
    recipe = Recipe(kind, Files(2, 450_000_000), Files(100, 1_000_000))
    return Case(
        f"extract-{kind.removeprefix('tar.')}",
        title,
        _each(OneArchive(recipe, nginx("plain")), _EXTRACTING, *theirs),
        tuple(_goal("wall", peer.name, limit) for peer in theirs),
        about,
        rounds,
    )


EXTRACTIONS = (
    Case(
        "extract",
        "1.6 GB tar of two large files and 300 small ones, extracted",
        (
            *_each(_PLAIN_TAR, _EXTRACTING),
            Entrant(peers.pgetpy("pgetpy, one file"), _PLAIN_TAR.attempt_one_file),
            *_each(_PLAIN_TAR, peers.PGET_16M_X, peers.PGET_X, peers.CURL_TAR),
        ),
        (
            _goal("wall", "pgetpy, one file", 1.1),
            _goal("wall", "pget -m 16M -x", 0.8),
            _goal("wall", "pget -x", 0.4),
            _goal("wall", "curl | tar", 0.5),
            _goal("rss", None, _MEMORY),
        ),
        "The second line is the same archive, only downloaded.",
        profile="The small files pass through Python in the order of the archive, since each "
        "header says where the next one is: 0.6 to 0.9 ms a file.",
    ),
    Case(
        "extract-paced",
        "1.6 GB tar, each connection held to 20 MB/s, extracted",
        _each(
            OneArchive(_TAR, origin(Behaviour(pace=20_000_000))),
            peers.pgetpy(_EXTRACTING.name, "-x", "--json"),
            peers.PGET_X,
            peers.PGET_16M_X,
        ),
        (_goal("wall", "pget -x", 0.13),),
        "A plain tar is extracted over many connections at a time.",
        profile="64 such connections would take 1.25 s; their threads take turns with the lock of "
        "Python.",
    ),
    _small(
        "extract-small",
        "disk",
        "Creating the files is most of the work, and the kernel's.",
        _SMALL,
    ),
    _small(
        "extract-small-tmpfs",
        "tmpfs",
        "Where creating a file is cheap, what is done for each member shows.",
        replace(_SMALL, place=TMPFS, keep=False),
    ),
    _compressed(
        "tar.zst",
        "tar.zst of 1 GB of weights, extracted",
        "pgetpy decompresses in a thread beside the one that writes.",
        0.98,
        peers.CURL_ZSTD_TAR,
        rounds=7,
    ),
    # Whichever of these is installed, the fastest is among them.
    _compressed(
        "tar.gz",
        "tar.gz of 1 GB of weights, extracted",
        "Decompression limits everyone; pgetpy's is ISA-L.",
        1.0,
        peers.CURL_IGZIP_TAR,
        peers.CURL_PIGZ_TAR,
        peers.CURL_GZIP_TAR,
    ),
    _compressed(
        "tar.lz4",
        "tar.lz4 of 1 GB of weights, extracted",
        "Weights do not shrink with lz4: this is a tar with checksums.",
        1.0,
        peers.CURL_LZ4_TAR,
    ),
    Case(
        "extract-zip",
        "zip of 1 GB of weights, half stored and half deflated, extracted",
        _each(
            OneArchive(Recipe("zip", Files(8, 125_000_000)), nginx("plain")),
            _EXTRACTING,
            peers.CURL_UNZIP,
        ),
        about="A zip's index is at its end, so that unzip starts when all of it is there.",
        rounds=SOME,
    ),
)
