"""What the scripted servers of services share: a port of loopback, and threads that answer."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

S = TypeVar("S", bound="ScriptedServer")


class ScriptedServer:
    """A server on a free port of loopback. It answers inside a `with` block.

    Args:
        handler: a class of handlers. Its instances get the server as their attribute `owner`.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        owned = type("Handler", (handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), owned)
        self._server.daemon_threads = True

    def __enter__(self: S) -> S:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where the server is reached."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"
