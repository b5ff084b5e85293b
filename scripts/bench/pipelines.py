"""Pipelines of a store, against diffusers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.bench import peers
from scripts.bench.comparison import FEW, Case, Entrant, Goal
from scripts.bench.measure import Command, Outcome, RunFailedError, Sample, run, scratch_folder
from scripts.bench.peers import Peer
from scripts.bench.servers import Stage
from scripts.bench.work import DISK

_LIMIT_S = 300.0


@dataclass(frozen=True)
class Pipelines:
    """Load a pipeline in a `way` of `pipeline_tasks`, which times itself."""

    way: str

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        model = stage.library.folder / "pipeline"
        store = stage.library.folder / "pipeline-store"
        with scratch_folder(DISK) as folder:
            if not model.exists():
                _run(peer, folder, "make", str(model))
            if not store.exists():
                _run(peer, folder, "fill", str(model), str(store))
            outcome = _run(peer, folder, self.way, str(model), str(store))
        seconds = json.loads(outcome.stdout.splitlines()[-1])["seconds"]
        return replace(outcome.sample, wall=seconds), ""


def _run(peer: Peer, folder: Path, *arguments: str) -> Outcome:
    located = peer.locate()
    assert located is not None
    command = Command([*located, "-m", "scripts.bench.pipeline_tasks", *arguments])
    outcome = run(command, folder, _LIMIT_S)
    if outcome.error:
        raise RunFailedError(outcome.error)
    return outcome


def _entrant(name: str, way: str) -> Entrant:
    return Entrant(replace(peers.TORCH, name=name), Pipelines(way).attempt)


PIPELINES = (
    Case(
        "pipelines",
        "Load a pipeline of 650 MB on the CPU, and take it from memory",
        (
            _entrant("PipelineStore, warm", "store"),
            _entrant("from_pretrained", "bare"),
            _entrant("PipelineStore, in memory", "memory"),
        ),
        (
            Goal("wall", "from_pretrained", 1.1, "PipelineStore, warm"),
            Goal("wall", None, 0.001, "PipelineStore, in memory"),
        ),
        "A warm store has to load the same files; from memory nothing is loaded.",
        FEW,
    ),
)
