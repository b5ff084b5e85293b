"""Environments are built by the real uv from wheels that the tests make, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pgetpy.core.generations.environment_marks import MARK
from pgetpy.core.generations.environment_variables import composed_variables
from pgetpy.errors import BadEnvironmentError, NotOneFileSystemError
from pgetpy.generations import EnvironmentLine, LockedEnvironment, LockedRequirement
from pgetpy.generations.environment_bytecode import compile_files
from pgetpy.generations.environment_check import (
    check_environment,
    environment_folders,
    glance_environment,
    read_mark,
)
from pgetpy.generations.environment_files import hash_file
from pgetpy.generations.environment_uv import Uv
from pgetpy.generations.environments import EnvironmentBuilder, lock
from tests.support.wheels import make_wheel

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# No machine has it.
ABSENT = "3.99"
CHANGED = "was changed: it has another digest"
SOURCE = b"x = 1\n\ndef f():\n    return x\n"
pytestmark = pytest.mark.usefixtures("wheels")


class Builds:
    """A root with environments, built one after the other as by runs of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "uv"
        self.count = 0

    def build(self, *requirements: str, python: str = HERE, copy: bool = False) -> Path:
        """Lock and build the next environment; return its folder."""
        return self.build_locked(lock(EnvironmentLine("e", python, requirements)), copy=copy)

    def build_locked(self, locked: LockedEnvironment, *, copy: bool = False) -> Path:
        builder = EnvironmentBuilder(self.cache, sorted(self.root.glob("[0-9]*")), copy=copy)
        folder = self.root / str(self.count)
        self.count += 1
        folder.mkdir(parents=True)
        builder.build(locked, folder)
        return folder


@pytest.fixture
def node(tmp_path: Path) -> Builds:
    return Builds(tmp_path / "root")


def environ_of(folder: Path) -> dict[str, str]:
    """Return the variables of a process that uses an environment."""
    found = environment_folders(folder.parent, [folder.name])
    return dict(os.environ) | composed_variables(os.environ, found)


def faults_in(folder: Path) -> dict[str, str]:
    return check_environment(folder, hash_file(folder / MARK))


def inode(path: Path) -> int:
    return path.stat().st_ino


def overwrite(path: Path, data: bytes) -> None:
    """Write into a file, as a program with the rights for it may do."""
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_lock_has_all_packages_with_hashes() -> None:
    locked = lock(EnvironmentLine("e", HERE, ("tool",)))
    assert [each.text for each in locked.requirements] == ["base==1.0", "tool==1.0"]
    assert all(each.hashes[0].startswith("sha256:") for each in locked.requirements)


def test_a_program_finds_packages_and_scripts_of_an_environment(node: Builds) -> None:
    folder = node.build("tool")
    environ = environ_of(folder)
    printed = subprocess.run(
        [sys.executable, "-c", "import tool; tool.main()"],
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.split() == [str(folder / "tool/__init__.py"), "1"]
    script = folder / "bin/tool-run"
    assert script.read_text().startswith(f"#!/usr/bin/env python{HERE}\n")
    assert os.access(script, os.X_OK)
    assert environ["PATH"].startswith(f"{folder}/bin:")
    assert faults_in(folder) == glance_environment(folder) == {}


def test_an_environment_for_a_python_that_is_absent_has_no_byte_code(node: Builds) -> None:
    folder = node.build("tool", python=ABSENT)
    assert not read_mark(folder).compiled
    assert not list(folder.rglob("*.pyc"))
    assert environ_of(folder)["PYTHONDONTWRITEBYTECODE"] == "1"
    assert faults_in(folder) == {}


def test_byte_code_is_used_wherever_its_environment_lies(node: Builds, tmp_path: Path) -> None:
    folder = node.build("tool")
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    program = "import tool.data as d; print(d.__cached__, d.N)"
    run = [sys.executable, "-v", "-c", program]
    done = subprocess.run(run, env=environ_of(moved), check=True, capture_output=True, text=True)
    cached = moved / f"tool/__pycache__/data.{sys.implementation.cache_tag}.pyc"
    assert done.stdout.split() == [str(cached), "1"]
    assert f"code object from '{cached}'" in done.stderr
    assert "wrote" not in done.stderr


def test_byte_code_is_the_same_in_every_folder(tmp_path: Path) -> None:
    found = []
    for name in ("a", "a-much-longer-name"):
        folder = tmp_path / name
        (folder / "p").mkdir(parents=True)
        (folder / "p/m.py").write_bytes(SOURCE)
        os.utime(folder / "p/m.py", (len(found), len(found)))
        compile_files(sys.executable, folder, ["p/m.py"])
        found.append(next(folder.rglob("*.pyc")).read_bytes())
    assert found[0] == found[1]


def test_an_environment_with_the_same_lock_is_linked_without_uv(node: Builds) -> None:
    locked = lock(EnvironmentLine("e", HERE, ("tool",)))
    first = node.build_locked(locked)
    shutil.rmtree(node.cache)
    second = node.build_locked(locked)
    assert not (node.cache / "archive-v0").exists()
    for path in first.rglob("*"):
        if path.is_file() and path.stat().st_size:
            assert inode(path) == inode(second / path.relative_to(first)), path


def test_files_are_shared_after_the_cache_was_cleaned(node: Builds, wheels: Path) -> None:
    make_wheel(wheels, "other", "1.0", {"other.py": b"x = 1\n"})
    first = node.build("tool")
    Uv(node.cache).forget()
    assert first.joinpath("tool/big.bin").stat().st_nlink == 1
    second = node.build("tool", "other")
    shared = ["tool/big.bin", "tool/data.py", "tool-1.0.dist-info/RECORD", "bin/tool-run"]
    shared += [f"tool/__pycache__/data.{sys.implementation.cache_tag}.pyc"]
    for path in shared:
        assert inode(first / path) == inode(second / path), path
    # With its name in uv's new cache.
    assert first.joinpath("tool/big.bin").stat().st_nlink == 3


def test_another_wheel_with_the_same_file_shares_it(node: Builds, wheels: Path) -> None:
    make_wheel(wheels, "tool", "2.0", {"tool/big.bin": bytes(10_000), "tool/new.py": b"y = 2\n"})
    first = node.build("tool==1.0")
    second = node.build("tool==2.0")
    assert inode(first / "tool/big.bin") == inode(second / "tool/big.bin")
    # Two environments, and two wheels in uv's cache.
    assert first.joinpath("tool/big.bin").stat().st_nlink == 4


def test_a_program_and_data_with_the_same_bytes_stay_apart(node: Builds, wheels: Path) -> None:
    make_wheel(
        wheels, "both", "1.0", {"both/a": b"same", "both/b": b"same"}, executable=("both/a",)
    )
    folder = node.build("both")
    assert os.access(folder / "both/a", os.X_OK)
    assert not folder.joinpath("both/b").stat().st_mode & 0o111


@pytest.mark.soak
def test_a_file_with_as_many_links_as_it_may_have_begins_a_second_one(node: Builds) -> None:
    first = node.build("tool") / "tool/big.bin"
    links = node.root / "links"
    links.mkdir()
    with suppress(OSError):
        for number in range(70_000):
            os.link(first, links / str(number))
    if len(os.listdir(links)) == 70_000:
        pytest.skip("this file system does not limit the links of a file")
    second, third = (node.build("tool", *more) for more in ((), ("base",)))
    assert not first.samefile(second / "tool/big.bin")
    assert faults_in(second) == faults_in(third) == {}


def test_files_cannot_be_written(node: Builds) -> None:
    folder = node.build("tool")
    assert not any(path.stat().st_mode & 0o222 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("data", [b"N = 2\n", b"N = 10\n"])
def test_a_file_that_was_changed_in_the_cache_is_installed_anew(node: Builds, data: bytes) -> None:
    poisoned = node.build("tool")
    overwrite(poisoned / "tool/data.py", data)
    assert list(glance_environment(poisoned)) == ["tool/data.py"]
    assert faults_in(poisoned) == {"tool/data.py": CHANGED}
    folder = node.build("tool", "base")
    assert folder.joinpath("tool/data.py").read_bytes() == b"N = 1\n"
    assert faults_in(folder) == {}
    assert inode(folder / "tool/data.py") != inode(poisoned / "tool/data.py")


def test_missing_and_added_files_are_found(node: Builds) -> None:
    folder = node.build("tool")
    (folder / "tool/data.py").unlink()
    (folder / "tool/more.py").write_text("")
    record = folder / "tool-1.0.dist-info/RECORD"
    overwrite(record, record.read_bytes() + b"x,,\n")
    assert faults_in(folder) == {
        "tool/data.py": "is missing",
        "tool/more.py": "was added",
        "tool-1.0.dist-info/RECORD": CHANGED,
        "x": "is missing",
    }
    assert glance_environment(folder) == {
        "tool/data.py": "is missing",
        "tool-1.0.dist-info/RECORD": "was written to",
        "x": "is missing",
    }


def test_packages_may_have_a_path_in_common(node: Builds, wheels: Path) -> None:
    for name in ("one", "two"):
        make_wheel(wheels, name, "1.0", {"shared/__init__.py": f"# {name}\n".encode()})
    folder = node.build("one", "two")
    assert faults_in(folder) == {}


def test_a_package_without_a_wheel_is_an_error_with_the_words_of_uv() -> None:
    with pytest.raises(
        BadEnvironmentError, match=r"^environment e: it cannot be locked: .*nowhere"
    ):
        lock(EnvironmentLine("e", HERE, ("nowhere",)))


def test_a_wheel_with_another_hash_is_refused(node: Builds) -> None:
    wrong = LockedRequirement("base==1.0", (f"sha256:{'0' * 64}",))
    with pytest.raises(BadEnvironmentError, match=r"cannot install it.*base.*0000"):
        node.build_locked(LockedEnvironment("e", HERE, (wrong,)))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_cache_on_another_file_system_is_an_error(node: Builds, elsewhere: Path) -> None:
    node.cache = elsewhere
    with pytest.raises(NotOneFileSystemError, match=r"uv makes copies: .*cross-device"):
        node.build("tool")
    shutil.rmtree(node.root / "0")
    assert faults_in(node.build("tool", copy=True)) == {}


def test_names_that_a_generation_does_not_have_are_an_error(node: Builds) -> None:
    folder = node.build("base")
    with pytest.raises(BadEnvironmentError, match="is not there: the generation has 0"):
        environment_folders(folder.parent, ["../0"])


def test_an_environment_of_which_no_package_is_left_is_not_locked() -> None:
    line = EnvironmentLine("e", "3.11", ("tool; python_version < '3'",))
    with pytest.raises(BadEnvironmentError, match=r"no package of it is for Python 3\.11"):
        lock(line)
