"""How runs are timed: one process at a time, rounds alternating, every result verified."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launcher.py")
# A run this long is timed three times in all, the trial among them: what the trial has to warm up
# is a hundredth of it, and it varies little.
_LONG_SECONDS = 4.0
# Memory that was used this long ago is still there.
_WARM_SECONDS = 10.0
# What a user's environment could change about a peer, so that every machine measures the same.
_STRIPPED = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    # Whoever installs a package has its modules compiled.
    "pythondontwritebytecode",
)


@dataclass(frozen=True)
class Command:
    """A program to time: its arguments and what is added to the environment."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One timed run: wall and CPU in seconds, peak resident memory in bytes."""

    wall: float
    cpu: float
    rss: int


@dataclass(frozen=True)
class Outcome:
    """A run and how it ended; `error` is empty for success."""

    sample: Sample
    error: str
    stdout: str


class RunFailedError(Exception):
    """A program failed, or left something else than what it was asked for."""


class CutShortError(KeyboardInterrupt):
    """A case was interrupted; `series` is what was measured of it."""

    def __init__(self, series: list[Series]) -> None:
        super().__init__()
        self.series = series


def run(command: Command, scratch: Path, limit: float) -> Outcome:
    """Run `command` to its end, or to its death after `limit` seconds."""
    stdout, stderr = scratch / "stdout", scratch / "stderr"
    launched = subprocess.run(
        [sys.executable, "-I", "-S", _LAUNCHER, str(limit), stdout, stderr, *command.argv],
        env={**_environment(), **command.env},
        capture_output=True,
        text=True,
        check=False,
    )
    if launched.returncode != 0:
        raise RunFailedError(launched.stderr.strip().splitlines()[-1])
    code, wall, cpu, kibibytes = launched.stdout.split()
    sample = Sample(float(wall), float(cpu), int(kibibytes) * 1024)
    error = "" if code == "0" else _complaint(int(code), sample.wall, limit, stderr)
    return Outcome(sample, error, stdout.read_text(errors="replace"))


def warm_memory(size: int) -> None:
    """Have `size` bytes of memory used and freed just now, by a process that is gone again.

    Under a hypervisor that takes free memory back, the first to use it again pays for it several
    times over; which program that is would be chance. Runs of one case leave it to each other, in
    an order that differs in each round, so that once in a while is enough.
    """
    if size <= _warmed["size"] and time.monotonic() - _warmed["at"] < _WARM_SECONDS:
        return
    touch = (
        "import mmap, sys\n"
        "flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, 'MAP_POPULATE', 0)\n"
        "mmap.mmap(-1, int(sys.argv[1]), flags=flags)\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", touch, str(size)], check=True)
    _warmed.update(size=size, at=time.monotonic())


# How much memory was warm, and when.
_warmed = {"size": 0.0, "at": 0.0}


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in _STRIPPED and not name.startswith("PGET_")
    }


def _complaint(code: int, wall: float, limit: float, stderr: Path) -> str:
    if wall >= limit:
        return f"not done after {limit:.0f} s"
    said = stderr.read_text(errors="replace").strip().splitlines()
    return f"exit {code}: {said[-1][:200]}" if said else f"exit {code}"


@contextlib.contextmanager
def scratch_folder(parent: Path, *, keep: bool = False) -> Iterator[Path]:
    """An empty folder under `parent`; afterwards it is gone and nothing waits to be written back.

    Without the sync the write-back of one run would fall into the next one's time. `keep` leaves
    the folder: ext4 is slow to make files for some seconds after many have been deleted.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    os.sync()
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)
        os.sync()


@dataclass
class Series:
    """All runs of one entrant in one case. An entrant with an `error` has no timings."""

    name: str
    version: str = ""
    samples: list[Sample] = field(default_factory=list)
    error: str = ""
    note: str = ""
    is_long: bool = False
    trial: Sample | None = None

    def values(self, quantity: str) -> list[float]:
        """Return the samples of `wall`, `cpu` or `rss`."""
        return [getattr(sample, quantity) for sample in self.samples]

    def median(self, quantity: str) -> float:
        return statistics.median(self.values(quantity))


Attempt = Callable[[bool], tuple[Sample, str]]


def alternate(
    attempts: Mapping[str, tuple[str, Attempt]],
    rounds: range,
    deadline: float,
    say: Callable[[str], None],
) -> list[Series]:
    """Run all attempts in turn, after one trial round.

    The trial is timed for programs that take long alone; these take part in two more rounds.

    Their order is another one in each round: what one leaves to the disk or its file system falls
    to whoever comes next.

    An attempt is called with whether to verify every byte (the trial round) or sizes alone; one
    that fails, in whichever round, loses its timings and takes no further part.

    Args:
        attempts: version and what to call, by name.
        rounds: from the fewest to the most.
        deadline: after this time of the monotonic clock no more than the fewest are done.
        say: is told how each run went.

    Raises:
        CutShortError: it was interrupted.
    """
    field_of = {name: Series(name, version) for name, (version, _) in attempts.items()}
    try:
        for number in range(rounds.stop):
            _round(number, field_of, attempts, rounds, deadline, say)
    except KeyboardInterrupt:
        for series in field_of.values():
            _make_do(series)
        raise CutShortError(list(field_of.values())) from None
    return list(field_of.values())


def _make_do(series: Series) -> None:
    """Let the trial count for a program that was not timed before the interruption."""
    if series.samples or series.error:
        return
    if series.trial is None:
        series.error = "interrupted before it had run"
    else:
        series.samples.append(series.trial)
        series.note = "the trial, as it was interrupted then"


def _round(
    number: int,
    field_of: Mapping[str, Series],
    attempts: Mapping[str, tuple[str, Attempt]],
    rounds: range,
    deadline: float,
    say: Callable[[str], None],
) -> None:
    order = list(field_of.items())
    random.Random(number).shuffle(order)
    for name, series in order:
        wanted = rounds.start if time.monotonic() > deadline else rounds.stop - 1
        if series.error or len(series.samples) >= wanted or not _is_due(series, number, rounds):
            continue
        try:
            sample, series.note = attempts[name][1](number == 0)
        # Whatever goes wrong in one program's run must not cost the figures of the others.
        except Exception as failure:
            known = isinstance(failure, RunFailedError)
            series.error = str(failure) if known else f"{type(failure).__name__}: {failure}"
            series.samples.clear()
            say(f"    {name}: {series.error}")
            continue
        if not number:
            series.trial = sample
            series.is_long = sample.wall >= _LONG_SECONDS
        if number or series.is_long:
            series.samples.append(sample)
            say(f"    {number} {name}: {sample.wall:.3g} s")


def _is_due(series: Series, number: int, rounds: range) -> bool:
    """Whether a program takes part in round `number`; in few where its runs take long."""
    return not series.is_long or number in {0, 1, rounds.stop // 2}
