"""What one run does: where it downloads from and to, and what makes it valid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.bench.archives import Recipe, sha256_of, tree_digest
from scripts.bench.hub import REPOSITORY, hub_of
from scripts.bench.measure import (
    Command,
    Outcome,
    RunFailedError,
    Sample,
    run,
    scratch_folder,
    warm_memory,
)
from scripts.bench.peers import Batch, Fetch, Peer
from scripts.bench.servers import Address, Archive, Site, Stage, Weights

MIB = 1 << 20
DISK = Path(".bench/runs").absolute()
TMPFS = Path("/dev/shm/pgetpy-bench")
_LIMIT_S = 300.0
# What a run needs beside the file: the kernel's own, and the largest peer's buffers.
_CACHES = 1024 * MIB


@dataclass(frozen=True)
class OneFile:
    """Get one file of `size` bytes from `site` into a fresh folder under `place`."""

    size: int
    site: Site
    place: Path = DISK

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        file = stage.library.one(stage.scaled(self.size))
        with self.site(stage) as address, scratch_folder(self.place) as folder:
            return _get_file(file, address, folder, peer, thorough)


@dataclass(frozen=True)
class OneArchive:
    """Get one archive from `site` and leave what is in it in a fresh folder.

    `keep` is for archives of many files; `scratch_folder` has the reason.
    """

    recipe: Recipe
    site: Site
    keep: bool = False
    place: Path = DISK

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        archive = stage.library.archive(self.recipe.scaled(stage.scaled))
        with self.site(stage) as address, scratch_folder(self.place, keep=self.keep) as folder:
            # Some peers keep the archive beside the tree.
            room = archive.file.size + sum(archive.sizes.values())
            _require_room(folder, room)
            work = Fetch(f"{address.base}/{archive.file.name}", folder / "tree", address.cafile)
            warm_memory(room + _CACHES)
            outcome = _succeeded(run(peer.command(work), folder, _LIMIT_S))
            _verify_tree(work.dest, archive, thorough)
            return outcome.sample, _connections(outcome.stdout)

    def attempt_one_file(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        """Get the archive as it is."""
        archive = stage.library.archive(self.recipe.scaled(stage.scaled))
        with self.site(stage) as address, scratch_folder(DISK) as folder:
            return _get_file(archive.file, address, folder, peer, thorough)


@dataclass(frozen=True)
class ManyFiles:
    """Get `count` files of `size` bytes each by one manifest."""

    count: int
    size: int
    site: Site
    place: Path = DISK

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        files = stage.library.many(stage.scaled(self.count), self.size)
        with self.site(stage) as address, scratch_folder(self.place, keep=True) as folder:
            batch = _batch(files, address, folder)
            outcome = _succeeded(run(peer.command(batch), folder, _LIMIT_S))
            for file, fetch in zip(files, batch.files, strict=True):
                _verify(fetch.dest, file, thorough)
            return outcome.sample, ""


@dataclass(frozen=True)
class Repository:
    """Bring a repository of `count` files into the Hub's own cache.

    The files have from `smallest` to `largest` bytes; each answer takes `latency` seconds.
    """

    count: int
    smallest: int
    largest: int
    latency: float

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        files = stage.library.various(stage.scaled(self.count), self.smallest, self.largest)
        serving = hub_of(stage, tuple(files), self.latency)
        with serving as address, scratch_folder(DISK, keep=True) as folder:
            cache = folder / "hub"
            command = peer.command(Fetch(f"{address.base}/{REPOSITORY}", cache))
            outcome = _succeeded(run(command, folder, _LIMIT_S))
            found = {path.name: path for path in cache.rglob("*.bin")}
            for file in files:
                _verify(found.get(Path(file.name).name, cache / "missing"), file, thorough)
            return outcome.sample, ""


@dataclass(frozen=True)
class Called:
    """Get one file of `size` bytes by a Python call: `ensure` or `download` (see `cached`).

    `digest` is whether the call is told what the file has to hash to.
    """

    task: str
    size: int
    site: Site
    digest: bool = False

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        file = stage.library.one(stage.scaled(self.size))
        with self.site(stage) as address, scratch_folder(DISK) as folder:
            _require_room(folder, file.size)
            dest = folder / ("cache" if self.task == "ensure" else file.name)
            digest = [f"sha256:{file.sha256}"] if self.digest else []
            url = f"{address.base}/{file.name}"
            warm_memory(file.size + _CACHES)
            command = Command([*_cached(peer), self.task, url, str(dest), *digest])
            outcome = _succeeded(run(command, folder, _LIMIT_S))
            _verify(Path(json.loads(outcome.stdout)), file, thorough)
            return outcome.sample, ""


@dataclass(frozen=True)
class SelfTimed:
    """Do a task of `cached` that says itself how long what counts has taken.

    `kept` is the name of the folder it works in, where that is kept for the next time.
    """

    arguments: tuple[str, ...]
    kept: str = ""

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        with scratch_folder(DISK) as folder:
            place = stage.library.folder / self.kept if self.kept else folder / "cache"
            task, *rest = self.arguments
            where = [str(place)] if rest else []
            command = Command([*_cached(peer), task, *where, *rest])
            outcome = _succeeded(run(command, folder, _LIMIT_S))
            return replace(outcome.sample, wall=float(outcome.stdout)), ""


@dataclass(frozen=True)
class Loaded:
    """Have the tensors of a checkpoint of `size` bytes, in a `way` of `loads`, which times itself.

    Memory is what that takes beyond files' pages; `file` is whether the checkpoint is on disk.
    """

    way: str
    size: int
    site: Site
    device: str = "cpu"
    file: bool = False

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        checkpoint = stage.library.checkpoint(stage.scaled(self.size))
        with self.site(stage) as address, scratch_folder(DISK) as folder:
            _require_room(folder, checkpoint.size)
            url = f"{address.base}/{checkpoint.name}"
            place = str(stage.library.folder / checkpoint.name) if self.file else url
            if self.way == "cached":
                _succeeded(run(self._command(peer, "tensors", place, folder), folder, _LIMIT_S))
            warm_memory(checkpoint.size + _CACHES)
            command = self._command(peer, self.way, place, folder)
            outcome = _succeeded(run(command, folder, _LIMIT_S))
            told = json.loads(outcome.stdout)
            if thorough and told["sum"] != stage.library.sum_of(checkpoint):
                raise RunFailedError("loaded wrong bytes and reported success")
            sample = Sample(told["seconds"], outcome.sample.cpu, told["memory"])
            return sample, ""

    def _command(self, peer: Peer, way: str, place: str, folder: Path) -> Command:
        located = peer.locate()
        assert located is not None
        module = [*located, "-m", "scripts.bench.loads"]
        return Command([*module, way, place, str(folder), self.device])


@dataclass(frozen=True)
class Swapped:
    """Put a LoRA of `site` on a pipeline, in a `way` of `swaps`, which times itself."""

    way: str
    device: str
    site: Site

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        located = peer.locate()
        assert located is not None
        module = [*located, "-m", "scripts.bench.swaps"]
        small = {} if stage.scale == 1 else {"BENCH_SMALL": "1"}
        name = "lora-small.safetensors" if small else "lora.safetensors"
        lora = str(stage.library.folder / name)
        with self.site(stage) as address, scratch_folder(DISK) as folder:
            if not Path(lora).exists():
                _succeeded(run(Command([*module, "make", lora], small), folder, _LIMIT_S))
            url = f"{address.base}/{name}"
            command = Command([*module, self.way, lora, url, str(folder), self.device], small)
            outcome = _succeeded(run(command, folder, _LIMIT_S))
            told = json.loads(outcome.stdout.splitlines()[-1])
            if told["digest"] != _SWAPPED.setdefault(self.device, told["digest"]):
                raise RunFailedError("the pipeline gave something else than by another way")
            return replace(outcome.sample, wall=told["seconds"]), ""


# What the pipeline gave on each device, whichever way came first.
_SWAPPED: dict[str, str] = {}


@dataclass(frozen=True)
class StartUp:
    """Start and end; `arguments` instead of the peer's own way to say its version."""

    arguments: tuple[str, ...] = ()

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        located = peer.locate()
        assert located is not None
        command = Command([*located, *(self.arguments or peer.probe)])
        with scratch_folder(DISK) as folder:
            return _succeeded(run(command, folder, _LIMIT_S)).sample, ""


def _cached(peer: Peer) -> list[str]:
    located = peer.locate()
    assert located is not None
    return [*located, "-m", "scripts.bench.cached"]


def _get_file(
    file: Weights, address: Address, folder: Path, peer: Peer, thorough: bool
) -> tuple[Sample, str]:
    _require_room(folder, file.size)
    dest = folder / file.name
    work = Fetch(f"{address.base}/{file.name}", dest, address.cafile, file.sha256)
    warm_memory(file.size + _CACHES)
    outcome = _succeeded(run(peer.command(work), folder, _LIMIT_S))
    _verify(dest, file, thorough)
    return outcome.sample, _notes(outcome.stdout, address, file.size)


def _notes(stdout: str, address: Address, size: int) -> str:
    """Return how many connections a run with --json says it used, and what its server counted."""
    notes = [_connections(stdout)]
    if address.counts is not None:
        requests, sent = address.counts()
        notes.append(f"{requests} requests, {sent / size:.3f} times the bytes sent")
    return ", ".join(filter(None, notes))


def _batch(files: Sequence[Weights], address: Address, folder: Path) -> Batch:
    dests = folder / "files"
    dests.mkdir()
    fetches = [
        Fetch(f"{address.base}/{file.name}", dests / Path(file.name).name, address.cafile)
        for file in files
    ]
    return Batch(fetches, folder)


def _succeeded(outcome: Outcome) -> Outcome:
    if outcome.error:
        raise RunFailedError(outcome.error)
    return outcome


def _require_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size + 256 * MIB:
        raise RunFailedError(f"no room for {size} bytes")


def _verify(dest: Path, file: Weights, thorough: bool) -> None:
    size = dest.stat().st_size if dest.exists() else 0
    if size != file.size:
        raise RunFailedError(f"left {size} bytes of {file.size}")
    if thorough and sha256_of(dest) != file.sha256:
        raise RunFailedError("left wrong bytes and reported success")


def _verify_tree(folder: Path, archive: Archive, thorough: bool) -> None:
    found = _sizes_under(folder)
    wrong = {name for name, _ in found.items() ^ archive.sizes.items()}
    if wrong:
        raise RunFailedError(f"left {len(wrong)} files wrong, one of them {min(wrong)}")
    if thorough and tree_digest({n: sha256_of(folder / n) for n in found}) != archive.tree:
        raise RunFailedError("left wrong bytes and reported success")


def _sizes_under(folder: Path) -> dict[str, int]:
    """Return all that is not a folder, by name; only a regular file has a size of its own."""
    sizes = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            status = path.lstat()
            size = status.st_size if stat.S_ISREG(status.st_mode) else -1
            sizes[path.relative_to(folder).as_posix()] = size
    return sizes


def _connections(stdout: str) -> str:
    """Return how many connections a run with --json says it used."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f"{json.loads(stdout)['connections']} connections"
    return ""
