"""Environments of numpy for several Pythons: what they cost a node, and that they work.

Wheels come from the package index that uv is configured for. Only those Pythons that the machine
has import what was built for them; the others are installed all the same.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pgetpy.core.generations.environment_marks import MARK
from pgetpy.core.generations.environment_variables import composed_variables
from pgetpy.generations import EnvironmentLine, LockedEnvironment
from pgetpy.generations.environment_check import check_environment, environment_folders
from pgetpy.generations.environment_files import hash_file
from pgetpy.generations.environment_uv import Uv
from pgetpy.generations.environments import EnvironmentBuilder, lock

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
VERSIONS = ("2.0.2", "2.1.3", "2.2.6")
# numpy 2.0 has no wheel for Python 3.13.
MATRIX = [(n, p) for n in VERSIONS for p in PYTHONS if (n, p) != ("2.0.2", "3.13")]


def pyenv_versions() -> str:
    """Return all versions that pyenv has: uv looks at those that are chosen."""
    try:
        done = subprocess.run(
            ["pyenv", "versions", "--bare"], capture_output=True, check=False, text=True
        )
    except FileNotFoundError:
        return ""
    return ":".join(done.stdout.split())


@pytest.fixture(scope="module", autouse=True)
def _all_pythons() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        versions = pyenv_versions()
        if versions:
            patch.setenv("PYENV_VERSION", versions)
        yield


def allocated(folders: Iterable[Path]) -> int:
    """Return the bytes that folders take on the disk together, each file counted once."""
    found = {}
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            status = path.lstat()
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def build_all(root: Path, name: str, locks: Iterable[LockedEnvironment]) -> dict[str, Path]:
    complete = sorted(path.parent for path in root.glob("*/*/environment.json"))
    builder = EnvironmentBuilder(root / "uv", complete)
    folders = {}
    for each in locks:
        folders[each.name] = root / name / each.name
        folders[each.name].mkdir(parents=True)
        builder.build(each, folders[each.name])
    return folders


@pytest.mark.timeout(500)
def test_environments_and_generations_share_what_they_have_in_common(tmp_path: Path) -> None:
    locks = [
        lock(EnvironmentLine(f"numpy{numpy}-python{python}", python, (f"numpy=={numpy}",)))
        for numpy, python in MATRIX
    ]
    first = build_all(tmp_path, "first", locks)
    assert len(first) == 11
    separate = sum(allocated([folder]) for folder in first.values())
    together = allocated([tmp_path])  # with uv's cache
    assert together <= 0.85 * separate

    # The next generation has one package more, and uv has forgotten all packages.
    Uv(tmp_path / "uv").forget()
    added = lock(EnvironmentLine(locks[5].name, locks[5].python, ("numpy==2.1.3", "six==1.17.0")))
    second = build_all(tmp_path, "second", [*locks[:5], added, *locks[6:]])
    both = allocated([*first.values(), *second.values()])
    cost = both - allocated(first.values())
    print(f"{together / separate:.3f} at first, {cost / separate:.4f} for the next")
    assert cost <= 0.02 * separate

    uv = Uv(tmp_path / "uv")
    for folder in (*first.values(), *second.values()):
        assert check_environment(folder, hash_file(folder / MARK)) == {}
    for name, folder in second.items():
        program = uv.find_python(name.rpartition("python")[2])
        if program is not None:
            check_import(program, name, folder)


def check_import(program: str, name: str, folder: Path) -> None:
    environ = composed_variables({}, environment_folders(folder.parent, [name]))
    code = "import numpy; print(numpy.__version__, numpy.arange(4).sum(), numpy.__file__)"
    done = subprocess.run(
        [program, "-c", code],
        env=dict(os.environ) | environ,
        capture_output=True,
        check=True,
        text=True,
    )
    version = name.partition("-")[0].removeprefix("numpy")
    assert done.stdout.split() == [version, "6", str(folder / "numpy/__init__.py")]
