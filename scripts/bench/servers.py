"""What is downloaded and where from: weights and archives made once, nginx, the paced origin."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import trustme

from scripts.bench.archives import Recipe, sha256_of, write_archive
from scripts.bench.checkpoints import checkpoint_sum, write_checkpoint
from scripts.bench.measure import RunFailedError
from scripts.origin import Behaviour, Origin, write_weights

_CONFIG = """
daemon off;
worker_processes 2;
{user}
pid {prefix}/pid;
error_log {prefix}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {prefix}/temp;
    proxy_temp_path {prefix}/temp;
    fastcgi_temp_path {prefix}/temp;
    uwsgi_temp_path {prefix}/temp;
    scgi_temp_path {prefix}/temp;
    ssl_certificate {prefix}/cert.pem;
    ssl_certificate_key {prefix}/key.pem;
    root {root};
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
    }}
    # Slow enough that every connection a client opens stays in use.
    server {{
        listen 127.0.0.1:{slow};
        listen 127.0.0.1:{slow_tls} ssl;
        limit_rate 5m;
    }}
}}
"""


@dataclass(frozen=True)
class Weights:
    """A file of made-up weights that the servers serve as `/name`."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """An archive that the servers serve: its file, and the tree that extracting it leaves.

    Attributes:
        sizes: of the tree's files, by name.
        tree: their digest, as `tree_digest` has it.
    """

    file: Weights
    sizes: Mapping[str, int]
    tree: str


@dataclass(frozen=True)
class Address:
    """A server's base URL, the authorities that vouch for it (None for plain HTTP), and what tells
    how many requests it has had and how many bytes it has sent (None where it does not count)."""

    base: str
    cafile: Path | None = None
    counts: Callable[[], tuple[int, int]] | None = None


class Library:
    """Weights on disk, made when first asked for and kept for later benchmarks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests_at = folder / "digests.json"
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._digests: dict[str, str] = json.loads(self._digests_at.read_text())
            return
        self._digests = {}

    def one(self, size: int) -> Weights:
        """Return one file of `size` bytes, read once so that it lies in the page cache."""
        [made] = self._made([(f"{size}.safetensors", size)])
        _read(self.folder / made.name)
        return made

    def many(self, count: int, size: int) -> list[Weights]:
        """Return `count` files of `size` bytes each, all different."""
        (self.folder / f"many-{size}").mkdir(exist_ok=True)
        return self._made([(f"many-{size}/{number:05}.bin", size) for number in range(count)])

    def various(self, count: int, smallest: int, largest: int) -> list[Weights]:
        """Return `count` files of sizes from `smallest` to `largest` bytes in equal steps."""
        name = f"various-{smallest}-{largest}-{count}"
        (self.folder / name).mkdir(exist_ok=True)
        step = (largest - smallest) / max(1, count - 1)
        sizes = [int(smallest + number * step) for number in range(count)]
        return self._made([(f"{name}/{at:05}.bin", size) for at, size in enumerate(sizes)])

    def checkpoint(self, size: int) -> Weights:
        """Return a safetensors file of about `size` bytes, read once."""
        name = f"checkpoint-{size}.safetensors"
        path = self.folder / name
        if name not in self._digests or not path.exists():
            self._digests[name] = write_checkpoint(path, size)
            self._save()
        _read(path)
        return Weights(name, path.stat().st_size, self._digests[name])

    def sum_of(self, checkpoint: Weights) -> int:
        """Return the sum of a checkpoint's tensors, which takes long and is kept."""
        key = f"sum of {checkpoint.name} {checkpoint.sha256}"
        if key not in self._digests:
            self._digests[key] = str(checkpoint_sum(self.folder / checkpoint.name))
            self._save()
        return int(self._digests[key])

    def known(self, name: str) -> Weights | None:
        """Return the file `name`, if it has been made."""
        path = self.folder / name
        if name not in self._digests or not path.is_file():
            return None
        return Weights(name, path.stat().st_size, self._digests[name])

    def archive(self, recipe: Recipe) -> Archive:
        """Return the archive of `recipe`, read once so that it lies in the page cache."""
        path = self.folder / recipe.name
        tree_of = f"tree of {recipe.name}"
        if tree_of not in self._digests or not path.exists():
            self._digests[tree_of] = write_archive(path, recipe)
            self._digests[recipe.name] = sha256_of(path)
            self._save()
        _read(path)
        file = Weights(recipe.name, path.stat().st_size, self._digests[recipe.name])
        sizes = {member.name: member.size for member in recipe.members()}
        return Archive(file, sizes, self._digests[tree_of])

    def _made(self, wanted: list[tuple[str, int]]) -> list[Weights]:
        known = len(self._digests)
        for seed, (name, size) in enumerate(wanted):
            path = self.folder / name
            if name not in self._digests or not path.exists() or path.stat().st_size != size:
                self._digests[name] = write_weights(path, size, seed)
                known = -1
        if known != len(self._digests):
            self._save()
        return [Weights(name, size, self._digests[name]) for name, size in wanted]

    def _save(self) -> None:
        self._digests_at.write_text(json.dumps(self._digests))


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


@dataclass(frozen=True)
class Stage:
    """What all cases share: the weights, a running nginx if there is one, sizes times `scale`."""

    library: Library
    nginx: Nginx
    scale: float

    def scaled(self, amount: int) -> int:
        return max(1, int(amount * self.scale))


class Nginx:
    """nginx with two workers on free loopback ports, started when first asked for."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._prefix = folder
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}

    def address(self, port: str) -> Address:
        """Return where one of the ports `plain`, `tls`, `slow`, `slow_tls` is."""
        if self._process is None:
            self._start()
        tls = port.endswith("tls")
        base = f"{'https' if tls else 'http'}://127.0.0.1:{self._ports[port]}"
        return Address(base, self._prefix / "ca.pem" if tls else None)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _start(self) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            raise RunFailedError("nginx is not installed")
        shutil.rmtree(self._prefix, ignore_errors=True)
        self._prefix.mkdir(parents=True)
        _write_certificate(self._prefix)
        self._ports = dict(zip(("plain", "tls", "slow", "slow_tls"), free_ports(4), strict=True))
        user = "user root;" if os.geteuid() == 0 else ""
        config = _CONFIG.format(user=user, prefix=self._prefix, root=self._root, **self._ports)
        (self._prefix / "nginx.conf").write_text(config)
        self._process = subprocess.Popen(
            [program, "-p", self._prefix, "-c", self._prefix / "nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._await_port(self._ports["plain"])

    def _await_port(self, port: int) -> None:
        assert self._process is not None
        for _ in range(200):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                return
            time.sleep(0.05)
        log = self._prefix / "error.log"
        said = log.read_text().strip() if log.exists() else "no log"
        self.stop()
        raise RunFailedError(f"nginx did not start: {said}")


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nothing listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _write_certificate(folder: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(folder / "cert.pem"), append=number > 0)


# A site is where a run downloads from; it lives as long as that run.
Site = Callable[[Stage], AbstractContextManager[Address]]


def nginx(port: str) -> Site:
    """nginx at one of its ports; the same process serves all runs."""
    return lambda stage: contextlib.nullcontext(stage.nginx.address(port))


@contextlib.contextmanager
def half_dead(stage: Stage) -> Iterator[Address]:
    """An origin on 127.0.0.1 whose other address, ::1, answers nobody: the queue of its listener is
    full, so that the kernel drops what else arrives."""
    with Origin(stage.library.folder, Behaviour()) as server, contextlib.ExitStack() as stack:
        port = int(server.base.rpartition(":")[2])
        dead = stack.enter_context(socket.socket(socket.AF_INET6))
        dead.bind(("::1", port))
        dead.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket(socket.AF_INET6))
            waiting.setblocking(False)
            waiting.connect_ex(("::1", port))
        yield Address(f"http://half.example:{port}")


def origin(how: Behaviour) -> Site:
    """The embedded origin, started anew for each run so that its connections count from one."""

    @contextlib.contextmanager
    def started(stage: Stage) -> Iterator[Address]:
        with Origin(stage.library.folder, how) as server:
            yield Address(server.base, counts=server.counts)
        if (how.stall_nth or how.crawl_nth) and not server.fell_ill:
            raise RunFailedError("the connection that was to fail carried too little to do so")

    return started
