"""`latest` moves while it is read, and several processes build and prune at once."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgetpy.errors import GenerationTakenError
from pgetpy.generations import use
from tests.support.entries import child, said, tell
from tests.support.generations import Node
from tests.support.weights import weights

pytestmark = pytest.mark.usefixtures("forked_runs")

OPENS = 10_000
CHANGES = 20
_OPENER = """
root, count, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
say("ready")
input()
path, failed, opens, changes, before = str(root / "latest" / "files" / "weights"), 0, 0, 0, b""
# Both processes have to get their turns, or the one sees nothing of what the other does.
while opens < count or changes < most:
    opens += 1
    try:
        with open(path, "rb") as file:
            found = file.read()
    except OSError:
        failed += 1
        continue
    changes += found != before
    before = found
say(failed)
"""
_BUILDER = """
from pgetpy.generations import Generations
from tests.support.weights import opened
root, lock = sys.argv[1:]
with opened(root + "/cache") as cache:
    say("ready")
    input()
    try:
        say(Generations(root, cache, fsync=False).build(lock).digest)
    except Exception as error:
        say(type(error).__name__)
"""
_READER = """
from pgetpy.generations import use
root, count, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
say("ready")
input()
failed, uses, seen = 0, 0, set()
while uses < count or len(seen) < most:
    uses += 1
    with use(root, {}) as files:
        seen.add(str(files))
        for _ in range(20):
            try:
                (files / "weights").read_bytes()
            except OSError:
                failed += 1
say(failed)
"""


def test_no_open_fails_while_latest_moves(node: Node) -> None:
    for number in (6, 7):
        node.generations.build(node.lock(number, {"weights": weights(1000, number)}))
    with child(_OPENER, node.root, OPENS, CHANGES) as opener:
        assert said(opener) == "ready"
        tell(opener)
        ended = threading.Event()
        found: list[str] = []

        def wait() -> None:
            found.append(said(opener))
            ended.set()

        threading.Thread(target=wait).start()
        swaps = 0
        while not ended.is_set():
            swaps += 1
            node.generations.point_latest(6 + swaps % 2)
    assert found == ["0"]


def test_no_reader_loses_a_file_while_generations_come_and_go(node: Node) -> None:
    shared = weights(1000, "shared")
    node.generations.build(node.lock(1, {"weights": shared}))
    with child(_READER, node.root, 100, CHANGES // 2) as reader:
        assert said(reader) == "ready"
        tell(reader)
        ended = threading.Event()
        found: list[str] = []

        def wait() -> None:
            found.append(said(reader))
            ended.set()

        threading.Thread(target=wait).start()
        number = 1
        while not ended.is_set():
            number += 1
            node.generations.build(node.lock(number, {"weights": shared}))
            node.generations.prune(keep=1)
    assert found == ["0"]
    node.generations.prune(keep=1)
    assert [each.number for each in node.generations.listed()] == [number]
    assert node.pinned() == 1


def race(node: Node, locks: list[Path]) -> list[str]:
    """Build locks in processes that begin together; return what they say."""
    with ExitStack() as stack:
        builders = [stack.enter_context(child(_BUILDER, node.root, lock)) for lock in locks]
        for builder in builders:
            assert said(builder) == "ready"
        for builder in builders:
            tell(builder)
        return [said(builder) for builder in builders]


def test_builders_of_one_lock_publish_it_once(node: Node, tmp_path: Path) -> None:
    files = {str(number): weights(1000, number) for number in range(20)}
    lock = node.lock(6, files)
    path = tmp_path / "6.lock"
    path.write_text(lock.text)
    assert race(node, [path] * 3) == [lock.digest] * 3
    assert node.files(6) == files
    assert node.pinned() == len(files)
    assert node.left_over() == []
    assert len(node.server.requests) == len(files), "the builders share what they fetch"


def test_of_two_locks_with_one_number_one_is_published(node: Node, tmp_path: Path) -> None:
    locks = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.lock"
        path.write_text(node.lock(6, {name: weights(1000, name)}).text)
        locks.append(path)
    said_by = race(node, locks)
    assert sorted(each == GenerationTakenError.__name__ for each in said_by) == [False, True], (
        said_by
    )
    node.generations.prune(keep=1)
    assert len(list((node.root / "trees").iterdir())) == 1
    assert node.pinned() == 1
    with use(node.root, {}) as files:
        (path,) = files.iterdir()
        assert path.read_bytes() == weights(1000, path.name)
