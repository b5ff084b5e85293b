"""The steps of scripts/gpu.sh, one after the other within ten minutes in all, and their page.

What fails or takes too long is said in the page, and the steps after it still run. A step that has
to end is interrupted as by Ctrl-C, so that it can say what it has found so far.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import gpu_page
from scripts.gpu_page import Ended

# How long an interrupted step may take to print what it has.
_GRACE_S = 15.0
_SHOWN = 3
_TESTS = ("cuda", "tensors", "staging", "lora")
# They take most of the time, and are about the CPU.
_LEFT_OUT = "not fifty_swaps and not any_sizes_and_orders"


@dataclass(frozen=True)
class Step:
    """Something to run.

    Attributes:
        name: that of the file its output goes to.
        title: its heading in the page.
        end: seconds after the start of all by which it has to be done; what a step before it has
            not used is its own.
        command: its arguments, of the seconds that it has.
    """

    name: str
    title: str
    end: float
    command: Callable[[float], list[str]]


def steps(scale: float) -> tuple[Step, ...]:
    """Return all steps, those first whose figures are needed most."""

    def bench(case: str) -> Callable[[float], list[str]]:
        # Half of the time for more rounds than one leaves the other half for one that began late.
        return lambda seconds: _module(
            "scripts.bench", "--offline", f"--scale={scale}", f"--minutes={seconds / 120:.2f}",
            f"--rounds={3 if scale == 1 else 1}", "--fewest=1", case,
        )  # fmt: skip

    return (
        Step("tests", "Tests of tensors and LoRAs", 130, lambda _: _module(
            "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "predictors",
            # Of another torch's own warnings none is a failure.
            "-W", "default", "-k", _LEFT_OUT,
            *(f"tests/predictors/test_{name}.py" for name in _TESTS),
        )),
        Step("gpu", "URL to tensors", 260, bench("gpu")),
        Step("gpu-lora", "LoRAs", 370, bench("gpu-lora")),
        Step("network", "Downloads over loopback, by cores", 460, lambda seconds: _module(
            "scripts.gpu_network", f"--scale={scale}", f"--seconds={seconds * 0.8:.0f}"
        )),
        Step("gpu-small", "URL to small tensors", 510, bench("gpu-small")),
        Step("compile", "A small model compiled, and loaded by another user", 560,
             lambda _: _module("scripts.gpu_compile")),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run all steps and write the page; return 1 if any is not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="where output goes")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes times this")
    parser.add_argument("--spent", type=float, default=0.0, help="seconds that are over")
    parser.add_argument("--device", default="", help="what torch calls the GPU")
    options = parser.parse_args(arguments)
    begin = time.monotonic() - options.spent
    ended: list[Ended] = []
    # Of an interrupted run too: what was measured costs minutes to measure again.
    with contextlib.suppress(KeyboardInterrupt):
        for one in run(steps(options.scale), options.work, begin):
            ended.append(one)
    whole = len(ended) == len(steps(options.scale)) and all(one.is_done for one in ended)
    target = gpu_page.write(options.work, ended, options.scale, options.device)
    print(f"{target} written, {time.monotonic() - begin:.0f} s after the start")
    return 0 if whole else 1


def run(chosen: Sequence[Step], work: Path, begin: float) -> Iterator[Ended]:
    """Run steps one by one; yield how each ended."""
    for step in chosen:
        seconds = begin + step.end - time.monotonic()
        output = work / f"{step.name}.txt"
        print(f"==> {step.title}: at most {seconds:.0f} s, output in {output}", flush=True)
        # What a step that is killed leaves behind goes with the folder.
        with tempfile.TemporaryDirectory(dir=work.resolve(), ignore_cleanup_errors=True) as scratch:
            one = _run(step, output, seconds, {**os.environ, "TMPDIR": scratch})
        said = output.read_text(errors="replace").strip().splitlines()
        print(*(f"    {line}" for line in [*said[-_SHOWN:], one.state]), sep="\n", flush=True)
        yield one


def _run(step: Step, output: Path, seconds: float, environ: dict[str, str]) -> Ended:
    begin = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            step.command(seconds),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            _stop(process)
            state = f"stopped after {seconds:.0f} s: what follows is what it had found"
            return Ended(step.name, step.title, state, False)
        except KeyboardInterrupt:
            _stop(process)
            raise
    state = f"{f'failed with exit {code}' if code else 'done'} in {time.monotonic() - begin:.0f} s"
    return Ended(step.name, step.title, state, not code)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a step and all that it started; kill what is left of them after a while."""
    os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


if __name__ == "__main__":
    raise SystemExit(main())
