"""Entries made for the tests, and what must be true of any cache that nobody uses."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgetpy.cache.contents import Entry
from pgetpy.cache.store import Store
from pgetpy.core.cache.records import About
from tests.support.fork_server import Circumstances, ForkedRun, fork_server
from tests.support.processes import environment, forks_for

NAME = "weights.safetensors"
Child = subprocess.Popen[str] | ForkedRun


def key_of(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def content_of(name: object, size: int = 1000) -> bytes:
    return hashlib.shake_256(str(name).encode()).digest(size)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(
    store: Store, name: object, data: bytes | None = None, *, size: int = 1000, digest: str = ""
) -> Entry:
    """Fill the entry called `name`; its content tells it from any other unless `data` is given."""
    data = content_of(name, size) if data is None else data
    fill = store.try_fill(key_of(name))
    assert fill is not None
    with fill:
        fill.reserve(len(data))
        source = fill.folder / NAME
        source.write_bytes(data)
        return fill.publish(source, About(f"https://host/{name}"), digest=digest)


def names_of(store: Store) -> set[str]:
    """The names of the entries that are there, as `put` was given them."""
    return {listing.record.about.reference.rpartition("/")[2] for listing in store.entries()}


def left_over(root: Path) -> list[str]:
    """What only stands in a cache while somebody is at work, and what no record names."""
    working = ("evicting", "fills", "holders", "partial", "tmp", "uses")
    found = [f"{kind}/{name}" for kind in working for name in os.listdir(root / kind)]
    records = [entry.record for entry in Store(root).entries()]
    named = {f"{record.key}.{record.generation}.{record.name}" for record in records}
    for shard in (root / "entries").iterdir():
        found += [
            path.name for path in shard.iterdir() if "." in path.name and path.name not in named
        ]
    return found


def disk_size(root: Path) -> int:
    """The bytes of all content, each inode's once."""
    sizes = {}
    for path in root.glob("entries/*/*.*"):
        status = path.stat()
        sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


@contextmanager
def child(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> Iterator[Child]:
    """Another process, which runs `code` with `sys.argv[1:]` and is gone in the end.

    It is forked where runs of the command line are, unless `prefix` is to start it.
    """
    given = [str(argument) for argument in arguments]
    env = environment({"PYTHONPATH": _path()})
    running: Child
    if forks_for(None) and not prefix:
        server = fork_server(for_tests=True)
        running = server.start_with_pipes(
            Circumstances(given, env, str(Path.cwd()), _PRELUDE + code)
        )
    else:
        running = subprocess.Popen(
            [*prefix, sys.executable, "-c", _PRELUDE + code, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        for stream in (running.stdin, running.stdout):
            if stream is not None:
                stream.close()


def said(running: Child) -> str:
    """The next line of a child; empty when it has ended."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def tell(running: Child, line: str = "") -> None:
    """Give a child the line that it waits for."""
    assert running.stdin is not None
    running.stdin.write(f"{line}\n")
    running.stdin.flush()


def _path() -> str:
    home = environment()["PYTHONPATH"]
    return os.pathsep.join([home, str(Path(__file__).parent.parent.parent)])


_PRELUDE = """
import os, sys, time
from pathlib import Path
from pgetpy.cache.store import Store
from tests.support.entries import *
def say(*words):
    # In one piece, whatever other threads say meanwhile and whenever it is killed.
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())
"""
