"""Several hosts on one machine: an origin and cache nodes in network namespaces, and ways to lose
one.

    client ---+                  Each is a namespace of its own, joined by a bridge in one more, so
    origin ---+--- bridge        that this machine's own network is not touched. What is lost is
    node 0 ---+                  lost silently, as on a real network: no reset, no refusal.
    node 1 ---+

Needs root, and a kernel with network namespaces: `why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORT = 80
_NETWORK = "10.91.7"
_START_SECONDS = 10.0
_LIMIT_SECONDS = 120.0
# One process, so that one signal stops all of it. The nodes hold what the origin has, and send the
# same validators: size and time of the file.
_CONFIG = """
daemon off; master_process off;
pid {folder}/pid; error_log {folder}/error.log;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
    client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;
    uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;
    server {{ listen {address}:80; root {root}; limit_rate {rate}; }}
}}
"""


def why_not() -> str:
    """Return why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "iproute2 is not installed"
    if not shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return "nginx is not installed"
    name = f"pgetpy-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


@dataclass
class Host:
    """A host that serves files: its address, its namespace, its end of the cable, its nginx."""

    name: str
    address: str
    namespace: str
    process: subprocess.Popen[bytes]


@dataclass
class Lab:
    """The hosts.

    Attributes:
        hub: the namespace of the bridge.
        client: that of the client, at `client_address`.
        origin: serves the files.
        nodes: serve the same.
    """

    hub: str
    client: str
    client_address: str
    origin: Host
    nodes: list[Host]

    def cut(self, host: Host) -> None:
        """Pull the cable of `host`."""
        _ip("-n", self.hub, "link", "set", f"to-{host.name}", "down")

    def stop(self, host: Host) -> None:
        """Stop the server's process: the kernel still accepts connections for it."""
        host.process.send_signal(signal.SIGSTOP)

    def swallow(self, host: Host) -> None:
        """Have all packets of `host` to the client vanish."""
        _ip("-n", host.namespace, "route", "add", "blackhole", f"{self.client_address}/32")

    def kill(self, host: Host) -> None:
        """Kill the server: connections are reset, and refused from then on."""
        host.process.kill()

    def repair(self, host: Host) -> None:
        """Undo `cut`, `stop` and `swallow`."""
        _ip("-n", self.hub, "link", "set", f"to-{host.name}", "up")
        host.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("-n", host.namespace, "route", "del", "blackhole", f"{self.client_address}/32")

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs pgetpy on the client."""
        return ["ip", "netns", "exec", self.client, sys.executable, "-m", "pgetpy", *arguments]


@contextmanager
def lab(folder: Path, root: Path, nodes: int, rate: str) -> Iterator[Lab]:
    """Make an origin, `nodes` nodes and a client.

    Args:
        folder: for the servers' own files.
        root: what they serve.
        nodes: how many.
        rate: bytes a second of each answer, as nginx has it; 0 for no limit.
    """
    tag = f"pg{os.getpid()}"
    hub, client = f"{tag}-hub", f"{tag}-client"
    with ExitStack() as stack:
        _namespace(stack, hub)
        _ip("-n", hub, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        _ip("-n", hub, "link", "set", "br0", "up")
        client_address = f"{_NETWORK}.200"
        _join(stack, hub, client, "client", client_address)
        hosts = []
        for number, name in enumerate(["origin", *(f"node{n}" for n in range(nodes))]):
            namespace, address = f"{tag}-{name}", f"{_NETWORK}.{number + 1}"
            _join(stack, hub, namespace, name, address)
            place = folder / name
            place.mkdir()
            hosts.append(_serve(stack, namespace, name, address, place, root, rate))
        yield Lab(hub, client, client_address, hosts[0], hosts[1:])


def _namespace(stack: ExitStack, name: str) -> None:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("-n", name, "link", "set", "lo", "up")


def _join(stack: ExitStack, hub: str, namespace: str, name: str, address: str) -> None:
    """Make a namespace with a cable to the bridge."""
    _namespace(stack, namespace)
    _ip("-n", hub, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0",
        "netns", namespace)  # fmt: skip
    _ip("-n", hub, "link", "set", f"to-{name}", "master", "br0", "up")
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", namespace, "link", "set", "eth0", "up")


def _serve(
    stack: ExitStack, namespace: str, name: str, address: str, place: Path, root: Path, rate: str
) -> Host:
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(
        _CONFIG.format(folder=place, root=root, address=address, rate=rate, user=user)
    )
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "nginx"
    command = [program, "-p", str(place), "-c", str(place / "nginx.conf")]
    log = stack.enter_context((place / "log").open("wb"))
    # `ip netns exec` becomes the program, so signals reach it.
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stderr=log)
    stack.callback(_end, process)
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(namespace):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nginx does not start: {(place / 'log').read_text()}")
        time.sleep(0.02)
    return Host(name, address, namespace, process)


def _listens(namespace: str) -> bool:
    asked = ["ip", "netns", "exec", namespace, "cat", "/proc/net/tcp"]
    table = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return f":{PORT:04X} 00000000:0000 0A" in table


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)


@dataclass(frozen=True)
class Trip:
    """A download: how long it took, and what its JSON result says."""

    seconds: float
    result: Mapping[str, Any]


def download(
    made: Lab, dest: Path, arguments: Sequence[str], lose: Sequence[Any] = (), at: float = 0.3
) -> Trip:
    """Run pgetpy on the client; once `at` of the file has come, do `lose`, a method and a host.

    Raises:
        RuntimeError: it failed.
    """
    command = made.command(*arguments, str(dest), "--json", "--progress", "json", "--force")
    begin, said = time.monotonic(), []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stdout is not None
            for line in process.stderr:
                said.append(line)
                event = json.loads(line) if line.startswith("{") else {}
                reached = event.get("total") and event.get("done", 0) >= at * event["total"]
                if lose and reached:
                    (act, *hosts), lose = lose, ()
                    act(*hosts)
            out = process.stdout.read()
            if process.wait(_LIMIT_SECONDS) != 0:
                raise RuntimeError(f"pgetpy failed: {''.join(said[-5:])}")
            return Trip(time.monotonic() - begin, json.loads(out.splitlines()[-1]))
        finally:
            process.kill()
