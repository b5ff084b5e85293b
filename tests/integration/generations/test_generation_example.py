"""The script of examples/generations plays a node and a container, and says what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import environment

SCRIPT = Path(__file__).parents[3] / "examples" / "generations" / "play.sh"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# What the script exits with where it may not mount.
NO_RIGHTS = 77


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH that has this Python, and pgetpy."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "python3").symlink_to(sys.executable)
    command = folder / "pgetpy"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pgetpy "$@"\n')
    command.chmod(0o755)
    return folder


def play(folder: Path, programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "PGET_MIN_DISK_FREE": "0"}
    return subprocess.run(
        ["bash", str(SCRIPT), str(folder / "play")],
        env=environment(own | variables),
        capture_output=True,
        check=False,
        text=True,
    )


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare")
def test_a_node_and_a_container_are_played(tmp_path: Path, programs: Path, wheels: Path) -> None:
    done = play(tmp_path, programs, REQUIREMENT="tool", UV_CONFIG_FILE=os.environ["UV_CONFIG_FILE"])
    if done.returncode == NO_RIGHTS:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(("node", "container"))]
    root = tmp_path / "play" / "root"
    digest = (root / "ids" / "8").resolve().name
    packages = said.pop(2)
    assert packages.startswith(f"container: packages in {tmp_path}/play/mounted/trees/")
    assert packages.endswith("/environments/packages")
    kept = said.pop(3)
    assert kept.startswith("node: kept 7: it is read by ")
    assert "play.sh model" in kept
    assert said == [
        f"node: {root}/ids/7/files",
        "container: weights of generation 7",
        f"node: {root}/ids/8/files",
        "container: still weights of generation 7",
        "node: removed 7",
    ]
    assert [path.name for path in (root / "trees").iterdir()] == [digest]


def test_without_the_right_to_mount_it_says_so(tmp_path: Path, programs: Path) -> None:
    refusing = programs / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    done = play(tmp_path, programs)
    assert done.returncode == NO_RIGHTS
    assert "run it as root" in done.stderr
    assert done.stdout == ""
