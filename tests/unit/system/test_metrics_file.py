"""The file that all processes add their counts to: nothing is lost, and nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgetpy.core.report.metrics_text import HEAD, parse_metrics
from pgetpy.system import metrics_file
from pgetpy.system.metrics_file import MetricsFile

TRANSFERS = "pgetpy_transfers_total"
PROCESSES, COUNTS = 6, 50
COUNTING = f"""
import sys
from pgetpy.system.metrics_file import METRICS_FILE
METRICS_FILE.write_to(sys.argv[1])
for _ in range({COUNTS}):
    METRICS_FILE.count("{TRANSFERS}", label="ok")
    METRICS_FILE.flush()
METRICS_FILE.count("{TRANSFERS}", label="failed")
"""


def read(path: Path) -> dict[tuple[str, str], float] | None:
    return parse_metrics(path.read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pgetpy.prom"


@pytest.fixture
def counts(path: Path) -> MetricsFile:
    counts = MetricsFile()
    counts.write_to(str(path))
    return counts


def test_processes_lose_no_counts_of_one_another_and_readers_see_whole_files(path: Path) -> None:
    command = [sys.executable, "-c", COUNTING, str(path)]
    running = [subprocess.Popen(command) for _ in range(PROCESSES)]
    seen = 0.0
    while any(each.poll() is None for each in running):
        if path.exists():
            found = read(path)
            assert found is not None
            assert found.get((TRANSFERS, "ok"), 0) >= seen
            seen = found.get((TRANSFERS, "ok"), 0)
    assert [each.returncode for each in running] == [0] * PROCESSES
    assert read(path) == {(TRANSFERS, "ok"): PROCESSES * COUNTS, (TRANSFERS, "failed"): PROCESSES}
    left = {each.name for each in path.parent.iterdir()}
    assert left == {path.name, f".{path.name}.lock"}


def test_everyone_may_read_the_file(counts: MetricsFile, path: Path) -> None:
    before = os.umask(0o022)
    try:
        counts.count(TRANSFERS, label="ok")
        counts.flush()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_nothing_is_written_until_something_is_counted(counts: MetricsFile, path: Path) -> None:
    counts.flush()
    counts.count(TRANSFERS, 0, "ok")
    counts.flush()
    assert not path.exists()


def test_what_comes_soon_after_a_write_waits_for_the_next(counts: MetricsFile, path: Path) -> None:
    for _ in range(3):
        counts.count(TRANSFERS, label="ok")
        counts.flush_if_due()
    assert read(path) == {(TRANSFERS, "ok"): 1}
    counts.flush()
    assert read(path) == {(TRANSFERS, "ok"): 3}


def test_a_file_of_another_program_stays_as_it_is(counts: MetricsFile, path: Path) -> None:
    path.write_text("# HELP other x\nother 1\n")
    counts.count(TRANSFERS, label="ok")
    counts.flush()
    assert path.read_text() == "# HELP other x\nother 1\n"


def test_a_folder_that_is_missing_fails_nothing_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "later" / "pgetpy.prom"
    counts = MetricsFile()
    counts.write_to(str(path))
    counts.count(TRANSFERS, label="ok")
    counts.flush()
    path.parent.mkdir()
    counts.flush()
    assert read(path) == {(TRANSFERS, "ok"): 1}


def test_a_write_that_fails_keeps_the_counts(
    counts: MetricsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    counts.count(TRANSFERS, label="ok")
    with monkeypatch.context() as patched:
        patched.setattr(metrics_file.os, "replace", full)
        counts.flush()
    assert {each.name for each in path.parent.iterdir()} == {f".{path.name}.lock"}
    counts.count(TRANSFERS, label="ok")
    counts.flush()
    assert read(path) == {(TRANSFERS, "ok"): 2}


def test_a_lock_that_another_process_keeps_is_waited_for_at_the_end_alone(
    counts: MetricsFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "_PATIENCE", 0.05)
    counts.count(TRANSFERS, label="ok")
    with metrics_file._locked(path, 0) as locked:
        assert locked
        counts.flush_if_due()
        counts.flush()
        assert not path.exists()
    counts.flush()
    assert read(path) == {(TRANSFERS, "ok"): 1}


def test_a_forked_child_does_not_count_what_its_parent_has(counts: MetricsFile, path: Path) -> None:
    counts.count(TRANSFERS, label="ok")
    child = os.fork()
    if not child:
        counts.count(TRANSFERS, label="failed")
        counts.flush()
        os._exit(0)
    os.waitpid(child, 0)
    counts.flush()
    assert read(path) == {(TRANSFERS, "ok"): 1, (TRANSFERS, "failed"): 1}
    assert path.read_text().startswith(HEAD)
