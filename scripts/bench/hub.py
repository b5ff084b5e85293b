"""A Hugging Face Hub for the benchmark: it says where files are, and nginx has the bytes.

What it answers is what huggingface_hub's client and pgetpy ask for one file: a redirect to the
store, with the file's sha256, its size and its commit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from scripts.bench.servers import Address, Stage, Weights

REPOSITORY = "bench/weights"
_ROOT = f"/{REPOSITORY}/resolve/"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Answers(BaseHTTPRequestHandler):
    """Redirects every file to `store`."""

    protocol_version = "HTTP/1.1"
    store: ClassVar[str]
    stage: ClassVar[Stage]

    def do_GET(self) -> None:
        name = self.path.removeprefix(_ROOT).partition("/")[2]
        file = self.stage.library.known(name) if self.path.startswith(_ROOT) else None
        if file is None:
            self.send_response(404)
        else:
            self._redirect(file)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  as the base class has it

    def _redirect(self, file: Weights) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.store}/{file.name}")
        self.send_header("X-Linked-Etag", f'"{file.sha256}"')
        self.send_header("X-Linked-Size", str(file.size))
        self.send_header("X-Repo-Commit", _COMMIT)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def hub(stage: Stage) -> Iterator[Address]:
    """The Hub, as a site: its files are below the address."""
    store = stage.nginx.address("plain").base
    answers = type("Answers", (_Answers,), {"store": store, "stage": stage})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Address(f"http://127.0.0.1:{server.server_port}{_ROOT}main")
        finally:
            server.shutdown()
