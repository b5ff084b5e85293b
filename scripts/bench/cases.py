"""What is compared with what, and what is hoped for: the tables of the benchmark."""

from __future__ import annotations

from dataclasses import replace

from scripts.bench import peers
from scripts.bench.archives import Files, Recipe
from scripts.bench.boots import BOOTS
from scripts.bench.comparison import Case, Entrant, Goal
from scripts.bench.fleet import FLEET
from scripts.bench.hub import hub
from scripts.bench.machine import core_counts
from scripts.bench.objects import OBJECTS
from scripts.bench.peers import Peer
from scripts.bench.pipelines import PIPELINES
from scripts.bench.servers import half_dead, nginx, origin
from scripts.bench.work import (
    TMPFS,
    Called,
    Loaded,
    ManyFiles,
    OneArchive,
    OneFile,
    Repository,
    SelfTimed,
    StartUp,
    Swapped,
)
from scripts.origin import Behaviour

GIB = 1 << 30
MIB = 1 << 20


def _each(work: OneFile | ManyFiles | OneArchive, *who: Peer) -> tuple[Entrant, ...]:
    return tuple(Entrant(peer, work.attempt) for peer in who)


_OURS = peers.pgetpy()
_COUNTED = peers.pgetpy("pgetpy", "--json")
_FAST = (_OURS, peers.PGET_16M, peers.CURL)
_ALL = (_OURS, peers.PGET_16M, peers.PGET, peers.ARIA2, peers.HF_TRANSFER, peers.CURL)
_PACE = 20_000_000
_MEMORY = 96_000_000
_PACED = origin(Behaviour(pace=_PACE))
_EIGHT = ("-c", "8", "--json")
_EXTRACTING = peers.pgetpy("pgetpy -x", "-x")
_TAR = Recipe("tar", Files(2, 750_000_000), Files(300, 333_000))
_PLAIN_TAR = OneArchive(_TAR, nginx("plain"))


def _extracted(quantity: str, against: str | None, limit: float) -> Goal:
    return Goal(quantity, against, limit, _EXTRACTING.name)


def _compressed(kind: str, title: str, *theirs: Peer) -> Case:
    """Extract 1 GB of weights from a compressed tar."""
    recipe = Recipe(kind, Files(2, 450_000_000), Files(100, 1_000_000))
    return Case(
        f"extract-{kind.removeprefix('tar.')}",
        title,
        _each(OneArchive(recipe, nginx("plain")), _EXTRACTING, *theirs),
        tuple(_extracted("wall", peer.name, 1.0) for peer in theirs),
    )


def _python(name: str) -> Peer:
    return replace(peers.PYTHON, name=name)


def _self_timed(name: str, *arguments: str) -> Entrant:
    kinds = {"hits": "cache", "generation": "generations", "cp": "generations"}
    kept = f"{kinds[arguments[0]]}-{arguments[1]}" if arguments[0] in kinds else ""
    return Entrant(_python(name), SelfTimed(arguments, kept).attempt)


def _loaded(name: str, way: str) -> Entrant:
    work = Loaded(way, 4_000_000_000, nginx("plain"))
    return Entrant(replace(peers.TORCH, name=name), work.attempt)


def _on_gpu(name: str, way: str, size: int, peer: Peer = peers.CUDA) -> Entrant:
    # Of our own origin, as machines with a GPU seldom have nginx.
    file = way in ("load_file", "fastsafetensors", "runai")
    work = Loaded(way, size, origin(Behaviour()), peers.GPU, file)
    return Entrant(replace(peer, name=name), work.attempt)


def _gpu_case(name: str, title: str, size: int, *goals: Goal) -> Case:
    """Tensors on a GPU, from a URL and from a file that is there."""
    entrants = (
        _on_gpu("tensors.load", "tensors", size),
        _on_gpu("download, load_file", "download", size),
        _on_gpu("tensors.load, cached", "cached", size),
        _on_gpu("load_file, from disk", "load_file", size),
        _on_gpu("fastsafetensors, from disk", "fastsafetensors", size, peers.FASTSAFETENSORS),
        _on_gpu("runai-model-streamer, from disk", "runai", size, peers.RUNAI),
    )
    return Case(name, title, entrants, goals)


def _swap_case(name: str, title: str, device: str, peer: Peer) -> Case:
    ways = {
        "LoraComposer, cached": "apply",
        "load_lora_weights": "load",
        "LoraComposer, by URL": "cold",
        "download, load_lora_weights": "download",
        "another scale, beyond set_adapters": "scale",
    }
    site = origin(Behaviour())
    return Case(
        name,
        title,
        tuple(
            Entrant(replace(peer, name=said), Swapped(way, device, site).attempt)
            for said, way in ways.items()
        ),
        (
            Goal("wall", "load_lora_weights", 1.1, "LoraComposer, cached"),
            Goal("wall", None, 0.005, "another scale, beyond set_adapters"),
        ),
    )


def _called(name: str, task: str, *, digest: bool = False) -> Entrant:
    return Entrant(_python(name), Called(task, GIB, nginx("plain"), digest).attempt)


def _late(
    name: str, size: int, latency: float, pace: int | None, theirs: Peer, limit: float
) -> Case:
    """A file from a server that waits before each answer."""
    site = origin(Behaviour(latency=latency, pace=pace))
    rate = f"each connection held to {pace // 1_000_000} MB/s" if pace else "as fast as it goes"
    return Case(
        name,
        f"{size // MIB} MiB, {latency:g} s to the first byte of each answer, then {rate}",
        _each(OneFile(size, site, TMPFS), _COUNTED, theirs),
        (Goal("wall", theirs.name, limit),),
    )


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
    return Case("tls-cores", "1 GiB over TLS by connections and cores", _each(work, *ours, *curls))


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
        _each(OneFile(2 * GIB, nginx("plain"), TMPFS), *_FAST),
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
        _each(OneFile(2 * GIB, nginx("tls"), TMPFS), *_FAST),
    ),
    _tls_connections(),
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
    _late("late-0.3", 256 * MIB, 0.3, None, peers.CURL, 2.0),
    _late("late-1", 256 * MIB, 1.0, None, peers.CURL, 2.0),
    _late("late-5", 256 * MIB, 5.0, None, peers.CURL, 2.0),
    _late("late-0.15-paced", GIB, 0.15, _PACE, peers.ARIA2, 0.45),
    _late("late-0.03-paced", GIB, 0.03, 50_000_000, peers.ARIA2, 0.5),
    _late("late-0.3-paced", GIB, 0.3, 10_000_000, peers.ARIA2_20M, 0.5),
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
        (Goal("wall", "pget", 1.8),),
    ),
    Case(
        "many-late",
        "2,000 files of 100 kB by one manifest, 30 ms to each answer",
        _each(
            ManyFiles(2000, 100_000, origin(Behaviour(latency=0.03))),
            _OURS,
            peers.PGET,
            peers.ARIA2,
            peers.CURL,
        ),
        (Goal("wall", "pget", 0.3),),
    ),
    Case(
        "hub-repository",
        "A Hub repository of 300 files of 50 kB to 5 MB, 20 ms to each answer",
        tuple(
            Entrant(peer, Repository(300, 50_000, 5_000_000, 0.02).attempt)
            for peer in (peers.OUR_SNAPSHOT, peers.HUB_SNAPSHOT)
        ),
        (Goal("wall", peers.HUB_SNAPSHOT.name, 0.3, peers.OUR_SNAPSHOT.name),),
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
        "dead-address",
        "64 KiB from a host whose first address, ::1, does not answer",
        _each(OneFile(64 * 1024, half_dead), peers.OURS_HALF_DEAD, peers.CURL_HALF_DEAD),
        (Goal("wall", "curl", 0.3, apart=True),),
        times=2,
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
    Case(
        "extract",
        "1.6 GB tar of two large files and 300 small ones, extracted",
        (
            *_each(_PLAIN_TAR, _EXTRACTING),
            Entrant(peers.pgetpy("pgetpy, one file"), _PLAIN_TAR.attempt_one_file),
            *_each(_PLAIN_TAR, peers.PGET_16M_X, peers.PGET_X, peers.CURL_TAR),
        ),
        (
            _extracted("wall", "pget -m 16M -x", 0.8),
            _extracted("wall", "pget -x", 0.4),
            _extracted("wall", "curl | tar", 0.5),
            _extracted("wall", "pgetpy, one file", 1.15),
            _extracted("rss", None, _MEMORY),
        ),
    ),
    Case(
        "extract-paced",
        "1.6 GB tar, each connection held to 20 MB/s, extracted",
        _each(
            OneArchive(_TAR, _PACED),
            peers.pgetpy(_EXTRACTING.name, "-x", "--json"),
            peers.PGET_X,
            peers.PGET_16M_X,
        ),
        (_extracted("wall", "pget -x", 0.15),),
    ),
    Case(
        "extract-small",
        "Tar of 50,000 files of 4 kB, extracted",
        _each(
            OneArchive(Recipe("tar", small=Files(50_000, 4_000)), nginx("plain"), keep=True),
            _EXTRACTING,
            peers.CURL_TAR,
        ),
        (_extracted("wall", "curl | tar", 1.3),),
    ),
    _compressed("tar.zst", "tar.zst of 1 GB of weights, extracted", peers.CURL_ZSTD_TAR),
    # Whichever of these is installed, the fastest is among them.
    _compressed(
        "tar.gz",
        "tar.gz of 1 GB of weights, extracted",
        peers.CURL_IGZIP_TAR,
        peers.CURL_PIGZ_TAR,
        peers.CURL_GZIP_TAR,
    ),
    _compressed("tar.lz4", "tar.lz4 of 1 GB of weights, extracted", peers.CURL_LZ4_TAR),
    Case(
        "extract-zip",
        "zip of 1 GB of weights, half stored and half deflated, extracted",
        _each(
            OneArchive(Recipe("zip", Files(8, 125_000_000)), nginx("plain")),
            _EXTRACTING,
            peers.CURL_UNZIP,
        ),
    ),
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
    ),
    Case(
        "generations",
        "2,000 verified files of the cache linked and published as a generation, without fsync",
        (
            _self_timed("pgetpy.generations", "generation", "2000"),
            _self_timed("cp -al, unverified", "cp", "2000"),
        ),
        (Goal("wall", None, 0.1, "pgetpy.generations"),),
        times=2,
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
    ),
    Case(
        "tensors",
        "URL to 4 GB of tensors on the CPU and in the cache, every byte read",
        (
            _loaded("tensors.load", "tensors"),
            _loaded("download, load_file", "download"),
            _loaded("pget -m 16M, load_file", "pget"),
            _loaded("tensors.load, cached", "cached"),
        ),
        (
            Goal("wall", "download, load_file", 0.8, "tensors.load"),
            Goal("wall", "pget -m 16M, load_file", 0.6, "tensors.load"),
        ),
    ),
    _gpu_case("gpu-small", "URL to 10 MB of tensors on a GPU and in the cache", 10_000_000),
    _gpu_case(
        "gpu",
        "URL to 4 GB of tensors on a GPU and in the cache",
        4_000_000_000,
        Goal("wall", "download, load_file", 0.65, "tensors.load"),
        Goal("rss", None, 1e9, "tensors.load"),
    ),
    _swap_case("lora", "Put a LoRA of 100 MB on a pipeline on the CPU", "cpu", peers.TORCH),
    _swap_case(
        "gpu-lora", "Put a cached LoRA of 100 MB on a pipeline on a GPU", peers.GPU, peers.CUDA
    ),
    Case(
        "cache-evict",
        "10,000 entries leave the weights cache",
        (_self_timed("evict", "evict", "10000"), _self_timed("evict 1,000", "evict", "1000")),
        (Goal("wall", None, 2.0, "evict"), Goal("wall", "evict 1,000", 12.0, "evict")),
    ),
    Case(
        "cache-import",
        "Import the weights cache",
        (_self_timed("import", "import"),),
        (Goal("wall", None, 0.15, "import"),),
        times=3,
    ),
    *BOOTS,
    *FLEET,
    *PIPELINES,
    *OBJECTS,
)

# What tells a contributor within minutes that a change has made something slower.
QUICK = ("startup", "big-plain", "big-tls", "paced", "many", "extract", "extract-zst")
