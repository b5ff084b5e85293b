"""The long runs: random kills and random faults, until the time is up.

Whatever happens, what stands under a finished name is right, nothing hangs, and nothing is left
over that the next run does not use or sweep.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pgetpy

from .fetching import impatient
from .support.bodies import body
from .support.faults import (
    Close,
    ExtraBytes,
    Fault,
    FinAfter,
    Garbage,
    IgnoreRange,
    OtherRange,
    Pace,
    ResetAfter,
    ShorterRange,
    SilenceAfter,
    SilenceBeforeHead,
    Status,
    When,
)
from .support.processes import Run
from .support.resources import Resource
from .support.server import Server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(400)]

MIB = 1 << 20
SECONDS = 60.0
# Given a place in the body, a fault that happens now and then.
FAULTS: tuple[Callable[[int, When], Fault], ...] = (
    lambda _, when: Close(when=when),
    lambda _, when: ExtraBytes(when=when),
    lambda _, when: Garbage(when=when),
    lambda _, when: IgnoreRange(when=when),
    lambda _, when: OtherRange(when=when),
    lambda at, when: ShorterRange(at, when=when),
    lambda _, when: SilenceBeforeHead(when=when),
    lambda _, when: Status(503, when=when),
    lambda at, when: FinAfter(at, when=when),
    lambda at, when: ResetAfter(at, when=when),
    lambda at, when: SilenceAfter(at, when=when),
)


def rounds(seed: int) -> Iterator[random.Random]:
    """Yield randomness until the time is up; the seed of a failing round is in its name."""
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield random.Random(f"{seed}.{number}")
        number += 1
    print(f"{number} rounds")


def test_random_faults_end_in_the_right_bytes_or_an_error(server: Server, tmp_path: Path) -> None:
    ended = failed = 0
    for chance in rounds(1):
        size = chance.choice([0, 1, 70_000, MIB, MIB + 1, 3 * MIB, 9 * MIB])
        data = body(size, str(chance.random()))
        faults = [
            chance.choice(FAULTS)(
                chance.randrange(1, size + 2),
                When(request=chance.randrange(1, 12), times=chance.randrange(1, 3)),
            )
            for _ in range(chance.randrange(4))
        ]
        etag = chance.choice(['"strong"', 'W/"weak"', None])
        url = server.add("/soak", Resource(data, etag=etag, faults=faults))
        dest = tmp_path / "soak"
        settings = impatient(stall_timeout=1.0, retries=6, force=True, chunk_size=2 * MIB)
        try:
            result = pgetpy.download(url, dest, settings=settings)
        except pgetpy.PgetError:
            failed += 1
            assert not dest.exists(), faults
        else:
            ended += 1
            assert dest.read_bytes() == data, faults
            assert result.size == size
            dest.unlink()
        for left in tmp_path.iterdir():
            assert left.name.endswith(("pgetpy-part", "pgetpy-journal")), (left, faults)
            left.unlink()
    print(f"{ended} ended well, {failed} with an error")
    assert ended > failed


def test_a_run_that_is_killed_again_and_again_ends_right(server: Server, tmp_path: Path) -> None:
    kills = 0
    for chance in rounds(2):
        data = body(24 * MIB, str(chance.random()))
        url = server.add("/killed", Resource(data, etag='"v1"', faults=[Pace(24 * MIB)]))
        dest = tmp_path / "killed"
        while not dest.exists():
            with Run(url, dest, "--progress", "none") as run:
                deadline = time.monotonic() + chance.uniform(0.2, 1.6)
                while run.process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                if run.process.poll() is None:
                    run.kill()
                    kills += 1
        assert dest.read_bytes() == data
        dest.unlink()
        with Run(url, dest, "--progress", "none") as run:
            assert run.wait(60).code == 0, run.err
        assert [path.name for path in tmp_path.iterdir()] == ["killed"]
        dest.unlink()
    print(f"{kills} kills")
    assert kills


def test_processes_on_shared_destinations_survive_each_other(
    server: Server, tmp_path: Path
) -> None:
    kills = 0
    for chance in rounds(3):
        data = body(8 * MIB, str(chance.random()))
        url = server.add("/shared", Resource(data, etag='"v1"', faults=[Pace(16 * MIB)]))
        dests = [tmp_path / "one", tmp_path / "two"]
        runs = [Run(url, dests[n % 2], "-f", "--progress", "none") for n in range(8)]
        doomed = chance.sample(runs, 4)
        for run in doomed:
            time.sleep(chance.uniform(0.05, 0.4))
            if run.process.poll() is None:
                run.kill()
                kills += 1
        for run in runs:
            if run not in doomed:
                assert run.wait(90).code == 0, run.err
        for n, dest in enumerate(dests):
            with Run(url, dest, "-f", "--progress", "none") as last:
                assert last.wait(60).code == 0, last.err
            assert dest.read_bytes() == data, n
            dest.unlink()
        for run in runs:
            run.__exit__(None, None, None)
        assert not list(tmp_path.iterdir())
    print(f"{kills} kills")
    assert kills
