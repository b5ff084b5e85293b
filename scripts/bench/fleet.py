"""Cache nodes: what a lost one costs, and what the way through warm ones costs."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scripts.bench import hosts, peers
from scripts.bench.comparison import FEW, SOME, Case, Entrant, Goal
from scripts.bench.measure import Command, RunFailedError, Sample, run, scratch_folder, warm_memory
from scripts.bench.peers import Fetch, Peer
from scripts.bench.servers import Stage, nginx
from scripts.bench.work import DISK

_MIB = 1 << 20
_SIZE = 1100 * _MIB
# Losses are timed on a file that takes some five seconds over four connections.
_LOST_SIZE = 200 * _MIB
_LIMIT_S = 300.0
_NODES = 3
_SITE = nginx("plain")


@dataclass(frozen=True)
class Lost:
    """Fetch a file from nodes on hosts of their own, one of which is lost on the way.

    `way` is a method of `hosts.Lab`, empty for no loss.
    """

    way: str

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        if reason := hosts.why_not():
            raise RunFailedError(reason)
        file = stage.library.one(stage.scaled(_LOST_SIZE))
        with scratch_folder(DISK) as folder:
            root = folder / "root"
            root.mkdir()
            os.link(stage.library.folder / file.name, root / file.name)
            (folder / "hosts").mkdir()
            with hosts.lab(folder / "hosts", root, _NODES, "10m") as made:
                base = f"http://{made.origin.address}/"
                arguments = [
                    f"{base}{file.name}", "--concurrency", "4", "--cache-prefixes", base,
                    "--cache-nodes", ",".join(node.address for node in made.nodes),
                ]  # fmt: skip
                lose = (getattr(made, self.way), made.nodes[0]) if self.way else ()
                try:
                    trip = hosts.download(made, folder / file.name, arguments, lose)
                except RuntimeError as error:
                    raise RunFailedError(str(error)) from None
            if (folder / file.name).stat().st_size != file.size:
                raise RunFailedError("left another size")
        return Sample(trip.seconds, 0.0, 0), f"{trip.result['requests']} requests"


class _Nodes:
    """nginx as nodes, with a configuration of `pgetpy node config`; started once."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self._names: dict[str, str] = {}

    def names(self, base: str) -> str:
        """Return the nodes for the origin at `base`, as --cache-nodes takes them.

        Raises:
            RunFailedError: nginx is not installed.
        """
        import atexit

        if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            raise RunFailedError("nginx is not installed")
        if base not in self._names:
            from tests.support.nginx_nodes import nginx_node

            atexit.register(self._running.close)
            changes: dict[str, Any] = {"piece": 20 * _MIB, "size": 4 << 30}
            nodes = [
                self._running.enter_context(nginx_node(f"{base}/", **changes))
                for _ in range(_NODES)
            ]
            self._names[base] = ",".join(node.name for node in nodes)
        return self._names[base]


_RUNNING = _Nodes()


@dataclass(frozen=True)
class Warm:
    """Fetch a file that the nodes have; or, without them, from the origin itself."""

    through: bool

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        file = stage.library.one(stage.scaled(_SIZE))
        with _SITE(stage) as address, scratch_folder(DISK) as folder:
            work = Fetch(f"{address.base}/{file.name}", folder / file.name, address.cafile)
            command = peer.command(work)
            if self.through:
                command = _with_nodes(command, address.base)
                _run(command, folder)  # warms them, unless they are warm already
                work.dest.unlink()
            warm_memory(file.size + 512 * _MIB)
            sample = _run(command, folder)
            if work.dest.stat().st_size != file.size:
                raise RunFailedError("left another size")
        return sample, ""


def _with_nodes(command: Command, base: str) -> Command:
    nodes = {"PGET_CACHE_NODES": _RUNNING.names(base), "PGET_CACHE_URI_PREFIXES": f"{base}/"}
    return replace(command, env={**command.env, **nodes})


def _run(command: Command, folder: Path) -> Sample:
    outcome = run(command, folder, _LIMIT_S)
    if outcome.error:
        raise RunFailedError(outcome.error)
    return outcome.sample


def _named(name: str) -> Peer:
    return replace(peers.pgetpy(), name=name)


_LOSSES = {
    "no node lost": "",
    "cable out": "cut",
    "SIGSTOP": "stop",
    "black hole": "swallow",
}
FLEET = (
    Case(
        "fleet-lost",
        "200 MiB through three cache nodes at 40 MB/s in all, one of them lost on the way",
        tuple(Entrant(_named(name), Lost(way).attempt) for name, way in _LOSSES.items()),
        tuple(
            Goal("wall", "no node lost", 5.0, name, apart=True)
            for name, way in _LOSSES.items()
            if way
        ),
        "Every host is a network namespace of its own. A node falls silent when a third of the "
        "file has come.",
        FEW,
    ),
    Case(
        "fleet-warm",
        "1.1 GiB that three cache nodes have, to disk",
        (
            Entrant(_named("through warm nodes"), Warm(through=True).attempt),
            Entrant(_named("from the origin"), Warm(through=False).attempt),
        ),
        (Goal("wall", "from the origin", 1 / 0.9, "through warm nodes"),),
        "The nodes are nginx with what `pgetpy node config` writes.",
        SOME,
    ),
)
