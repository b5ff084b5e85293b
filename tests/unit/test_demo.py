"""What a newcomer sees: `make help`, and `make demo` when it is interrupted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

INTERRUPTED = """
import signal
from scripts import demo

def step(stage):
    '''A step'''
    signal.raise_signal(signal.SIGINT)

demo.STEPS = (step,)
raise SystemExit(demo.main(["--size", "1"]))
"""


def test_an_interrupted_demo_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr == "\nThe demo was interrupted; its folder is removed.\n"
    assert [*tmp_path.iterdir()] == []


def test_the_help_of_make_fits_a_terminal_of_80_columns() -> None:
    made = Path(__file__).parents[2].joinpath("Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):.*## (.*)$", made, re.MULTILINE)
    assert len(targets) > 10
    for name, said in targets:
        assert len(f"  make {name:<17}{said}") <= 80, name
