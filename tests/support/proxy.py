"""A small loopback HTTP proxy: absolute-form for http, CONNECT for https, Basic on request.

It records what passes. ``names`` maps host names that exist nowhere to loopback addresses, so that
a test can use real-looking hosts. One request a connection: what follows is relayed as bytes.
"""

import asyncio
import base64
import ssl
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from .loops import LoopThread
from .rfc9110 import Headers

Address = tuple[str, int]


@dataclass(frozen=True)
class Passed:
    """One request as the proxy saw it."""

    method: str
    host: str
    port: int
    target: str
    headers: Headers

    def header(self, name: str) -> str | None:
        return next((v for key, v in self.headers if key.lower() == name.lower()), None)


class Proxy:
    """A context manager; ``credentials`` is ``name:word`` when the proxy asks for them, and ``tls``
    makes it an https proxy."""

    def __init__(
        self,
        credentials: str | None = None,
        names: dict[str, Address] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.credentials = credentials
        self._tls = tls
        self.names = names or {}
        self.requests: list[Passed] = []
        self.refused = 0
        self.violations: list[str] = []
        self.port = 0
        # The loop holds tasks weakly, and a connection that both sides let wait holds nothing.
        self._tasks: set[asyncio.Task[None] | None] = set()

    @property
    def hosts(self) -> list[str]:
        return [passed.host for passed in self.requests]

    @property
    def errors(self) -> list[BaseException | str]:
        return self._home.errors

    def url(self, user: str = "") -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{user + '@' if user else ''}127.0.0.1:{self.port}"

    def __enter__(self) -> "Proxy":
        self._home = LoopThread("loopback proxy")
        self._home.run(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._home.run(self._unlisten())
        self._home.stop()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        self._listener.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        method, target, _ = line.split(" ")
        headers = tuple(
            (name, value.strip()) for name, _, value in (field.partition(":") for field in fields)
        )
        place = urlsplit(f"//{target}" if method == "CONNECT" else target)
        if not place.hostname:
            self.violations.append(f"a proxy was asked for {target!r}")
            await _refuse(writer, "400 Bad Request")
            return
        passed = Passed(method, place.hostname, place.port or 80, target, headers)
        if not self._admits(passed):
            self.refused += 1
            await _refuse(writer, "407 Proxy Authentication Required")
            return
        self.requests.append(passed)
        await self._forward(passed, reader, writer)

    def _admits(self, passed: Passed) -> bool:
        if self.credentials is None:
            return True
        expected = "Basic " + base64.b64encode(self.credentials.encode()).decode()
        return passed.header("Proxy-Authorization") == expected

    async def _forward(
        self, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, port = self.names.get(passed.host, (passed.host, passed.port))
        try:
            upstream, out = await asyncio.open_connection(host, port)
        except OSError:
            await _refuse(writer, "502 Bad Gateway")
            return
        try:
            if passed.method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                out.write(_rewritten(passed))
            await asyncio.gather(_relay(reader, out), _relay(upstream, writer))
        finally:
            out.transport.abort()


def _rewritten(passed: Passed) -> bytes:
    """The request as the origin gets it: origin-form, nothing for the proxy, then the end."""
    place = urlsplit(passed.target)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    hop = ("proxy-", "connection", "keep-alive")
    kept = [
        f"{name}: {value}" for name, value in passed.headers if not name.lower().startswith(hop)
    ]
    lines = [f"{passed.method} {target} HTTP/1.1", *kept, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def _refuse(writer: asyncio.StreamWriter, status: str) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n"
    head += 'Proxy-Authenticate: Basic realm="proxy"\r\n' if status.startswith("407") else ""
    writer.write(head.encode() + b"\r\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def _relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()  # TLS has no end of one direction
    except OSError:
        # One side is gone without a farewell, and the other is told as rudely.
        sink.transport.abort()
