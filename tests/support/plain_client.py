"""The standard library's HTTP client, which judges the servers that the tests play."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Protocol


class Listener(Protocol):
    """A server, by where it listens."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


@dataclass
class Got:
    """What http.client made of an answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    version: int

    def __getitem__(self, name: str) -> str | None:
        return self.headers[name]


def connect(server: Listener) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.host, server.port, timeout=30)


def ask(
    server: Listener,
    path: str = "/x",
    over: http.client.HTTPConnection | None = None,
    method: str = "GET",
    **headers: str,
) -> Got:
    """One request; header names are written with underscores."""
    connection = over or connect(server)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        return Got(response.status, response.headers, response.read(), response.version)
    finally:
        if over is None:
            connection.close()
