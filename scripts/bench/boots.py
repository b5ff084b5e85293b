"""Starts of predictors: imports beside the download, and compiled code that is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.bench import peers
from scripts.bench.comparison import FEW, Case, Entrant, Goal
from scripts.bench.measure import Command, Outcome, RunFailedError, Sample, run, scratch_folder
from scripts.bench.peers import Peer
from scripts.bench.servers import Site, Stage, origin
from scripts.bench.work import DISK
from scripts.origin import Behaviour

_LIMIT_S = 300.0
_WEIGHTS = 600 << 20


@dataclass(frozen=True)
class Fetched:
    """Fetch weights and import torch and diffusers, in a `way` of `boot_tasks`."""

    way: str
    site: Site

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        file = stage.library.one(stage.scaled(_WEIGHTS))
        with self.site(stage) as address, scratch_folder(DISK) as folder:
            url = f"{address.base}/{file.name}"
            return _timed(_run(peer, self.way, url, str(folder))), ""


@dataclass(frozen=True)
class Compiled:
    """Warm up a compiled UNet; `kept` is whether an earlier start has kept what it compiled."""

    kept: bool

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        with scratch_folder(DISK) as folder:
            if not self.kept:
                return _timed(_run(peer, "cold", str(folder / "own"))), ""
            kept = stage.library.folder / "compiled-small-unet"
            if not kept.exists():
                _timed(_run(peer, "compiled", str(kept), str(folder / "first")))
            return _timed(_run(peer, "compiled", str(kept), str(folder / "own"))), ""


def _run(peer: Peer, *arguments: str) -> Outcome:
    located = peer.locate()
    assert located is not None
    command = Command([*located, "-m", "scripts.bench.boot_tasks", *arguments])
    return run(command, Path(arguments[-1]).parent, _LIMIT_S)


def _timed(outcome: Outcome) -> Sample:
    if outcome.error:
        raise RunFailedError(outcome.error)
    seconds = json.loads(outcome.stdout.splitlines()[-1])["seconds"]
    return replace(outcome.sample, wall=seconds)


def _entrant(name: str, work: Fetched | Compiled) -> Entrant:
    return Entrant(replace(peers.TORCH, name=name), work.attempt)


_SITE = origin(Behaviour())
BOOTS = (
    Case(
        "boot",
        "600 MiB at 150 MB/s, and torch and diffusers imported",
        (
            _entrant("at the same time", Fetched("beside", _SITE)),
            _entrant("one after the other", Fetched("after", _SITE)),
        ),
        (Goal("wall", "one after the other", 0.85, "at the same time"),),
        "Imports need the processor, a download mostly waits: beside each other they take less.",
        FEW,
    ),
    Case(
        "boot-compiled",
        "Warm up a small UNet that is compiled",
        (
            _entrant("with a compile cache", Compiled(kept=True)),
            _entrant("without", Compiled(kept=False)),
        ),
        (Goal("wall", "without", 0.2, "with a compile cache"),),
        "What `torch.compile` made on one machine is used by the next.",
        FEW,
    ),
)
