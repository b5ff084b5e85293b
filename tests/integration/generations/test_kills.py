"""kill -9 at every step of building, pruning and following: the next run sorts out what is left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.entries import child, said, tell
from tests.support.generations import Node
from tests.support.weights import weights

pytestmark = pytest.mark.usefixtures("forked_runs")

# A child kills a copy of itself at its n-th act that an audit hook sees, n counted up until the
# work is done. What a copy needs is imported before, as imports are acts as well.
_DRIVER = """
from tests.support.killing import die_at, run_copies
from pgetpy.generations import DaemonRules, GenerationDaemon, Generations, hold
from tests.support.weights import opened
root, locks, what, stride = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def build(generations):
    generations.build(locks / "7.lock")
def rebuild(generations):
    os.utime(root / "ids" / "6" / "files" / "one")
    generations.build(locks / "6.lock")
def prune(generations):
    generations.prune(keep=1)
def verify(generations):
    generations.verify(6)
def follow(generations):
    GenerationDaemon(generations, locks, DaemonRules(keep=1)).look()
def read(generations):
    hold(root, {"PGET_GENERATION": "6"})

def work(number):
    cache = opened(root / "cache")
    die_at(number)
    globals()[what](Generations(root, cache, fsync=False))

run_copies(work, stride, first=stride - 1)
"""
FILES = {
    6: {"one": weights(1000, "one"), "shared": weights(1000, "shared")},
    7: {"folder/two": weights(1000, "two"), "shared": weights(1000, "shared")},
}
# What each work has before it, and what is there once it has been done.
WORKS = {
    "build": ([6], {6, 7}),
    "rebuild": ([6], {6}),
    "prune": ([6, 7], {7}),
    "verify": ([6], {6}),
    "follow": ([6], {7}),
    "read": ([6], {6}),
}


def check(node: Node, after: set[int]) -> None:
    """What has a number is whole, or is gone; the next run leaves nothing else."""
    for number in (int(path.name) for path in (node.root / "ids").iterdir()):
        (state,) = node.generations.ready(number, number).states
        assert state.whole or "is not there" in state.why or "was written to" in state.why, state
        if state.whole:
            assert node.files(number) == FILES[number]
    latest = node.root / "latest"
    assert latest.is_symlink()
    for path in (node.root / "staging").iterdir():
        # What is not locked yet, or waits to be renamed, is left alone for an hour.
        os.utime(path, (0, 0), follow_symlinks=False)
    for number in sorted(after):
        node.generations.build(node.lock(number, FILES[number]))
    node.generations.prune(keep=len(after))
    assert node.generations.ready(min(after), max(after)).ready
    assert {each.number for each in node.generations.listed()} == after
    assert node.left_over() == []
    assert node.pinned() == 2 * len(after)
    assert (latest / "files" / "shared").read_bytes() == FILES[6]["shared"]


def kill_at_each_step(node: Node, work: str, locks: Path, *, stride: int) -> int:
    """Kill `work` at every `stride`th step and look what is left; return how often."""
    before, after = WORKS[work]
    locks.mkdir()
    for number, files in FILES.items():
        (locks / f"{number}.lock").write_text(node.lock(number, files).text)
        for data in files.values():
            node.cache.ensure(node.url(data))
    node.cache.settle()
    kills = 0
    with child(_DRIVER, node.root, locks, work, stride) as driver:
        while True:
            for number in before:
                node.generations.build(node.lock(number, FILES[number]))
            if 7 not in before:
                remove(node, 7)
            tell(driver)
            status = json.loads(said(driver))
            assert status in (0, signal.SIGKILL)
            check(node, after)
            if status == 0:
                return kills
            kills += 1


def remove(node: Node, number: int) -> None:
    """Take a generation away, the latest one included."""
    node.generations.point_latest(number - 1)
    node.generations.prune(keep=0)
    with_it = [each.number for each in node.generations.listed()]
    assert number not in with_it


@pytest.mark.parametrize("work", WORKS)
def test_a_kill_at_some_steps_leaves_what_the_next_run_sorts_out(
    node: Node, tmp_path: Path, work: str
) -> None:
    # A reader does little before it has its lock.
    stride = 1 if work == "read" else 5
    assert kill_at_each_step(node, work, tmp_path / "locks", stride=stride) > 0


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("work", WORKS)
def test_a_kill_at_any_step_leaves_what_the_next_run_sorts_out(
    node: Node, tmp_path: Path, work: str
) -> None:
    assert kill_at_each_step(node, work, tmp_path / "locks", stride=1) > 0
