"""Environments in generations: built, checked, shared, and found by programs."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgetpy.core.generations.lock import GenerationLock
from pgetpy.errors import BadEnvironmentError
from pgetpy.generations import EnvironmentLine, use
from pgetpy.generations.environments import lock
from tests.support.generations import Node
from tests.support.processes import environment
from tests.support.wheels import make_wheel

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
DATA = "environments/e/tool/data.py"
pytestmark = pytest.mark.usefixtures("wheels")


def locked(node: Node, number: int, *requirements: str, name: str = "e") -> GenerationLock:
    files = node.lock(number, {"model": b"weights"}).files
    return GenerationLock(number, files, (lock(EnvironmentLine(name, HERE, requirements)),))


def tree(node: Node, number: int) -> Path:
    return node.root / "ids" / str(number)


def allocated(*folders: Path) -> int:
    """Return the bytes that the files of folders take together, each counted once."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum({path.stat().st_ino: path.stat().st_size for path in paths}.values())


def test_a_generation_has_its_environments_and_they_count(node: Node) -> None:
    built = node.generations.build(locked(node, 6, "tool"))
    assert (tree(node, 6) / DATA).read_bytes() == b"N = 1\n"
    assert node.generations.ready().ready
    assert node.generations.verify(6).sound
    (listed,) = node.generations.listed()
    assert (listed.size, listed.files) == (built.size, built.count)
    assert listed.size > 10_000
    assert [file.path for file in built.files] == ["files/model"]


def test_a_generation_takes_only_what_is_new(node: Node, wheels: Path) -> None:
    same = {f"large/m{number}.py": b"x = 1\n" * (number + 1) for number in range(30)}
    for version in ("1", "2"):
        make_wheel(wheels, "large", version, {**same, "large/data.bin": os.urandom(2_000_000)})
    node.generations.build(locked(node, 6, "tool", "large==1"))
    before = allocated(tree(node, 6))
    node.generations.build(locked(node, 7, "tool", "large==2"))
    # Folders are not counted: on most file systems each takes a block.
    assert allocated(tree(node, 6), tree(node, 7)) - before <= 1.01 * 2_000_000


def test_a_damaged_environment_is_found_and_those_it_poisons_and_built_again(node: Node) -> None:
    first, second = locked(node, 6, "tool"), locked(node, 7, "tool")
    node.generations.build(first)
    node.generations.build(second)
    path = tree(node, 7) / DATA
    path.chmod(0o644)
    path.write_bytes(b"N = 2\n")
    (state,) = node.generations.ready().states
    assert state.why == f"is not whole: {DATA} was written to"
    (fault,) = node.generations.verify(7).faults
    assert (fault.path, fault.reason) == (DATA, "was changed: it has another digest")
    assert fault.poisons == (6,)
    node.generations.build(second)
    assert path.read_bytes() == b"N = 1\n"
    assert node.generations.verify(7).sound
    assert not node.generations.verify(6).sound


def test_what_is_added_to_an_environment_or_beside_one_is_found(node: Node) -> None:
    node.generations.build(locked(node, 6, "tool"))
    above = tree(node, 6) / "environments"
    (above / "e" / "more.py").write_text("")
    (above / "other").write_text("")
    found = node.generations.verify(6).faults
    assert {each.path for each in found} == {"environments/e/more.py", "environments/other"}


def test_a_program_finds_the_environments_that_variables_name(node: Node) -> None:
    node.generations.build(locked(node, 6, "tool", name=f"cog0.14.0-python{HERE}"))
    node.generations.build(locked(node, 7, "base"))
    variables = {
        "MONOBASE_GEN_ID": "6",
        "R8_COG_VERSION": "0.14.0",
        "R8_PYTHON_VERSION": HERE,
        "PGET_GENERATION_ROOT": str(node.root),
    }
    command = [sys.executable, "-m", "pgetpy", "generation", "exec", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-c", "import tool; tool.main()"],
        env=environment(variables),
        capture_output=True,
        check=True,
        text=True,
    )
    path, number = done.stdout.split()
    digest = node.generations.record(6).digest
    assert (path, number) == (
        str(node.root / "trees" / digest / f"environments/cog0.14.0-python{HERE}/tool/__init__.py"),
        "1",
    )


def test_flags_go_before_variables_and_unknown_names_are_an_error(node: Node) -> None:
    node.generations.build(locked(node, 6, "tool"))
    command = [sys.executable, "-m", "pgetpy", "generation", "exec", "--json", "--env", "f", "--"]
    done = subprocess.run(
        [*command, "true"],
        env=environment({"PGET_GENERATION_ROOT": str(node.root), "PGET_ENV": "e"}),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    words = json.loads(done.stdout)["error"]
    assert "environment f" in json.dumps(words)
    assert "the generation has e" in json.dumps(words)


def test_what_is_used_within_a_block_is_found_by_its_children(node: Node) -> None:
    node.generations.build(locked(node, 6, "tool"))
    environ = {"PGET_ENV": "e", "PATH": "/usr/bin"}
    with use(node.root, environ) as files:
        folder = files.parent / "environments" / "e"
        assert environ["PATH"] == f"{folder}/bin:/usr/bin"
        assert environ["PYTHONPATH"] == str(folder)
    assert environ == {"PGET_ENV": "e", "PATH": "/usr/bin"}
    with pytest.raises(BadEnvironmentError), use(node.root, {"PGET_ENV": "f"}):
        pass


def test_variables_of_monobase_do_not_count_where_there_are_no_environments(node: Node) -> None:
    node.generations.build(node.lock(6, {"model": b"weights"}))
    with use(node.root, {"R8_PYTHON_VERSION": HERE}) as files:
        assert (files / "model").read_bytes() == b"weights"
    with (
        pytest.raises(BadEnvironmentError, match="has no environments"),
        use(node.root, {"PGET_ENV": "e"}),
    ):
        pass


def test_a_cleaned_cache_of_uv_costs_nothing(node: Node, wheels: Path) -> None:
    make_wheel(wheels, "addition", "1.0", {"addition.py": b"y = 1\n"})
    node.generations.build(locked(node, 6, "tool"))
    before = allocated(node.root / "trees", node.root / "uv")
    cleaning = type(node.generations)(node.root, node.cache, fsync=False, clean_uv_cache=True)
    cleaning.build(locked(node, 7, "tool", "addition"))
    big = "environments/e/tool/big.bin"
    assert (tree(node, 6) / big).samefile(tree(node, 7) / big)
    assert allocated(node.root / "trees", node.root / "uv") - before < 10_000


def test_a_pruned_environment_leaves_nothing_in_the_cache_of_uv(node: Node, wheels: Path) -> None:
    for version in ("1", "2"):
        data = {"large.bin": os.urandom(500_000), "same.py": b"z = 1\n"}
        make_wheel(wheels, "large", version, data)
    node.generations.build(locked(node, 6, "tool", "large==1"))
    node.generations.build(locked(node, 7, "tool", "large==2"))
    assert allocated(node.root / "uv") > 1_000_000
    assert node.generations.prune(keep=1).removed == (6,)
    kept = {path.name for path in (node.root / "uv").glob("archive-v*/*/*.dist-info")}
    assert kept == {"base-1.0.dist-info", "tool-1.0.dist-info"}
    for number, version in ((8, "1"), (9, "2")):
        node.generations.build(locked(node, number, "base", f"large=={version}"))
        assert node.generations.verify(number).sound
    large = "environments/e/large.bin"
    assert (tree(node, 7) / large).samefile(tree(node, 9) / large)


def test_nothing_is_removed_from_the_cache_of_uv_while_it_is_used(node: Node) -> None:
    node.generations.build(locked(node, 6, "tool"))
    node.generations.build(locked(node, 7, "base"))
    with (node.root / "uv" / ".lock").open("a") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_SH)
        node.generations.prune(keep=1)
        assert len(list((node.root / "uv").glob("archive-v*/*/tool"))) == 1
