"""A real Cog server on a folder of examples/, and what it answers.

It runs the folder as it is: settings come by the environment alone, as in a container.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image

from ..support.processes import Run
from ..support.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
HOST = "127.0.0.1"
# Several servers and a test process share few processors; and sums in other orders are other bits.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
CONFLICT = 409


@dataclass(frozen=True)
class Reply:
    """What became of one prediction."""

    status: str
    output: Any = None
    error: str = ""
    logs: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cache(self) -> tuple[int, int]:
        """The hits and the misses that the prediction has told."""
        told = self.metrics["cache"]
        return told["hits"], told["misses"]

    @property
    def pixels(self) -> bytes:
        """The bits of the image that is the output."""
        assert self.status == "succeeded", self
        return pixels_of(io.BytesIO(base64.b64decode(self.output.partition("base64,")[2])))


REPLY = tuple(each.name for each in fields(Reply))


def pixels_of(file: io.BytesIO | Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


class CogServer:
    """One running server; `example` is a folder's name in examples/."""

    def __init__(self, example: str, env: Mapping[str, str]) -> None:
        self._port = _free_port()
        binaries = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        self._run = Run(
            "--host",
            HOST,
            program=(sys.executable, "-m", "cog.server.http"),
            cwd=EXAMPLES / example,
            env={
                # The server starts its worker as `python`.
                "PATH": binaries,
                "PORT": str(self._port),
                "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
                "PGET_MIN_DISK_FREE": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "HF_HUB_OFFLINE": "1",
                **ONE_THREAD,
                **env,
            },
        )
        self._callers = ThreadPoolExecutor(8)

    @property
    def log(self) -> str:
        """All that the server and its worker have printed so far."""
        return self._run.out + self._run.err

    def health(self) -> dict[str, Any]:
        """The answer to a health check; `status` is STARTING until setup() has ended."""
        try:
            return self._ask("GET", "/health-check")[1]
        except ConnectionRefusedError:
            return {"status": "STARTING"}

    def wait_for_setup(self, within: float = 120) -> dict[str, Any]:
        """Wait until setup() has ended, well or not; return the health check."""
        self._run.wait_until(lambda: self.health()["status"] != "STARTING", within)
        return self.health()

    def predict(self, **inputs: Any) -> Reply:
        """Make a prediction and wait for its end."""
        return self.begin(**inputs).reply()

    def begin(self, **inputs: Any) -> Prediction:
        """Make a prediction and go on."""
        name = uuid.uuid4().hex
        return Prediction(name, self, self._callers.submit(self._put, name, inputs))

    def cancel(self, name: str) -> None:
        status, answer = self._ask("POST", f"/predictions/{name}/cancel")
        assert status == http.client.OK, answer

    def worker(self) -> int:
        """The process in which the predictor runs."""
        # Any thread of the server may have started it.
        threads = Path(f"/proc/{self._run.process.pid}/task").iterdir()
        found = [child for thread in threads for child in (thread / "children").read_text().split()]
        (worker,) = map(int, found)
        return worker

    def kill_worker(self) -> None:
        """kill -9, and wait until the server has seen it."""
        os.kill(self.worker(), signal.SIGKILL)
        eventually(lambda: self.health()["status"] == "UNHEALTHY", 20, "the end of the worker")

    def stop(self) -> None:
        """End the server and its worker."""
        if self._run.process.poll() is None:
            self._run.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._run.wait(20)
        self.kill()
        self._callers.shutdown()
        self._run.__exit__(None, None, None)

    def kill(self) -> None:
        """kill -9 for the server and its worker, as when a container goes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._run.process.pid, signal.SIGKILL)
        self._run.process.wait(10)

    def _put(self, name: str, inputs: Mapping[str, Any]) -> Reply:
        # For a moment after a reply the place of the prediction before is still taken.
        def tried() -> Reply | None:
            status, answer = self._ask("PUT", f"/predictions/{name}", {"input": inputs})
            if status == CONFLICT:
                return None
            if "status" not in answer:
                return Reply(str(status), error=json.dumps(answer))
            return Reply(**{key: answer[key] for key in REPLY if key in answer})

        return eventually(tried, 30, "a place for the prediction")  # type: ignore[return-value]

    def _ask(self, method: str, path: str, content: Any = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=120)
        try:
            body = json.dumps(content) if content is not None else None
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        finally:
            connection.close()


@dataclass(frozen=True)
class Prediction:
    """One that was begun."""

    name: str
    server: CogServer
    _future: Future[Reply]

    @property
    def log(self) -> str:
        """What the server has logged for this prediction so far, line by line."""
        return "\n".join(line for line in self.server.log.splitlines() if self.name in line)

    def reply(self, within: float = 120) -> Reply:
        return self._future.result(within)

    def cancel(self) -> None:
        self.server.cancel(self.name)


@contextlib.contextmanager
def starting(example: str, **env: str | os.PathLike[str]) -> Iterator[CogServer]:
    """A server that has just been started; its setup() may fail, or hang."""
    server = CogServer(example, {name: os.fspath(value) for name, value in env.items()})
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def running(example: str, **env: str | os.PathLike[str]) -> Iterator[CogServer]:
    """A server that takes predictions."""
    with starting(example, **env) as server:
        health = server.wait_for_setup()
        assert health["status"] == "READY", health["setup"]["logs"]
        yield server


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])
