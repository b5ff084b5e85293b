"""The rules of scripts/gpu.sh: what a step that fails costs the others, and what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from scripts import gpu_network, gpu_page, gpu_steps
from scripts.bench.cases import CASES
from scripts.gpu_network import Results
from scripts.gpu_page import Ended
from scripts.gpu_steps import Step
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SAYS = "print('| a | b |')"
FAILS = "import sys; sys.exit('no such thing')"
# Ends as a step should that is interrupted: it says what it has.
SLOW = """
import time
try:
    open({begun!r}, "w").close()
    time.sleep(60)
except KeyboardInterrupt:
    print("half of it")
"""
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"


def step(name: str, code: str, end: float = 60) -> Step:
    return Step(name, f"Step {name}", end, lambda _: [sys.executable, "-c", code])


def run(work: Path, *chosen: Step) -> list[Ended]:
    return list(gpu_steps.run(chosen, work, time.monotonic()))


def test_a_step_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, step("a", FAILS), step("b", SAYS))
    assert [one.is_done for one in ended] == [False, True]
    assert ended[0].state.startswith("failed with exit 1 ")
    assert (tmp_path / "a.txt").read_text() == "no such thing\n"


def test_a_step_whose_time_is_over_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    slow = SLOW.format(begun=str(begun))

    class Begun(subprocess.Popen[bytes]):
        """Is interrupted once it is at work: an interpreter may take longer than that to start."""

        def wait(self, timeout: float | None = None) -> int:
            if slow in self.args:
                eventually(begun.exists)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Begun)
    given: list[float] = []

    def command(seconds: float) -> list[str]:
        given.append(seconds)
        return [sys.executable, "-c", slow]

    ended = run(tmp_path, Step("slow", "Step slow", 1.5, command), step("b", SAYS))
    assert [one.is_done for one in ended] == [False, True]
    assert ended[0].state.startswith(f"stopped after {given[0]:.0f} s: ")
    assert (tmp_path / "slow.txt").read_text() == "half of it\n"


def test_a_step_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_steps, "_GRACE_S", 0.2)
    begin = time.monotonic()
    assert not run(tmp_path, step("deaf", DEAF, 1))[0].is_done
    assert time.monotonic() - begin < 30


def test_what_a_killed_step_leaves_behind_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_steps, "_GRACE_S", 0.2)
    run(tmp_path, step("deaf", f"import tempfile; tempfile.mkdtemp(); {DEAF}", 1.5))
    assert [*tmp_path.iterdir()] == [tmp_path / "deaf.txt"]


def test_all_steps_end_within_ten_minutes_and_run_cases_that_there_are() -> None:
    chosen = gpu_steps.steps(1.0)
    ends = [one.end for one in chosen]
    assert ends == sorted(ends)
    # Each step may take the grace when it is stopped, but then the next one begins later.
    assert ends[-1] + gpu_steps._GRACE_S < 590
    commands = [one.command(100.0) for one in chosen]
    cases = {case.name for case in CASES}
    assert {command[-1] for command in commands if "scripts.bench" in command} <= cases
    files = [each for command in commands for each in command if each.endswith(".py")]
    assert files
    assert all((ROOT / each).is_file() for each in files)


def page(tmp_path: Path, scale: float, device: str) -> tuple[Path, str]:
    (tmp_path / "table.txt").write_text("| a | b |\n| --- | --- |\n| 1 | 2 |\n")
    (tmp_path / "bench.txt").write_text("==> gpu\n    1 tensors.load: 0.1 s\n    program  wall\n")
    (tmp_path / "silent.txt").write_text("")
    ended = [
        Ended("table", "A table", "done in 1 s", True),
        Ended("bench", "A benchmark", "stopped after 9 s", False),
        Ended("silent", "Nothing", "failed with exit 1", False),
    ]
    target = gpu_page.write(tmp_path, ended, scale, device)
    return target, target.read_text()


def test_the_page_of_a_gpu_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_page, "PAGE", tmp_path / "docs.md")
    monkeypatch.setenv("BENCH_GPU", "cpu")
    target, said = page(tmp_path, 1.0, "NVIDIA H0")
    assert target == tmp_path / "docs.md"
    assert "- GPU: NVIDIA H0\n" in said
    assert "rial" not in said
    assert "\n\nDone in 1 s.\n\n| a | b |\n" in said
    assert "```\n==> gpu\n    program  wall\n```" in said
    assert "Failed with exit 1.\n\nIt printed nothing." in said


@pytest.mark.parametrize(
    ("scale", "device", "why"),
    [(1.0, "", "on the CPU"), (0.02, "NVIDIA H0", "at 0.02 of"), (0.02, "", "on the CPU")],
)
def test_a_trial_writes_no_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float, device: str, why: str
) -> None:
    monkeypatch.setenv("BENCH_GPU", "cpu")
    monkeypatch.setattr(gpu_page, "PAGE", tmp_path / "docs.md")
    target, said = page(tmp_path, scale, device)
    assert target == tmp_path / "gpu.md"
    assert said.startswith("# A trial without figures\n")
    assert why in said
    assert not (tmp_path / "docs.md").exists()


def test_the_table_of_downloads_says_of_each_program_why_there_is_no_figure() -> None:
    results: Results = defaultdict(list)
    results["plain", 1, "pgetpy"] = [1.0, 3.0, 2.0]
    results["plain", 1, "curl"] = ["failed: exit 7, connection refused"]
    results["TLS", 1, "hf_transfer"] = ["not installed"]
    lines = list(gpu_network.table(results, [1]))
    assert lines[2] == "| plain | 1 | 2.00 | not reached | failed | not reached |"
    assert lines[3].endswith("| not installed |")


def test_a_download_that_fails_or_is_short_is_no_figure(tmp_path: Path) -> None:
    row = gpu_network.Row("http://127.0.0.1:9/w", 1)
    writes = "import sys; open(sys.argv[1], 'wb').write(bytes(100))"
    good, bad = [sys.executable, "-c", writes], [sys.executable, "-c", "raise SystemExit('no')"]
    found = gpu_network.rate([good, good], tmp_path, 100, row)
    assert isinstance(found, float)
    assert 0 < found < 1
    assert gpu_network.rate([good, bad], tmp_path, 100, row) == "failed: exit 1, no"
    assert str(gpu_network.rate([good], tmp_path, 200, row)).startswith("failed")
    assert gpu_network.rate([], tmp_path, 100, row) == "not installed"
    assert [*tmp_path.iterdir()] == []


def test_files_go_to_the_disk_where_little_fits_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = {gpu_network._MEMORY: 64 << 20}
    monkeypatch.setattr(gpu_network, "_free", lambda place: free.get(place, 34 << 30))
    place, size = gpu_network.room(1 << 30, 16)
    assert place != gpu_network._MEMORY
    assert size == 1 << 28
    monkeypatch.setattr(gpu_network, "_free", lambda place: free.get(place, 17 << 28))
    assert gpu_network.room(1 << 30, 16)[1] == 1 << 27


def test_an_interruption_prints_the_table_before_files_are_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(folder: Path, *_: object) -> None:
        _[-1]["plain", 1, "curl"] = [1.5]  # type: ignore[index]
        raise KeyboardInterrupt

    printed: list[str] = []
    cleanup = gpu_network.tempfile.TemporaryDirectory.cleanup

    def clean(folder: object) -> None:
        printed.append(capsys.readouterr().out)
        cleanup(folder)  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_network, "_measure", measure)
    monkeypatch.setattr(gpu_network.tempfile.TemporaryDirectory, "cleanup", clean)
    assert gpu_network.main(["--scale", "0.01"]) == 130
    assert "| plain | 1 | not reached | not reached | 1.50 |" in printed[0]


# ---------------------------------------------------------------------------- the shell script


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script in a folder of its own, as it writes beside itself."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return Path(shutil.copy(ROOT / "scripts/gpu.sh", tmp_path / "scripts"))


def call(script: Path, *arguments: str, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


def made_up(folder: Path, body: str) -> str:
    """Return an interpreter that does what `body` says."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_without_torch_is_named(script: Path, tmp_path: Path) -> None:
    python = made_up(tmp_path, 'echo "No module named torch" >&2; exit 1')
    done = call(script, python=python)
    assert done.returncode == 2
    assert "No module named torch" in done.stderr
    assert f"PYTHON={python} cannot import torch" in done.stderr


def test_an_interpreter_without_pip_is_named(script: Path, tmp_path: Path) -> None:
    no_pip = '*pip*) echo "No module named pip" >&2; exit 1;;'
    lacking = "-*gpu-wheels) ls .gpu-wheels/*;;"
    python = made_up(tmp_path, f'case "$*" in {no_pip} {lacking} esac')
    (tmp_path / ".gpu-wheels").mkdir()
    (tmp_path / ".gpu-wheels/new-1-py3-none-any.whl").touch()
    done = call(script, python=python)
    assert done.returncode == 2
    assert "has no pip to install the wheels with: No module named pip" in done.stderr


def test_an_unknown_argument_is_a_usage_error(script: Path) -> None:
    done = call(script, "--fast", python="false")
    assert done.returncode == 2
    assert [line.split()[0] for line in done.stderr.splitlines()] == 3 * ["scripts/gpu.sh"]


@pytest.mark.parametrize(("size", "code"), [(1000, 0), (50_000_001, 1)])
def test_wheels_that_are_too_large_to_carry_are_refused(
    script: Path, tmp_path: Path, size: int, code: int
) -> None:
    python = made_up(tmp_path, f"truncate -s {size} .gpu-wheels/new-1-py3-none-any.whl")
    (tmp_path / ".gpu-wheels").mkdir()
    (tmp_path / ".gpu-wheels/old-1-py3-none-any.whl").touch()
    done = call(script, "collect", python=python)
    assert done.returncode == code
    assert not (tmp_path / ".gpu-wheels/old-1-py3-none-any.whl").exists()
    assert "which is more than 50000000" in done.stderr if code else "1 wheels" in done.stdout
