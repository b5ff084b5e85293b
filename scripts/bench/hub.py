"""A Hugging Face Hub for the benchmark: it says where files are, and nginx has the bytes.

What it answers is what huggingface_hub's client and pgetpy ask: for a file a redirect to the store,
with the file's sha256, its size and its commit; for a repository what is in it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from scripts.bench.servers import Address, Stage, Weights
from scripts.origin import Behaviour, Origin

REPOSITORY = "bench/weights"
_ROOT = f"/{REPOSITORY}/resolve/"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Answers(BaseHTTPRequestHandler):
    """Redirects every file to `store`."""

    protocol_version = "HTTP/1.1"
    store: ClassVar[str]
    stage: ClassVar[Stage]
    listed: ClassVar[tuple[Weights, ...]] = ()
    latency: ClassVar[float] = 0.0

    def do_GET(self) -> None:
        time.sleep(self.latency)
        if self.path.startswith(f"/api/models/{REPOSITORY}"):
            self._list(self._tree() if "/tree/" in self.path else self._repository())
            return
        name = self.path.removeprefix(_ROOT).partition("/")[2]
        file = self.stage.library.known(name) if self.path.startswith(_ROOT) else None
        if file is None:
            self.send_response(404)
        else:
            self._redirect(file)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  as the base class has it

    def _tree(self) -> object:
        return [
            {
                "type": "file",
                "path": file.name,
                "size": file.size,
                "oid": file.sha256[:40],
                "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134},
            }
            for file in self.listed
        ]

    def _repository(self) -> object:
        files = [
            {
                "rfilename": file.name,
                "size": file.size,
                "blobId": file.sha256[:40],
                "lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134},
            }
            for file in self.listed
        ]
        return {"id": REPOSITORY, "sha": _COMMIT, "siblings": files}

    def _list(self, said: object) -> None:
        listing = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(listing)))
        self.end_headers()
        self.wfile.write(listing)

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
    with _serving({"store": store, "stage": stage}) as base:
        yield Address(f"{base}{_ROOT}main")


@contextlib.contextmanager
def hub_of(stage: Stage, files: tuple[Weights, ...], latency: float) -> Iterator[Address]:
    """A Hub whose one repository has `files`; it and its store answer after `latency` seconds."""
    with Origin(stage.library.folder, Behaviour(latency=latency)) as store:
        fields = {"store": store.base, "stage": stage, "listed": files, "latency": latency}
        with _serving(fields) as base:
            yield Address(base)


@contextlib.contextmanager
def _serving(fields: dict[str, object]) -> Iterator[str]:
    answers = type("Answers", (_Answers,), fields)
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
