"""What `make demo` does when it is interrupted."""

from __future__ import annotations

import os
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
