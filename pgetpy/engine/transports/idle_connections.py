"""The pool of connections without a request under way, by what they can be used for."""

from __future__ import annotations

import time

from pgetpy.engine.transports.base import AUTHORITY, Request
from pgetpy.engine.transports.connection import Connection

_IDLE_SECONDS = 15.0  # after that, many servers have closed a connection

# All that a connection, its proxy and its TLS depend on, see `key_of`.
PoolKey = tuple[str, str | None, int, bool, str]


class IdleConnections:
    """Idle connections. On the loop only."""

    def __init__(self) -> None:
        self._idle: dict[PoolKey, list[Connection]] = {}
        self._closed = False

    def take(self, key: PoolKey) -> Connection | None:
        """Return a connection that can be used again, the latest one; None where there is none."""
        now = time.monotonic()
        idle = self._idle.get(key, [])
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < _IDLE_SECONDS and connection.silent():
                return connection
            connection.close()
        return None

    def keep(self, key: PoolKey, connection: Connection) -> None:
        """Keep `connection`, whose last answer has been read to its end."""
        if self._closed:
            connection.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.setdefault(key, []).append(connection)

    def close(self) -> None:
        """Close them, and from now on those that `keep` is given."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


def key_of(request: Request) -> PoolKey:
    """Return what a connection must have been opened for to be used for `request`."""
    authority = AUTHORITY.match(request.url)
    assert authority is not None
    return authority[0], request.proxy, id(request.tls), request.trusted, request.node
