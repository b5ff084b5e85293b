"""What the system says of its processors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pgetpy.system.cpu_load import machine_load


def test_what_this_process_uses_is_counted() -> None:
    before = machine_load()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert machine_load().used - before.used >= 0.05


def test_idle_and_waiting_processors_are_free(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 400 50 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    assert machine_load(str(stat)).idle == pytest.approx(4.5)


@pytest.mark.parametrize("text", ["", "cpu 1 2", "cpu a b c d e f\n", None])
def test_a_system_that_says_nothing_leaves_it_open(tmp_path: Path, text: str | None) -> None:
    stat = tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    assert machine_load(str(stat)).idle is None
