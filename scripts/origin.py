"""A fast loopback origin: byte ranges of made-up weights over HTTP/1.1, for demo and benchmark.

One thread per connection, bodies by `os.sendfile`, RFC 9110 ranges and preconditions. As a library
it runs in a process of its own, so that its work is not counted in its caller's. It listens on
loopback only and is no judge of correctness: the tests have a stricter server. Standard library
only, and nothing of pgetpy, so that the file also runs by itself.

    python scripts/origin.py --size 1G            made-up weights in a temporary folder
    python scripts/origin.py --folder weights     what is there
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import hashlib
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

MIB = 1 << 20
_BLOCK = MIB
_TLS_BLOCK = 256 * 1024
_MAX_HEAD = 64 * 1024
# Linux's number; Python has no name for it.
_SO_MAX_PACING_RATE = 47
# What a child says when one of its connections begins to stall or crawl.
_ILL = "a connection falls ill"
# Answers what has been asked for and sent so far, as JSON, without delay; not counted itself.
COUNTS_PATH = "/.counts"
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


# ---------------------------------------------------------------------------------- weights


def weights(size: int, seed: int = 0) -> Iterator[memoryview]:
    """Yield `size` bytes in blocks; every byte depends on its position, none is computed twice.

    Each block is the same random megabyte turned by another odd step, so that a block in the wrong
    place, and a block shifted by a byte, both give another digest.
    """
    base = random.Random(seed).randbytes(_BLOCK)
    doubled = memoryview(base + base)
    for number in range(-(-size // _BLOCK)):
        turn = (number * 786_433 + seed) % _BLOCK
        yield doubled[turn : turn + min(_BLOCK, size - number * _BLOCK)]


def write_weights(path: Path, size: int, seed: int = 0) -> str:
    """Write `size` bytes of made-up weights to `path`; return their sha256 in hex."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for block in weights(size, seed):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def parse_size(text: str) -> int:
    """Return the bytes that `1G`, `64MiB` or `1000` stand for."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 1000, 64MiB or 2G")
    return int(float(match[1]) * _UNITS[match[2] or ""])


# ------------------------------------------------------------------------------- HTTP, pure


@dataclass(frozen=True)
class Body:
    """What stands at a path: its size and the validators derived from it."""

    size: int
    etag: str
    modified: str


@dataclass(frozen=True)
class Answer:
    """Status, headers of its own, and the half-open range of the body that goes out."""

    status: str
    headers: tuple[tuple[str, str], ...]
    start: int
    stop: int


_NOT_FOUND = Answer("404 Not Found", (), 0, 0)
_NOT_ALLOWED = Answer("405 Method Not Allowed", (("Allow", "GET, HEAD"),), 0, 0)


def choose(headers: Mapping[str, str], body: Body) -> Answer:
    """Return the answer to a GET with `headers` (lower-case names) for `body`."""
    validators = (
        ("ETag", body.etag),
        ("Last-Modified", body.modified),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", "application/octet-stream"),
    )
    if not _matches(headers.get("if-match"), body):
        return Answer("412 Precondition Failed", validators, 0, 0)
    asked = headers.get("range") if _fresh(headers.get("if-range"), body) else None
    span = _span(asked, body.size) if asked else None
    if span is None:
        return Answer("200 OK", validators, 0, body.size)
    start, stop = span
    if start >= stop:
        return Answer(
            "416 Range Not Satisfiable",
            (*validators, ("Content-Range", f"bytes */{body.size}")),
            0,
            0,
        )
    where = f"bytes {start}-{stop - 1}/{body.size}"
    return Answer("206 Partial Content", (*validators, ("Content-Range", where)), start, stop)


def _matches(condition: str | None, body: Body) -> bool:
    """Strong comparison of If-Match: a weak tag never matches."""
    if condition is None or condition.strip() == "*":
        return True
    return body.etag in [tag.strip() for tag in condition.split(",")]


def _fresh(condition: str | None, body: Body) -> bool:
    return condition is None or condition.strip() in (body.etag, body.modified)


def _span(value: str, size: int) -> tuple[int, int] | None:
    """Return the one range `value` asks for, empty if it lies outside, None if it is to be ignored.

    A set of several ranges is ignored, as section 14.2 allows.
    """
    match = re.fullmatch(r"bytes\s*=\s*(\d*)-(\d*)", value.strip(), re.IGNORECASE)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < start:
        return None
    return start, min(last + 1, size)


def parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    """Return method, target, version and headers (lower-case names) of a request head."""
    lines = head.decode("latin-1").split("\r\n")
    method, target, version = lines[0].split(" ")
    fields = (line.partition(":") for line in lines[1:] if line)
    return method, target, version, {name.lower(): value.strip() for name, _, value in fields}


# ------------------------------------------------------------------------------- connections


@dataclass(frozen=True)
class Behaviour:
    """How connections are treated; connections are counted from 1 in the order they arrive.

    Attributes:
        pace: bytes a second that the kernel lets one connection send; None for no limit.
        stall_nth: this connection goes silent after `after` bytes of bodies and stays open.
        crawl_nth: this one goes on at `crawl_rate` bytes a second.
        latency: seconds between a request and its answer.
        jitter: each answer takes up to this many seconds longer, at random.
        slow_every: every such answer takes `slow_latency` seconds instead.
    """

    pace: int | None = None
    stall_nth: int | None = None
    crawl_nth: int | None = None
    after: int = 4 * MIB
    crawl_rate: int = 20_000
    latency: float = 0.0
    jitter: float = 0.0
    slow_every: int | None = None
    slow_latency: float = 3.0

    def delay(self, number: int) -> float:
        """Return the seconds that the answer to request `number` (from 1) takes to begin."""
        if self.slow_every and number % self.slow_every == 0:
            return self.slow_latency
        return self.latency + random.random() * self.jitter


class Counts:
    """GET requests, and the bytes of bodies that have been handed to the kernel for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.sent = 0

    def add_request(self) -> int:
        """Count one request; return its number."""
        with self._lock:
            self.requests += 1
            return self.requests

    def add_sent(self, size: int) -> None:
        """Count `size` bytes of a body."""
        with self._lock:
            self.sent += size


class _Connection:
    """One accepted socket: reads requests, sends answers, until either side has enough."""

    def __init__(
        self, sock: socket.socket, number: int, folder: Path, how: Behaviour, counts: Counts
    ) -> None:
        self._sock = sock
        self._folder = folder
        self._how = how
        self._counts = counts
        self._sent = 0
        self._pending = b""
        self._stalls = number == how.stall_nth
        self._crawls = number == how.crawl_nth
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if how.pace is not None:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, how.pace)

    def serve(self) -> None:
        with self._sock, contextlib.suppress(OSError, ValueError):
            while (head := self._head()) and self._answer(head):
                pass

    def _head(self) -> bytes:
        """Return the next request head, empty when the client is done."""
        while (end := self._pending.find(b"\r\n\r\n")) < 0:
            received = self._sock.recv(_MAX_HEAD)
            if not received or len(self._pending) > _MAX_HEAD:
                return b""
            self._pending += received
        head, self._pending = self._pending[:end], self._pending[end + 4 :]
        return head

    def _answer(self, head: bytes) -> bool:
        """Answer one request; return whether the connection may carry another."""
        method, target, version, headers = parse_head(head)
        keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if target == COUNTS_PATH:
            return self._tell_counts()
        path = self._path(target)
        if method not in ("GET", "HEAD") or path is None:
            self._send_head(_NOT_ALLOWED if path else _NOT_FOUND, keep)
            return keep
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            body = Body(
                stat.st_size,
                f'"{stat.st_size:x}-{stat.st_mtime_ns:x}"',
                email.utils.formatdate(stat.st_mtime, usegmt=True),
            )
            answer = choose(headers if method == "GET" else {}, body)
            number = self._counts.add_request()
            time.sleep(self._how.delay(number))
            self._send_head(answer, keep)
            if method == "GET":
                self._send_body(file.fileno(), answer.start, answer.stop)
        return keep

    def _tell_counts(self) -> bool:
        said = json.dumps({"requests": self._counts.requests, "sent": self._counts.sent})
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
        self._sock.sendall((head + said).encode())
        return False

    def _path(self, target: str) -> Path | None:
        """Return the file `target` names, or None; nothing outside the folder is named."""
        parts = unquote(urlsplit(target).path).strip("/").split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            return None
        path = self._folder.joinpath(*parts)
        return path if path.is_file() else None

    def _send_head(self, answer: Answer, keep: bool) -> None:
        fields = [
            *answer.headers,
            ("Content-Length", str(answer.stop - answer.start)),
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Connection", "keep-alive" if keep else "close"),
        ]
        lines = [f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in fields)]
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def _send_body(self, file: int, start: int, stop: int) -> None:
        if self._stalls or self._crawls:
            healthy = min(stop, start + max(0, self._how.after - self._sent))
            self._sendfile(file, start, healthy)
            self._fall_ill(file, healthy, stop)
        else:
            self._sendfile(file, start, stop)

    def _sendfile(self, file: int, start: int, stop: int) -> None:
        while start < stop:
            if isinstance(self._sock, ssl.SSLSocket):
                sent = self._sock.send(os.pread(file, min(_TLS_BLOCK, stop - start), start))
            else:
                sent = os.sendfile(self._sock.fileno(), file, start, stop - start)
            if sent == 0:
                raise ConnectionAbortedError("the file is shorter than it was")
            start += sent
            self._sent += sent
            self._counts.add_sent(sent)

    def _fall_ill(self, file: int, start: int, stop: int) -> None:
        """Send the rest slowly, or nothing more until the client closes."""
        if start < stop:
            print(_ILL, flush=True)
        step = 4096
        while self._crawls and start < stop:
            self._sendfile(file, start, min(start + step, stop))
            start += step
            time.sleep(step / self._how.crawl_rate)
        while start < stop and self._sock.recv(_MAX_HEAD):
            pass


def serve_connection(sock: socket.socket, folder: Path) -> None:
    """Answer the requests of one connection, which may be one of TLS."""
    _Connection(sock, 0, folder, Behaviour(), Counts()).serve()


def listen(port: int = 0) -> socket.socket:
    """Return a socket that listens on loopback, on a free port for 0."""
    return socket.create_server(("127.0.0.1", port), backlog=1024)


def serve(listener: socket.socket, folder: Path, how: Behaviour) -> None:
    """Answer connections to `listener` with the files of `folder`, until the process ends."""
    number = 0
    counts = Counts()
    while True:
        sock, _ = listener.accept()
        number += 1
        connection = _Connection(sock, number, folder, how, counts)
        threading.Thread(target=connection.serve, daemon=True).start()


# ------------------------------------------------------------------------------- as a library


class Origin:
    """The origin in a process of its own: `with Origin(folder) as origin: origin.url("name")`."""

    def __init__(self, folder: Path, how: Behaviour | None = None) -> None:
        self._folder = folder
        self._how = how or Behaviour()
        self._process: subprocess.Popen[str] | None = None
        self.base = ""
        self.fell_ill = False
        """Once it has stopped: whether a connection did stall or crawl."""

    def url(self, name: str) -> str:
        """Return the URL of the file `name` of the folder."""
        return f"{self.base}/{name}"

    def counts(self) -> tuple[int, int]:
        """Return the GET requests so far, and the bytes sent for them.

        A body that its client cut short counts as far as the kernel had taken it.
        """
        from urllib.request import urlopen

        with urlopen(self.base + COUNTS_PATH) as answer:
            said = json.load(answer)
        return said["requests"], said["sent"]

    def __enter__(self) -> Origin:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, "--child", *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.base = self._process.stdout.readline().strip()
        if not self.base:
            raise RuntimeError("the origin did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.terminate()
        self.fell_ill = _ILL in self._process.stdout.read()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _arguments(self) -> Iterator[str]:
        yield from ("--folder", str(self._folder))
        for name, value in vars(self._how).items():
            if value is not None:
                yield from (f"--{name.replace('_', '-')}", str(value))


# ------------------------------------------------------------------------------- as a program


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    how = Behaviour(**{name: getattr(options, name) for name in vars(Behaviour())})
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.port))
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if options.child:
            folder = options.folder
            print(base, flush=True)
            threading.Thread(target=_end_with_parent, daemon=True).start()
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _announce(base, folder, options)
        with contextlib.suppress(KeyboardInterrupt):
            serve(listener, folder, how)
    return 0


def _announce(base: str, folder: Path, options: argparse.Namespace) -> None:
    if options.folder is None:
        digest = write_weights(folder / "model.safetensors", options.size)
        print(f"{base}/model.safetensors  sha256:{digest}", flush=True)
    else:
        print(f"{base}/ serves {folder}", flush=True)
    print("Ctrl-C ends it.", flush=True)


def _end_with_parent() -> None:
    """End when the parent does, however it ends: its end of the pipe closes with it."""
    sys.stdin.read()
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A loopback server of byte ranges.")
    usual = Behaviour()
    add = parser.add_argument
    add("--folder", type=Path, help="serve its files (default: made-up weights)")
    add("--size", type=parse_size, default=1 << 30, help="of the made-up weights (1GiB)")
    add("--port", type=int, default=0, help="0 for a free one")
    add("--pace", type=parse_size, help="bytes a second for each connection")
    add("--stall-nth", type=int, metavar="N", help="the Nth connection goes silent")
    add("--crawl-nth", type=int, metavar="N", help="the Nth connection becomes slow")
    add("--after", type=parse_size, default=usual.after, help="bytes before it does (4MiB)")
    add("--crawl-rate", type=parse_size, default=usual.crawl_rate, help="bytes a second (20k)")
    add("--latency", type=float, default=0.0, help="seconds before each answer (0)")
    add("--jitter", type=float, default=0.0, help="up to so many seconds more, at random (0)")
    add("--slow-every", type=int, metavar="N", help="every Nth answer is slow")
    add("--slow-latency", type=float, default=usual.slow_latency, help="seconds for these (3)")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
