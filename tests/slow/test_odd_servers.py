"""Random servers with odd notions of ranges, over sockets: what curl gets whole is had."""

from __future__ import annotations

import random
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.http.ranges import OPEN_END, Span
from pgetpy.errors import PgetError
from tests.support.bodies import body
from tests.support.fetching import fetch
from tests.support.odd_servers import (
    CHOICES,
    Oddity,
    OddServer,
    Reply,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

BODY = body(3_000_017)
# How the body of an answer is delimited.
FRAMINGS = ("length", "chunked", "both", "close")


class SocketServer:
    """Serves an `OddServer` on loopback, a thread a connection, one answer each."""

    def __init__(self, odd: OddServer, framing: str) -> None:
        self._odd = odd
        self._framing = framing
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/model"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            text = data.decode("latin-1")
            found = re.search(r"(?im)^range: *bytes=(\d+)-(\d*)", text)
            condition = re.search(r"(?im)^if-range: *(.*?)\r$", text)
            asked = None
            if found:
                asked = Span(int(found[1]), int(found[2]) + 1 if found[2] else OPEN_END)
            with self._lock:
                self._odd.busy += 1
                open_end = bool(found) and not found[2]  # type: ignore[index]
                reply = self._odd.reply(asked, condition and condition[1], open_end=open_end)
            *pieces, last = self._pieces(reply)
            with suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
            with self._lock:
                # Before the client sees the end of it and comes back.
                self._odd.busy -= 1
            with suppress(OSError):
                connection.sendall(last)
            if reply.cut is not None:
                # A reset: a body that only the connection ends must not look whole.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pieces(self, reply: Reply) -> list[bytes]:
        """What is sent of `reply`, its head first."""
        headers = dict(reply.headers)
        framing = self._framing if reply.status in (200, 206) else "length"
        headers.setdefault("content-length", str(len(reply.body)))
        if framing in ("chunked", "close"):
            del headers["content-length"]
        chunked = framing in ("chunked", "both")
        if chunked:
            headers["transfer-encoding"] = "chunked"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {reply.status} As It Is\r\nConnection: close\r\n{lines}\r\n"
        pieces = [head.encode()]
        reach = len(reply.body) if reply.cut is None else reply.cut
        for at in range(0, reach, 100_000):
            piece = bytes(reply.body[at : min(at + 100_000, reach)])
            pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked and reply.cut is None:
            pieces.append(b"0\r\n\r\n")
        return pieces


@contextmanager
def served(oddity: Oddity, size: int, framing: str) -> Iterator[str]:
    server = SocketServer(OddServer(BODY[:size], oddity), framing)
    try:
        yield server.url
    finally:
        server.close()


def random_oddity(chance: random.Random) -> Oddity:
    """Return an oddity, but for late answers, which this server does not know."""
    chosen: dict[str, Any] = {name: chance.choice(choices) for name, choices in CHOICES.items()}
    return replace(Oddity(**chosen), late=0.0)


@pytest.mark.parametrize("seed", range(300))
def test_what_curl_gets_is_had(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    oddity, framing = random_oddity(chance), chance.choice(FRAMINGS)
    size = chance.choice([0, 1, 1000, 1 << 20, len(BODY)])
    chunk_size = chance.choice([200_000, 125_000_000])
    with served(oddity, size, framing) as url:
        command = ["curl", "-sfL", "--max-time", "60", "-o", tmp_path / "curl", url]
        curl = subprocess.run(command, check=False).returncode == 0
    if curl:
        there = (tmp_path / "curl").read_bytes() if (tmp_path / "curl").exists() else b""
        assert there == BODY[:size]
    limited = oddity.answers is not None and chunk_size < size
    with served(oddity, size, framing) as url:
        try:
            result = fetch(url, tmp_path / "ours", chunk_size=chunk_size, retries=3)
        except PgetError as error:
            if curl and not (oddity.spends_its_answer or limited):
                raise AssertionError(f"curl gets it from {oddity} ({framing})") from error
        else:
            assert (tmp_path / "ours").read_bytes() == BODY[:size]
            assert result.size == size
