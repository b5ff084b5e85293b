"""Compile caches with the real torch: nothing is compiled a second time, and never for another
processor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .cogs import running

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Start:
    """One start of the program on a machine of its own: home, user's folders, cache folder."""

    status: int
    found: dict[str, Any]
    errors: str


def start(location: Path, home: Path, what: str = "", **env: str) -> Start:
    home.mkdir(parents=True, exist_ok=True)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "TMPDIR": str(home),
        "USER": home.name,
        "LOGNAME": home.name,
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "OMP_NUM_THREADS": "1",
        **env,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.predictors.compiled", str(location), *([what] * bool(what))],
        env=environ,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return Start(done.returncode, found, done.stderr)


@dataclass(frozen=True)
class Saved:
    location: Path
    cold: Start


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("compiled")
    cold = start(folder / "location", folder / "first-user")
    assert cold.status == 0, cold.errors
    assert cold.found["loaded"]["outcome"] == "miss"
    assert cold.found["saved"]["outcome"] == "saved"
    return Saved(folder / "location", cold)


def test_another_user_on_an_empty_machine_compiles_nothing(saved: Saved, tmp_path: Path) -> None:
    warm = start(saved.location, tmp_path / "second-user")
    assert warm.status == 0, warm.errors
    assert warm.found["loaded"]["outcome"] == "loaded"
    assert warm.found["new_files"] == 0
    assert warm.found["misses"] == 0
    assert warm.found["hits"] > 0
    assert warm.found["output"] == saved.cold.found["output"]
    assert (warm.found["saved"]["outcome"], warm.found["saved"]["bytes"]) == ("unchanged", 0)


def test_a_processor_of_another_tier_gets_nothing_of_it(saved: Saved, tmp_path: Path) -> None:
    other = start(saved.location, tmp_path / "old", ATEN_CPU_CAPABILITY="default")
    assert other.status == 0, other.errors
    assert other.found["loaded"]["outcome"] == "miss"
    assert [each.split(":")[0] for each in other.found["loaded"]["differing"]] == ["isa"]
    assert other.found["misses"] > 0
    # Even in the folder of the first machine torch does not take that code.
    folder = tmp_path / "shared"
    assert start(saved.location, folder).status == 0
    mixed = start(tmp_path / "none", folder, ATEN_CPU_CAPABILITY="default")
    assert mixed.status == 0, mixed.errors
    assert mixed.found["misses"] > 0
    assert mixed.found["hits"] == 0


@pytest.mark.parametrize("renames", [1, 4])
def test_a_load_that_is_killed_is_followed_by_a_start_that_works(
    saved: Saved, tmp_path: Path, renames: int
) -> None:
    killed = start(saved.location, tmp_path / "user", f"load-killed-{renames}")
    assert killed.status == -signal.SIGKILL
    after = start(saved.location, tmp_path / "user")
    assert after.status == 0, after.errors
    assert after.found["new_files"] == 0
    assert after.found["output"] == saved.cold.found["output"]


def test_a_compiler_that_was_killed_is_followed_by_a_start_that_works(
    saved: Saved, tmp_path: Path
) -> None:
    home = tmp_path / "user"
    assert start(saved.location, home).status == 0
    # What a kill during linking leaves; torch takes what is there, and fails on it for ever.
    libraries = sorted((home / "inductor").rglob("*.main.so"))
    assert libraries
    for library in libraries:
        library.write_bytes(b"")
    after = start(saved.location, home)
    assert after.status == 0, after.errors
    assert len(after.found["loaded"]["removed"]) == len(libraries)
    assert after.found["new_files"] == 0
    assert after.found["output"] == saved.cold.found["output"]


def test_a_save_that_is_killed_leaves_nothing_that_is_loaded(saved: Saved, tmp_path: Path) -> None:
    location = tmp_path / "location"
    home = tmp_path / "user"
    assert start(saved.location, home).status == 0
    killed = start(location, home, "save-killed")
    assert killed.status == -signal.SIGKILL
    after = start(location, home)
    assert after.found["loaded"]["outcome"] == "miss"
    assert after.found["saved"]["outcome"] == "saved"
    third = start(location, tmp_path / "third")
    assert third.found["new_files"] == 0
    assert third.found["output"] == saved.cold.found["output"]


def test_the_second_start_of_the_predictor_is_warm(tmp_path: Path) -> None:
    replies = []
    for home in ("first", "second"):
        folder = tmp_path / home
        folder.mkdir()
        env = {"HOME": folder, "TMPDIR": folder, "COMPILE_CACHE": tmp_path / "location"}
        with running("compile", **env) as cog:
            replies.append(cog.predict(scale=2.0))
    cold, warm = replies
    assert cold.status == warm.status == "succeeded", replies
    assert cold.metrics["compile_cache"] == "miss"
    assert cold.metrics["graphs_compiled"] > 0
    assert warm.metrics["compile_cache"] == "loaded"
    assert warm.metrics["graphs_compiled"] == 0
    assert warm.metrics["files_compiled_since_warm_up"] == 0
    assert warm.output == cold.output
