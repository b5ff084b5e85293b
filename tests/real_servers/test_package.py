"""The package as it is shipped: what the wheel holds, and that it works where it is installed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDEST, NEWEST = (3, 10), (3, 13)
CI = os.environ.get("CI") == "true"
# What pip says when it cannot reach its index.
NO_NETWORK = ("No matching distribution found", "ConnectionError", "ConnectTimeout")
BODY = hashlib.shake_256(b"weights").digest(3_000_001)

# Building and installing fetch packages.
pytestmark = [pytest.mark.timeout(400), pytest.mark.first]


@dataclass(frozen=True)
class Interpreter:
    """A Python that can make virtual environments."""

    path: str
    version: tuple[int, int]


@functools.cache
def interpreters() -> tuple[Interpreter, ...]:
    """Return one usable Python of each supported version found, oldest first."""
    minors = range(OLDEST[1], NEWEST[1] + 1)
    named = [shutil.which(f"python3.{minor}") for minor in minors]
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    candidates = [sys.executable, *filter(None, named), *map(str, pyenv)]
    found: dict[tuple[int, int], str] = {}
    for path in candidates:
        version = usable_version(path)
        if version is not None and OLDEST <= version <= NEWEST:
            found.setdefault(version, path)
    return tuple(Interpreter(path, version) for version, path in sorted(found.items()))


def usable_version(path: str) -> tuple[int, int] | None:
    """Return the version of the Python at `path` if it starts and can make environments."""
    probe = "import ensurepip, venv, sys; print(*sys.version_info[:2])"
    said = subprocess.run([path, "-c", probe], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        return None
    major, minor = map(int, said.stdout.split())
    return major, minor


def run(*command: str | Path) -> str:
    """Run to success and return what was printed; fail with what it said."""
    env = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_online(*command: str | Path) -> None:
    """Run what fetches packages; without a network that is no failure, but in CI."""
    try:
        run(*command)
    except AssertionError as failure:
        if CI or not any(sign in str(failure) for sign in NO_NETWORK):
            raise
        pytest.skip("packages cannot be fetched")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    if not CI:
        pytest.importorskip("build", reason="the build package is not installed")
    dist = tmp_path_factory.mktemp("dist")
    run_online(sys.executable, "-m", "build", "--outdir", dist, ROOT)
    return dist


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [path] = built.glob("*.whl")
    return path


@dataclass(frozen=True)
class Installed:
    """An environment with nothing but the wheel and what it asks for."""

    bin: Path

    def python(self, code: str, *arguments: str) -> str:
        return run(self.bin / "python", "-I", "-c", code, *arguments)


@pytest.fixture(scope="module", params=["oldest", pytest.param("newest", marks=pytest.mark.soak)])
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    found = interpreters()
    if request.param == "newest" and len(found) == 1:
        pytest.skip("only one Python from 3.10 to 3.13 found")
    if not found:
        pytest.skip("no Python from 3.10 to 3.13 that can make environments")
    chosen = found[0 if request.param == "oldest" else -1]
    folder = tmp_path_factory.mktemp(request.param)
    run(chosen.path, "-m", "venv", folder)
    run_online(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return Installed(folder / "bin")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where a server of byte ranges serves BODY."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "model.safetensors").write_bytes(BODY)
    server = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "origin.py", "--child", "--folder", served],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdout is not None
        yield f"{server.stdout.readline().strip()}/model.safetensors"
        server.terminate()


def test_the_wheel_holds_the_package_its_types_its_licence_and_its_manual_alone(
    wheel: Path,
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"pgetpy"}
    data = [name for name in names if ".data/" in name]
    assert [name.partition(".data/")[2] for name in data] == ["data/share/man/man1/pgetpy.1"]
    assert "pgetpy/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_the_sdist_holds_what_building_and_testing_need(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "SECURITY.md"}
    needed |= {"man/pgetpy.1", "mkdocs.yml", "docs/index.md"}
    assert needed <= names
    assert {"pgetpy/__init__.py", "tests/conftest.py", "scripts/origin.py"} <= names
    assert not any(name.startswith((".venv", ".bench", "dist")) for name in names)


def test_the_console_command_and_the_module_state_the_version_of_the_wheel(
    installed: Installed, wheel: Path
) -> None:
    version = wheel.name.split("-")[1]
    assert version in run(installed.bin / "pgetpy", "--version")
    assert version in run(installed.bin / "python", "-I", "-m", "pgetpy", "--version")
    assert installed.python("import pgetpy; print(pgetpy.__version__)").strip() == version


def test_the_installed_command_downloads_and_verifies(
    installed: Installed, url: str, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    checksum = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    printed = run(
        installed.bin / "pgetpy", url, dest, "--checksum", checksum, "--json", "--progress", "none"
    )
    assert json.loads(printed)["digest"] == checksum
    assert dest.read_bytes() == BODY


def test_the_installed_package_downloads_from_python(
    installed: Installed, url: str, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    code = "import pgetpy, sys; print(pgetpy.download(sys.argv[1], sys.argv[2]).size)"
    assert int(installed.python(code, url, str(dest))) == len(BODY)
    assert dest.read_bytes() == BODY


def test_the_installed_package_has_everything_it_imports(installed: Installed) -> None:
    code = """
import importlib, pkgutil, pgetpy
for module in pkgutil.walk_packages(pgetpy.__path__, "pgetpy."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    installed.python(code)
