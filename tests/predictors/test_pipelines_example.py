"""examples/pipelines with its base in an object store: on a real Cog server, and from a queue.

Every image is the one that diffusers makes alone, bit for bit, whatever runs beside it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.weights import serve

from ..support.object_store import ObjectStore, started_store
from ..support.processes import Run
from ..support.server import Server
from .cogs import EXAMPLES, ONE_THREAD, CogServer, pixels_of, running
from .pipelines import PROMPT, save_transformer_lora
from .studio import SEED, STEPS, Studio

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLE = EXAMPLES / "pipelines"
ROOT = EXAMPLES.parent
BASE = "s3://models/sd"


@pytest.fixture(scope="module")
def bucket(studio: Studio) -> Iterator[ObjectStore]:
    """An object store that has the base."""
    with started_store() as store:
        for path in studio.base.rglob("*"):
            if path.is_file():
                name = path.relative_to(studio.base).as_posix()
                store.put("models", f"sd/{name}", path.read_bytes())
        yield store


@pytest.fixture
def loras(server: Server, studio: Studio) -> tuple[str, str]:
    first = serve(server, studio.first.read_bytes(), "/first.safetensors")
    return first, serve(server, studio.second.read_bytes(), "/second.safetensors")


def environment(bucket: ObjectStore, folder: Path) -> dict[str, str]:
    return {
        **bucket.environ,
        **ONE_THREAD,
        "BASE": BASE,
        "TRUST_LORA_URLS": "1",
        "HF_HUB_OFFLINE": "1",
        "PGET_MIN_DISK_FREE": "0",
        "PGET_CACHE_DIR": str(folder / "cache"),
        "PIPELINE_STORE": str(folder / "pipelines"),
        "BOOT_REPORT": str(folder / "boot.svg"),
        "HOME": str(folder / "home"),
    }


# ------------------------------------------------------------------------------------------- Cog


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Cog server writes to."""
    return tmp_path_factory.mktemp("cog")


@pytest.fixture(scope="module")
def cog(bucket: ObjectStore, volume: Path) -> Iterator[CogServer]:
    env = environment(bucket, volume)
    with running("pipelines", **env, COG_MAX_CONCURRENCY="4") as server:
        yield server


def inputs(*loras: tuple[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": PROMPT, "steps": STEPS, "seed": SEED}
    for slot, (reference, scale) in zip(("lora", "extra_lora"), loras, strict=False):
        found |= {slot: reference, f"{slot}_scale": scale}
    return found


def test_each_of_many_predictions_at_once_has_its_own_loras(
    cog: CogServer, studio: Studio, loras: tuple[str, str]
) -> None:
    one, two = loras
    paths = {one: studio.first, two: studio.second}
    wanted = [
        (),
        ((one, 0.7),),
        ((two, 1.0),),
        ((one, 0.7), (two, 0.4)),
        ((two, 0.4), (one, 0.7)),
        ((one, 0.2),),
    ]
    begun = [cog.begin(**inputs(*each)) for each in wanted * 2]
    for prediction, asked in zip(begun, wanted * 2, strict=True):
        reply = prediction.reply()
        expected = studio.picture(*((paths[url], scale) for url, scale in asked))
        assert reply.pixels == expected, asked
        assert reply.metrics["attention_backend"] == "unchanged"
        assert reply.metrics["memory_bytes"] > 0


def test_a_lora_that_does_not_fit_fails_its_own_prediction_alone(
    cog: CogServer, studio: Studio, loras: tuple[str, str], server: Server, tmp_path: Path
) -> None:
    wrong = save_transformer_lora(tmp_path / "wrong.safetensors", 3)
    bad = cog.begin(**inputs((serve(server, wrong.read_bytes(), "/wrong.safetensors"), 1.0)))
    good = cog.begin(**inputs((loras[0], 0.7)))
    assert bad.reply().status == "failed"
    assert good.reply().pixels == studio.picture((studio.first, 0.7))
    assert cog.predict(**inputs()).pixels == studio.picture()


@pytest.mark.usefixtures("cog")
def test_the_start_leaves_a_picture_of_itself(volume: Path) -> None:
    picture = (volume / "boot.svg").read_text()
    assert picture.startswith("<svg")
    for name in ("diffusers:StableDiffusionPipeline", "diffusion_pytorch_model.safetensors"):
        assert name in picture


# ----------------------------------------------------------------------------------------- queue


@dataclass
class Queue:
    """A queue on loopback: gives each job to one worker, and keeps what comes back."""

    jobs: deque[dict[str, Any]] = field(default_factory=deque)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    arrived: threading.Condition = field(default_factory=threading.Condition)
    refusals: int = 0

    def add(self, name: str, *loras: tuple[str, float], **other: Any) -> None:
        asked = {"prompt": PROMPT, "steps": STEPS, "seed": SEED, "loras": loras, **other}
        with self.arrived:
            self.jobs.append({"id": name, "input": asked})
            self.arrived.notify_all()

    def next(self) -> dict[str, Any] | None:
        with self.arrived:
            self.arrived.wait_for(lambda: bool(self.jobs), timeout=0.2)
            return self.jobs.popleft() if self.jobs else None

    def done(self, name: str, result: dict[str, Any]) -> None:
        with self.arrived:
            self.results[name] = result
            self.arrived.notify_all()

    def wait(self, name: str) -> dict[str, Any]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: name in self.results, timeout=120), self.results
            return self.results[name]


@contextlib.contextmanager
def served(queue: Queue) -> Iterator[str]:
    """Yield the URL of a queue."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if queue.refusals:
                queue.refusals -= 1
                self._answer(503, b"")
                return
            job = queue.next()
            self._answer(200 if job else 204, json.dumps(job).encode() if job else b"")

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            queue.done(self.path.rpartition("/")[2], json.loads(self.rfile.read(length)))
            self._answer(204, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def worker(folder: Path, env: Mapping[str, str]) -> Iterator[Run]:
    """Run handler.py in `folder`."""
    run = Run(
        program=(sys.executable, "handler.py"),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **env},
    )
    with run:
        yield run


def picture_of(result: Mapping[str, Any]) -> bytes:
    assert "image" in result, result
    return pixels_of(io.BytesIO(base64.b64decode(result["image"])))


def test_a_worker_takes_jobs_from_a_queue_and_ends_well(
    bucket: ObjectStore, studio: Studio, loras: tuple[str, str], server: Server, tmp_path: Path
) -> None:
    one, two = loras
    queue = Queue(refusals=2)
    page = serve(server, b"<html>no such file</html>", "/page.safetensors")
    wanted = {"plain": (), "first": ((one, 0.7),), "both": ((one, 0.7), (two, 0.4))}
    paths = {one: studio.first, two: studio.second}
    with served(queue) as url:
        env = environment(bucket, tmp_path) | {"QUEUE_URL": url, "CONCURRENCY": "3"}
        with worker(EXAMPLE, env) as run:
            for round_ in range(2):
                for name, asked in wanted.items():
                    queue.add(f"{name}-{round_}", *asked)
            queue.add("bad", (page, 1.0))
            queue.add("odd", steps="many")
            for round_ in range(2):
                for name, asked in wanted.items():
                    found = picture_of(queue.wait(f"{name}-{round_}"))
                    expected = studio.picture(*((paths[at], by) for at, by in asked))
                    assert found == expected, name
            assert "not a weights file" in queue.wait("bad")["error"]
            assert queue.wait("odd")["error"] == "the job failed: ValueError"
            # What it has taken is done before it ends.
            queue.add("last")
            while queue.jobs:
                threading.Event().wait(0.01)
            run.send(signal.SIGTERM)
            assert run.wait(60).code == 0
            assert picture_of(queue.wait("last")) == studio.picture()


# ------------------------------------------------------------------------------------ Dockerfile


class Image:
    """What the instructions of a Dockerfile make, in the folder `root` instead of a container.

    pip, useradd and chown are stand-ins, which write down in `root`/called what they got.
    """

    def __init__(self, root: Path, context: Path) -> None:
        self.root, self._context = root, context
        self.env: dict[str, str] = {}
        self.command: list[str] = []
        self.user = "0"
        self.volumes: list[str] = []
        self._workdir = "/"
        self._stand_ins = root / "stand-ins"
        self._stand_ins.mkdir(parents=True)
        for name in ("pip", "useradd", "chown"):
            script = self._stand_ins / name
            script.write_text(f'#!/bin/sh\necho {name} "$@" >> {root}/called\n')
            script.chmod(0o755)
        text = re.sub(r"\\\n\s*", " ", (context / "Dockerfile").read_text())
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word not in ("", "#", "FROM"):
                _INSTRUCTIONS[word](self, rest)

    def path(self, name: str) -> Path:
        return self.root / os.path.normpath(os.path.join(self._workdir, name)).lstrip("/")

    def _change_folder(self, rest: str) -> None:
        self._workdir = rest
        self.path(".").mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        *names, target = rest.split()
        for name in names:
            shutil.copy(self._context / name, self.path(target))

    def _env(self, rest: str) -> None:
        self.env |= dict(each.split("=", 1) for each in rest.split())

    def _user(self, rest: str) -> None:
        self.user = rest

    def _volume(self, rest: str) -> None:
        self.volumes.append(rest)

    def _cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _run(self, rest: str) -> None:
        inside = re.sub(r"(?<=\s)(?=/\w)", str(self.root), f" {rest}")
        path = {"PATH": f"{self._stand_ins}:/usr/bin:/bin"}
        subprocess.run(["bash", "-ec", inside], cwd=self.path("."), env=path, check=True)


_INSTRUCTIONS: Mapping[str, Callable[[Image, str], None]] = {
    "WORKDIR": Image._change_folder,
    "COPY": Image._copy,
    "ENV": Image._env,
    "USER": Image._user,
    "VOLUME": Image._volume,
    "CMD": Image._cmd,
    "RUN": Image._run,
}


def test_the_image_of_the_dockerfile_runs_as_another_user_and_writes_to_its_volume_alone(
    bucket: ObjectStore, studio: Studio, tmp_path: Path
) -> None:
    image = Image(tmp_path / "image", EXAMPLE)
    called = (image.root / "called").read_text()
    assert "useradd --uid 1000" in called
    assert "pip install --no-cache-dir -r requirements.txt" in called
    assert f"chown 1000:1000 {image.root}/weights" in called
    assert (image.user, image.volumes) == ("1000:1000", ["/weights"])
    assert (image.path("requirements.txt")).read_text().split() == ["pgetpy[pipelines]"]
    volume = image.path("/weights")
    queue = Queue()
    env = {name: text.replace("/weights", str(volume)) for name, text in image.env.items()}
    own = environment(bucket, tmp_path)
    env = {**own, **env, "HOME": "/nonexistent", "TMPDIR": str(tmp_path / "tmp")}
    del env["BOOT_REPORT"]
    (tmp_path / "tmp").mkdir()
    program = tuple(sys.executable if each == "python" else each for each in image.command)
    for path in (volume, tmp_path / "tmp"):
        path.chmod(0o777)
    image.path("/src").chmod(0o555)
    before = set((tmp_path / "image").rglob("*"))
    with served(queue) as url:
        env = {**env, "QUEUE_URL": url, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        env["PATH"] = os.environ["PATH"]
        cwd = image.path("/src")
        with Run(program=program, cwd=cwd, env=env, unprivileged=True) as run:
            queue.add("one")
            assert picture_of(queue.wait("one")) == studio.picture()
            run.send(signal.SIGTERM)
            assert run.wait(60).code == 0
    made = set((tmp_path / "image").rglob("*")) - before
    assert made
    assert all(path.is_relative_to(volume) for path in made)


def test_a_second_container_on_the_same_volume_fetches_no_weights(
    bucket: ObjectStore, studio: Studio, tmp_path: Path
) -> None:
    for number in range(2):
        queue = Queue()
        asked = len(bucket.requests)
        with served(queue) as url:
            env = environment(bucket, tmp_path) | {"QUEUE_URL": url}
            with worker(EXAMPLE, env) as run:
                queue.add("one")
                assert picture_of(queue.wait("one")) == studio.picture()
                run.send(signal.SIGTERM)
                assert run.wait(60).code == 0
        got = [each.path for each in bucket.requests[asked:] if each.method == "GET"]
        weights_asked = [path for path in got if path.endswith(".safetensors")]
        assert bool(weights_asked) is (number == 0)
