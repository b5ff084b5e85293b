"""Cases of downloads: large files, servers that are slow or far away, many files, starting."""

from __future__ import annotations

from dataclasses import replace

from scripts.bench import peers
from scripts.bench.comparison import FEW, SOME, Case, Entrant, Goal
from scripts.bench.hub import hub
from scripts.bench.machine import core_counts
from scripts.bench.peers import Peer
from scripts.bench.servers import half_dead, nginx, origin
from scripts.bench.work import TMPFS, ManyFiles, OneFile, Repository, StartUp
from scripts.origin import Behaviour

GIB = 1 << 30
MIB = 1 << 20
_OURS = peers.pgetpy()
_COUNTED = peers.pgetpy("pgetpy", "--json")
_FAST = (_OURS, peers.PGET_16M, peers.CURL)
_ALL = (_OURS, peers.PGET_16M, peers.PGET, peers.ARIA2, peers.HF_TRANSFER, peers.CURL)
_PACE = 20_000_000
_PACED = origin(Behaviour(pace=_PACE))
# pgetpy opens no more to one server unless it is told to.
_CONNECTIONS = 64
_MEMORY = 96_000_000
_EIGHT = ("-c", "8", "--json")


def _each(work: OneFile | ManyFiles, *who: Peer) -> tuple[Entrant, ...]:
    return tuple(Entrant(peer, work.attempt) for peer in who)


def _tls_connections() -> Case:
    """What each number of connections, and each number of processors, makes of TLS."""
    names = {
        f"{count} connection{'s' * (count > 1)}, {cores} core{'s' * (cores > 1)}": (count, cores)
        for cores in core_counts(2)
        for count in (1, 4, 16)
    }
    work = OneFile(GIB, nginx("tls"))
    ours = (
        peers.on_cores(peers.pgetpy(name, "-c", str(count), "--json"), cores)
        for name, (count, cores) in names.items()
    )
    curls = (
        peers.on_cores(replace(peers.CURL, name=f"curl, {cores} cores"), cores)
        for cores in core_counts(2)[-1:]
    )
    return Case(
        "tls-cores",
        "1 GiB over TLS by connections and cores",
        _each(work, *ours, *curls),
        about="A connection is decrypted on one core: several use several. The server runs on the "
        "same cores.",
        rounds=SOME,
    )


LARGE = (
    Case(
        "big-plain",
        "2 GiB over HTTP, to disk",
        _each(OneFile(2 * GIB, nginx("plain")), *_ALL),
        (
            Goal("wall", "pget -m 16M", 0.68),
            Goal("cpu", "pget -m 16M", 0.45),
            Goal("wall", "pget", 0.4),
            Goal("wall", "hf_transfer", 0.25),
            Goal("wall", "aria2c -x16", 0.35),
            Goal("wall", "curl", 0.6),
        ),
        "No network limits anyone here: what is left is what each program does with a byte.",
        profile="Four fifths of the CPU time are the kernel's, which moves the bytes from sockets "
        "into fresh pages of the page cache. Starting Python is most of the rest.",
    ),
    Case(
        "big-plain-tmpfs",
        "2 GiB over HTTP, to tmpfs",
        _each(OneFile(2 * GIB, nginx("plain"), TMPFS), *_FAST),
        about="The same without a disk's file system.",
        rounds=SOME,
    ),
    Case(
        "big-tls",
        "2 GiB over TLS, to disk",
        _each(OneFile(2 * GIB, nginx("tls")), *_ALL),
        (Goal("wall", "pget -m 16M", 0.88), Goal("wall", "curl", 0.76)),
        "Encryption takes most of the time, and half of that is the server's.",
        profile="Both processors are busy throughout, one with encryption at the server and one "
        "with decryption here.",
    ),
    Case(
        "big-tls-tmpfs",
        "2 GiB over TLS, to tmpfs",
        _each(OneFile(2 * GIB, nginx("tls"), TMPFS), *_FAST),
        about="The same without a disk's file system.",
        rounds=SOME,
    ),
    _tls_connections(),
    Case(
        "mid-plain",
        "64 MiB over HTTP",
        _each(OneFile(64 * MIB, nginx("plain")), *_ALL),
        (Goal("wall", "curl", 1.6),),
        "Starting Python is most of pgetpy's time: below this size curl and pget are done first.",
    ),
    Case(
        "mid-tls",
        "64 MiB over TLS",
        _each(OneFile(64 * MIB, nginx("tls")), *_ALL),
        (Goal("wall", "curl", 1.9),),
        "The same, with the certificates to load.",
    ),
)


# ------------------------------------------------------------------- slow and far-away servers


def _late(
    name: str,
    size: int,
    latency: float,
    pace: int | None,
    theirs: Peer,
    limit: float,
    profile: str = "",
) -> Case:
    """A file from a server that waits before each answer."""
    site = origin(Behaviour(latency=latency, pace=pace))
    amount = f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
    rate = f"each connection held to {pace // 1_000_000} MB/s" if pace else "as fast as it goes"
    about = (
        "Few connections pay off when each brings all there is: more of them would cost latency."
        if pace is None
        else "Connections have to be opened early, as each answer comes late."
    )
    return Case(
        name,
        f"{amount}, {latency:g} s to the first byte of each answer, then {rate}",
        _each(OneFile(size, site, TMPFS), _COUNTED, theirs),
        (Goal("wall", theirs.name, limit),),
        about,
        FEW,
        profile,
    )


_UNPACED = peers.pgetpy("pgetpy, not held back")

SLOW = (
    Case(
        "paced",
        "2 GiB, each connection held to 20 MB/s",
        # curl's one connection would take 107 s a run and show nothing new.
        (
            *_each(
                OneFile(2 * GIB, _PACED),
                _COUNTED,
                peers.PGET,
                peers.PGET_16M,
                peers.ARIA2,
                peers.HF_TRANSFER,
            ),
            *_each(OneFile(2 * GIB, nginx("plain")), _UNPACED),
        ),
        (
            Goal("wall", "pget", 0.15),
            Goal("wall", "aria2c -x16", 0.35),
            Goal(
                "wall",
                f"{_CONNECTIONS} such connections, 1.68 s",
                1.25,
                given=2 * GIB / (_CONNECTIONS * _PACE),
            ),
            Goal("cpu", _UNPACED.name, 2.0),
        ),
        "Most object stores limit each connection. pgetpy opens more while that pays off.",
        profile="64 threads take turns with Python's lock. The shortest program with 64 threads "
        "takes 0.84 to 1.26 s of CPU. Fewer threads with several sockets each would save a "
        "quarter, and slow down a download without limits by up to 60 %.",
    ),
    _late("late-0.15-paced", GIB, 0.15, _PACE, peers.ARIA2, 0.45),
    _late(
        "late-0.03-paced",
        GIB,
        0.03,
        50_000_000,
        peers.ARIA2,
        0.5,
        "The shortest Python program with as many connections takes 0.53 of the time of aria2c.",
    ),
    _late("late-0.3-paced", GIB, 0.3, 10_000_000, peers.ARIA2_20M, 0.5),
    _late("late-0.3", 256 * MIB, 0.3, None, peers.CURL, 2.0),
    _late("late-1", 256 * MIB, 1.0, None, peers.CURL, 2.0),
    _late("late-5", 256 * MIB, 5.0, None, peers.CURL, 2.0),
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
        "Another connection asks for the range of one that is silent or slow.",
        FEW,
    ),
    Case(
        "dead-address",
        "64 KiB from a host whose first address, ::1, does not answer",
        _each(OneFile(64 * 1024, half_dead), peers.OURS_HALF_DEAD, peers.CURL_HALF_DEAD),
        (Goal("wall", "curl", 0.3, apart=True),),
        "The next address is tried while the first one has not answered yet.",
    ),
)


# -------------------------------------------------------------------------- many files, the Hub

_MANY = (_OURS, peers.PGET, peers.ARIA2, peers.CURL)

MANY = (
    Case(
        "many",
        "2,000 files of 100 kB by one manifest",
        _each(ManyFiles(2000, 100_000, nginx("plain")), *_MANY),
        (Goal("wall", "pget", 1.8),),
        "Each file costs Python a few tenths of a millisecond, and nothing hides that here.",
        profile="About 100 µs of Python and as much of the kernel for each file, on one processor; "
        "pget uses both. The shortest Python program with the same promises takes 0.85 to 1.14 of "
        "the time of pget.",
    ),
    Case(
        "many-late",
        "2,000 files of 100 kB by one manifest, 30 ms to each answer",
        _each(ManyFiles(2000, 100_000, origin(Behaviour(latency=0.03))), *_MANY),
        (Goal("wall", "pget", 0.3),),
        "With a network between, the number of files in flight decides.",
    ),
    Case(
        "hub-repository",
        "A Hub repository of 300 files of 50 kB to 5 MB, 20 ms to each answer",
        tuple(
            Entrant(peer, Repository(300, 50_000, 5_000_000, 0.02).attempt)
            for peer in (peers.OUR_SNAPSHOT, peers.HUB_SNAPSHOT)
        ),
        (Goal("wall", peers.HUB_SNAPSHOT.name, 0.3, peers.OUR_SNAPSHOT.name),),
        "Both fill the Hub's own cache; pgetpy verifies every file by its sha256 as well.",
        profile="The shortest Python program that fetches and hashes the same files takes 0.36 to "
        "0.42 of the time of huggingface_hub.",
    ),
    Case(
        "hub",
        "1 GiB of a Hub whose store is nginx, and the same from nginx itself",
        (
            *_each(OneFile(GIB, hub), peers.OURS_AT_HUB),
            *_each(OneFile(GIB, nginx("plain")), peers.OURS_CHECKED, _OURS),
            *_each(OneFile(GIB, hub), peers.HUB_CLIENT),
        ),
        (
            Goal("wall", peers.OURS_CHECKED.name, 1.1, peers.OURS_AT_HUB.name),
            Goal("wall", peers.HUB_CLIENT.name, 0.5, peers.OURS_AT_HUB.name),
        ),
        "The Hub states sha256, so that the first line is to be compared with `--checksum`.",
    ),
)


# ----------------------------------------------------------------------------- start and memory

_IMPORTS = replace(peers.PYTHON, name="python: import asyncio, ssl")

START = (
    Case(
        "startup",
        "Start and say the version",
        (
            Entrant(_OURS, StartUp().attempt),
            Entrant(peers.PYTHON, StartUp(("-c", "pass")).attempt),
            Entrant(peers.PGET, StartUp().attempt),
        ),
        (Goal("wall", "python -c pass", 3.0),),
        "What an interpreter takes to start, and what pgetpy adds to that.",
        rounds=21,
    ),
    Case(
        "startup-download",
        "Start and download 64 KiB over HTTP",
        (
            *_each(OneFile(64 * 1024, nginx("plain")), _OURS),
            Entrant(_IMPORTS, StartUp(("-c", "import asyncio, ssl")).attempt),
            *_each(OneFile(64 * 1024, nginx("plain")), peers.PGET, peers.CURL),
        ),
        (Goal("cpu", _IMPORTS.name, 1.5),),
        "The least that any download costs: nearly all of it are imports.",
        rounds=14,
    ),
    Case(
        "memory",
        "Peak memory with up to 64 connections, HTTP",
        _each(
            OneFile(GIB, nginx("slow")),
            peers.pgetpy("pgetpy -c 64", "-c", "64", "--json"),
            peers.PGET_64,
        ),
        (Goal("rss", None, _MEMORY, "pgetpy -c 64"),),
        "nginx holds each connection to 5 MiB/s by limit_rate, in bursts of 2 MiB; 64 of them "
        "would take 3.2 s.",
        FEW,
    ),
    Case(
        "memory-tls",
        "Peak memory with up to 64 connections, TLS",
        _each(
            OneFile(GIB, nginx("slow_tls")),
            peers.pgetpy("pgetpy -c 64", "-c", "64", "--json"),
            peers.PGET_64,
        ),
        (Goal("rss", None, _MEMORY, "pgetpy -c 64"),),
        "The same, with the buffers of TLS.",
        FEW,
    ),
)
