"""A kernel of the real Triton, compiled for a GPU that is not there, is found on another machine.

Triton's cache does not relocate by itself: its group files hold absolute paths.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def run(location: Path, home: Path, *what: str) -> subprocess.CompletedProcess[str]:
    """Run the program on a machine whose home is `home`."""
    home.mkdir(exist_ok=True)
    environ = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "HOME": str(home),
        "TRITON_CACHE_DIR": str(home / "kernels"),
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.predictors.kernel", str(location), *what],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def start(location: Path, home: Path, *what: str) -> dict[str, Any]:
    """Return what a run says that has to end well."""
    done = run(location, home, *what)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_kernel_is_compiled_once(tmp_path: Path) -> None:
    location = tmp_path / "location"
    cold = start(location, tmp_path / "one")
    assert (cold["loaded"]["outcome"], cold["saved"]["outcome"]) == ("miss", "saved")
    warm = start(location, tmp_path / "two", "refuse")
    assert warm["loaded"]["entries"] == cold["saved"]["entries"] > 5
    assert warm["new_files"] == 0
    assert warm["cubin"] == cold["cubin"]
    assert (warm["saved"]["outcome"], warm["saved"]["bytes"]) == ("unchanged", 0)


def test_files_that_are_moved_as_they_are_find_nothing(tmp_path: Path) -> None:
    """What rewriting group files is for."""
    start(tmp_path / "location", tmp_path / "one")
    (tmp_path / "two").mkdir()
    os.rename(tmp_path / "one" / "kernels", tmp_path / "two" / "kernels")
    moved = run(tmp_path / "nothing", tmp_path / "two", "refuse")
    assert "the kernel is compiled, and not found" in moved.stderr
