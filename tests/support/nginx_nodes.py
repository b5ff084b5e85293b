"""nginx as a cache node, by a configuration as `pgetpy node config` prints it, or a changed one."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgetpy.core.http.urls import parse_link
from pgetpy.core.nodes.nginx_config import MIB, NodeConfig, nginx_configuration

from .judges import free_port, require_judge
from .waiting import eventually


@dataclass(frozen=True)
class Node:
    """A running node."""

    port: int
    folder: Path
    log: Path
    host: str = "127.0.0.1"

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"


def configuration(origins: Sequence[str], folder: Path, port: int, **changes: object) -> str:
    """A node's configuration with small pieces."""
    usual: dict[str, object] = {
        "origins": tuple(parse_link(each).origin for each in origins),
        "size": 1 << 30,
        "piece": 4 * MIB,
        "listen": f"127.0.0.1:{port}",
        "folder": str(folder),
        "resolvers": ("127.0.0.1",),
        "ca_file": "/etc/ssl/certs/ca-certificates.crt",
    }
    return nginx_configuration(NodeConfig(**(usual | changes)))  # type: ignore[arg-type]


def nginx_command(folder: Path, text: str) -> list[str]:
    """nginx with this configuration, in the foreground."""
    path = folder / "nginx.conf"
    path.write_text(f"user root;\n{text}" if os.geteuid() == 0 else text)
    return [require_judge("nginx"), "-p", str(folder), "-c", str(path), "-e", "stderr",
            "-g", "daemon off;"]  # fmt: skip


@contextmanager
def nginx_node(
    *origins: str, spoil: Callable[[str], str] = lambda text: text, **changes: object
) -> Iterator[Node]:
    """A node for these origins; `spoil` changes its configuration into a wrong one."""
    with tempfile.TemporaryDirectory(prefix="node-") as made:
        folder, port = Path(made), free_port()
        text = spoil(configuration(origins, folder, port, **changes))
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(nginx_command(folder, text), stdout=out, stderr=out)
        try:
            eventually(
                lambda: process.poll() is not None or _listens(port), what="the node's start"
            )
            assert process.poll() is None, log.read_text(errors="replace")
            yield Node(port, folder, log)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
