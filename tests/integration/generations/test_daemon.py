"""The daemon: builds what is new, prunes what is old, answers probes; killed, or one of two."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgetpy.generations import DaemonRules, GenerationDaemon, use
from tests.support.generations import Node
from tests.support.processes import Run
from tests.support.resources import Resource
from tests.support.waiting import eventually
from tests.support.weights import weights

pytestmark = pytest.mark.usefixtures("forked_runs")

FILES = [weights(1000, number) for number in range(6)]


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    folder = tmp_path / "locks"
    folder.mkdir()
    return folder


def add(node: Node, locks: Path, *numbers: int) -> None:
    for number in numbers:
        lock = node.lock(number, {"weights": FILES[number]})
        (locks / f"{number}.lock").write_text(lock.file_text)


def daemon(node: Node, locks: Path, **rules: int) -> GenerationDaemon:
    return GenerationDaemon(node.generations, locks, DaemonRules(**rules))


def numbers(node: Node) -> list[int]:
    return [each.number for each in reversed(node.generations.listed())]


def test_what_is_new_is_built_and_what_is_built_is_left(node: Node, locks: Path) -> None:
    follower = daemon(node, locks)
    follower.look()
    assert not follower.ready().ready
    add(node, locks, 1, 2)
    follower.look()
    assert numbers(node) == [1, 2]
    add(node, locks, 3)
    follower.look()
    assert numbers(node) == [1, 2, 3]
    assert follower.status.built == 3
    assert follower.ready().ready


@pytest.mark.parametrize("rules", [{"minimum": 1}, {"maximum": 9}, {"keep": 3}])
def test_it_is_ready_once_all_that_its_rules_want_of_the_locks_is_whole(
    node: Node, locks: Path, rules: dict[str, int]
) -> None:
    add(node, locks, 1, 2)
    node.server.add("/1.bin", Resource(b"something else"))
    follower = daemon(node, locks, **rules)
    follower.look()
    assert follower.ready().why == "generation 2 is not there"
    node.server.add("/1.bin", Resource(FILES[2]))
    again = daemon(node, locks, **rules)
    again.look()
    assert again.ready().ready


def test_a_folder_of_locks_that_goes_away_is_told(node: Node, locks: Path) -> None:
    follower = daemon(node, locks)
    locks.rmdir()
    follower.look()
    assert "no such file or directory" in follower.status.failures[str(locks)]
    assert "Errno" not in str(follower.status.failures)


def test_what_would_be_pruned_is_not_built(node: Node, locks: Path) -> None:
    add(node, locks, 1, 2, 3)
    follower = daemon(node, locks, keep=2)
    follower.look()
    assert numbers(node) == [2, 3]
    add(node, locks, 4)
    follower.look()
    assert numbers(node) == [3, 4]
    follower.look()
    assert follower.status.built == 3
    assert follower.status.pruned == 1


def test_what_is_read_is_pruned_later(node: Node, locks: Path) -> None:
    add(node, locks, 1)
    follower = daemon(node, locks, keep=1)
    follower.look()
    with use(node.root, {}):
        add(node, locks, 2)
        follower.look()
        assert follower.status.in_use == (1,)
    follower.look()
    assert numbers(node) == [2]
    assert follower.status.in_use == ()


def test_a_lower_maximum_takes_latest_back(node: Node, locks: Path) -> None:
    add(node, locks, 1, 2, 3)
    daemon(node, locks).look()
    back = daemon(node, locks, maximum=2, keep=2)
    back.look()
    assert (node.root / "latest" / "files" / "weights").read_bytes() == FILES[2]
    assert numbers(node) == [1, 2, 3]
    assert back.ready().states[-1].number == 2


def test_a_reader_that_keeps_others_out_delays_only_its_generation(
    node: Node, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgetpy.generations.readers._WAIT_SECONDS", 0.05)
    add(node, locks, 1)
    follower = daemon(node, locks)
    follower.look()
    in_use = node.root / "ids" / "1" / ".in-use"
    with in_use.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (node.root / "ids" / "1").unlink()  # as if its builder had been killed before
        add(node, locks, 2)
        follower.look()
        assert numbers(node) == [2]
        (failure,) = follower.status.failures.values()
        assert "generation 1 in" in failure
        assert "is kept from other readers" in failure


def test_a_bad_lock_does_not_keep_others_from_being_built(node: Node, locks: Path) -> None:
    add(node, locks, 2)
    (locks / "1.lock").write_text("generation 1\nhttps://example.com/x x\n")
    lock = node.lock(2, {"weights": FILES[5]})
    (locks / "9.lock").write_text(lock.text)
    follower = daemon(node, locks)
    follower.look()
    assert numbers(node) == [2]
    failures = follower.status.failures
    assert "it has no sha256" in failures[str(locks / "1.lock")]
    assert "has other content already" in failures[str(locks / "9.lock")]


def test_what_is_not_a_file_does_not_block(node: Node, locks: Path) -> None:
    os.mkfifo(locks / "1.lock")
    (locks / "2.lock").mkdir()
    add(node, locks, 3)
    follower = daemon(node, locks)
    follower.look()
    assert numbers(node) == [3]
    assert all("it is not a file" in each for each in follower.status.failures.values())
    assert len(follower.status.failures) == 2


def test_a_failure_is_tried_again_after_a_pause_or_a_change(node: Node, locks: Path) -> None:
    now = [1000.0]
    follower = GenerationDaemon(node.generations, locks, DaemonRules(), clock=lambda: now[0])
    add(node, locks, 1)
    node.server.add("/0.bin", Resource(b"something else"))
    follower.look()
    follower.look()
    assert follower.status.failed == 1
    assert "DigestMismatch" not in str(follower.status.failures)
    assert follower.status.failures
    now[0] += 6
    follower.look()
    assert follower.status.failed == 2
    node.server.add("/0.bin", Resource(FILES[1]))
    now[0] += 11
    follower.look()
    assert numbers(node) == [1]
    assert follower.status.failures == {}


# --------------------------------------------------------------------------------- as a process


@contextmanager
def running(node: Node, locks: Path, *flags: str) -> Iterator[tuple[Run, str]]:
    """A daemon process, and where it answers."""
    command = ["generation", "daemon", "--root", str(node.root), "--bind", "0", *flags]
    env = {"PGET_MIN_DISK_FREE": "0"}
    with Run(*command, "--interval", "0.05s", str(locks), env=env) as process:
        pattern = re.compile(r"answering (http://127\.0\.0\.1:\d+)/ready")
        found = eventually(lambda: pattern.search(process.err), what="an answering daemon")
        yield process, found[1]


def ask(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_daemon_answers_probes_and_ends_when_it_is_told(node: Node, locks: Path) -> None:
    with running(node, locks) as (process, url):
        status, said = ask(f"{url}/ready")
        assert (status, said["ready"]) == (503, False)
        add(node, locks, 1, 2)
        eventually(lambda: ask(f"{url}/ready?min=1&max=2")[0] == 200, what="readiness")
        status, said = ask(f"{url}/ready?min=1&max=3")
        assert (status, said["why"]) == (503, "generation 3 is not there")
        assert ask(f"{url}/ready?min=2&max=1")[0] == 400
        assert ask(f"{url}/ready?min=x")[0] == 400
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            figures = answer.read().decode()
        assert "\npgetpy_generations_latest 2\n" in figures
        assert "\npgetpy_generations_built_total 2\n" in figures
        process.process.send_signal(signal.SIGTERM)
        assert process.wait().code == 0


def test_two_daemons_do_no_harm(node: Node, locks: Path) -> None:
    add(node, locks, 1, 2, 3, 4, 5)
    with ExitStack() as stack:
        urls = [stack.enter_context(running(node, locks, "--keep", "3"))[1] for _ in range(2)]
        for url in urls:
            eventually(lambda url=url: ask(f"{url}/ready?min=3&max=5")[0] == 200)
    assert numbers(node) == [3, 4, 5]
    assert all(node.generations.verify(number).sound for number in (3, 4, 5))
    node.generations.prune(keep=3)
    assert node.pinned() == 3
    assert node.left_over() == []
