"""The trip from the command line to the first byte sent: how many files and calls it goes through.

It is what somebody reads who wants to know what `pgetpy URL DEST` does.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bodies import body
from tests.support.children import after
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server

# A ratchet: what shortens the trip lowers them.
MOST_FILES = 30
MOST_CALLS = 230
# Notes each frame of the package once, in order: a coroutine that goes on is the same frame. What
# an import runs is no part of the trip, nor what the watchdog does every 25 ms on a slow machine.
# Nor is what sets the fields of an object: a reader sees a class and its fields.
_TRACER = """
import atexit, json, os, socket, sys, threading
import pgetpy
root = os.path.dirname(pgetpy.__file__) + os.sep
fields = os.path.join(root, "core", "lazy_dataclass.py")
frames, sent = {}, threading.Event()

def note(frame, event, arg):
    if sent.is_set():
        return
    if event == "c_call":
        to = getattr(arg, "__self__", None)
        if isinstance(to, socket.socket) and to.family != socket.AF_UNIX:
            if arg.__name__.startswith("send"):
                sent.set()
        return
    path = frame.f_code.co_filename
    if event == "call" and path.startswith(root) and path != fields and frame not in frames:
        depth, above = 0, frame
        while above is not None:
            ours = above.f_code.co_filename.startswith(root)
            if ours and above.f_code.co_name in ("<module>", "_tick"):
                return
            depth += ours
            above = above.f_back
        name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
        thread = threading.current_thread().name
        frames[frame] = (thread, depth, path[len(root):], name)

def tell():
    with open(os.environ["TRIP"], "w") as file:
        json.dump(list(frames.values()), file)

atexit.register(tell)
threading.setprofile(note)
sys.setprofile(note)
"""


@dataclass(frozen=True)
class Step:
    """A call of a function of the package."""

    thread: str
    depth: int
    file: str
    name: str


def spine(steps: list[Step]) -> str:
    """The tree of calls; what is called several times in a row stands once, with its count."""
    lines: list[str] = []
    count = 1
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step == following:
            count += 1
            continue
        times = f"  x{count}" if count > 1 else ""
        lines.append(f"{step.thread:14} {'  ' * step.depth}{step.file}: {step.name}{times}")
        count = 1
    files = Counter(step.file for step in steps)
    table = [f"{count:5} {file}" for file, count in files.most_common()]
    head = f"{len(files)} files, {len(steps)} calls from cli.main to the first byte sent"
    return "\n".join([head, *lines, *table])


@pytest.fixture
def steps(server: Server, tmp_path: Path) -> list[Step]:
    url = server.add("/x", Resource(body(1000)))
    told = tmp_path / "told"
    ended = run(url, tmp_path / "x", program=after(_TRACER), env={"TRIP": str(told)})
    assert ended.code == 0, ended.err
    return [Step(*each) for each in json.loads(told.read_text())]


def test_the_trip_of_a_plain_download_is_short(steps: list[Step]) -> None:
    assert steps[0].name == "main"
    files = {step.file for step in steps}
    if len(files) > MOST_FILES or len(steps) > MOST_CALLS:
        pytest.fail(spine(steps))


def test_a_url_is_read_once(steps: list[Step]) -> None:
    readers = ("table.parse_reference", "plain.recognise", "urls.parse_link")
    counts = Counter(f"{Path(step.file).stem}.{step.name.rpartition('.')[2]}" for step in steps)
    assert {name: counts[name] for name in readers} == dict.fromkeys(readers, 1)
