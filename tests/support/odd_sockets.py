"""Odd servers over sockets, plain or TLS, with the framings that bodies come in."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pgetpy.core.http.ranges import OPEN_END, Span
from tests.support.odd_servers import OddServer, Reply

# How the body of an answer is delimited.
FRAMINGS = ("length", "chunked", "both", "close")


class SocketServer:
    """Serves an `OddServer` on loopback, a thread a connection, one answer each."""

    def __init__(
        self, odd: OddServer, framing: str = "length", tls: ssl.SSLContext | None = None
    ) -> None:
        self._odd = odd
        self._tls = tls
        self._framing = framing
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/model"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        # A thread that is about to call accept(2) has the number of the descriptor, and the next
        # server's listener would get that number: it would answer there, with this one's oddity.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._tls is None:
                self._answer(connection)
            else:
                with self._tls.wrap_socket(connection, server_side=True) as sealed:
                    self._answer(sealed)

    def _answer(self, connection: socket.socket) -> None:
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
        framing = self._framing if reply.status < 300 else "length"
        headers.setdefault("content-length", str(len(reply.body)))
        if framing in ("chunked", "close"):
            del headers["content-length"]
        chunked = framing in ("chunked", "both")
        if chunked:
            headers["transfer-encoding"] = "chunked"
        # Joined by a comma and a blank: a field that comes several times.
        fields = [(name, one) for name, value in headers.items() for one in _fields(name, value)]
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        head = f"HTTP/1.1 {reply.status} As It Is\r\nConnection: close\r\n{lines}\r\n"
        pieces = [head.encode()]
        reach = len(reply.body) if reply.cut is None else reply.cut
        for at in range(0, reach, 100_000):
            piece = bytes(reply.body[at : min(at + 100_000, reach)])
            pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked and reply.cut is None:
            pieces.append(b"0\r\n\r\n")
        return pieces


def _fields(name: str, value: str) -> list[str]:
    """Return the values of the fields that `value` is sent as."""
    return value.split(", ") if name == "content-length" else [value]


@contextmanager
def served(
    odd: OddServer, framing: str = "length", tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve `odd` at the URL that is yielded."""
    server = SocketServer(odd, framing, tls)
    try:
        yield server.url
    finally:
        server.close()
