"""`pgetpy generation`: what people and programs see, and exit statuses that scripts go by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy.cli import main
from tests.support.generations import Node, digest
from tests.support.processes import environment
from tests.support.weights import weights

pytestmark = pytest.mark.usefixtures("forked_runs")

Run = Callable[..., tuple[int, str, str]]

UNET, OTHER = weights(3000, "unet"), weights(1000, "other")


@pytest.fixture
def run(node: Node, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line for the folder of `node`."""
    environ = {"PGET_MIN_DISK_FREE": "0", "PGET_GENERATION_ROOT": str(node.root)}

    def carry_out(*argv: str) -> tuple[int, str, str]:
        status = main(["generation", *argv], environ=environ)
        out, err = capsys.readouterr()
        return status, out, err

    return carry_out


def lock_file(node: Node, folder: Path, number: int, data: bytes = UNET) -> str:
    path = folder / f"{number}.lock"
    path.write_text(node.lock(number, {"unet": data}).text)
    return str(path)


def test_a_lock_is_built_and_its_folder_printed(run: Run, node: Node, tmp_path: Path) -> None:
    status, out, _ = run("build", lock_file(node, tmp_path, 6), "--progress=none")
    assert status == 0
    assert (Path(out.strip()) / "unet").read_bytes() == UNET
    assert node.cache.lookup(node.url(UNET)) is not None, "the cache is in the same folder"


def test_builds_tell_programs(run: Run, node: Node, tmp_path: Path) -> None:
    locks = [lock_file(node, tmp_path, 6), lock_file(node, tmp_path, 7, OTHER)]
    status, out, _ = run("build", *locks, "--json", "--progress=none")
    assert status == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["number"] for each in found] == [6, 7]
    assert [each["size"] for each in found] == [len(UNET), len(OTHER)]


def test_ready_fails_until_all_wanted_numbers_are_whole(
    run: Run, node: Node, tmp_path: Path
) -> None:
    assert run("ready")[0] == 1
    run("build", lock_file(node, tmp_path, 6), "--progress=none")
    assert run("ready", "--min", "6", "--max", "6")[0] == 0
    status, out, _ = run("ready", "--min", "6", "--max", "7", "--json")
    assert status == 1
    found = json.loads(out)
    assert found["ready"] is False
    assert found["why"] == "generation 7 is not there"
    assert [each["whole"] for each in found["generations"]] == [True, False]


def test_a_taken_number_is_an_error(run: Run, node: Node, tmp_path: Path) -> None:
    run("build", lock_file(node, tmp_path, 6), "--progress=none")
    status, out, err = run("build", lock_file(node, tmp_path, 6, OTHER), "--json")
    assert status == 1
    assert json.loads(out)["error_type"] == "GenerationTakenError"
    assert "give the new content a number of its own" in err


def test_a_bad_line_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.lock"
    path.write_text("generation 6\n\nhttps://example.com/x ../x\n")
    status, _, err = run("build", str(path))
    assert status == 2
    assert f"{path}:3: " in err


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_is_no_place_for_a_lock(run: Run, node: Node, tmp_path: Path, place: str) -> None:
    status, _, err = run("lock", lock_file(node, tmp_path, 6), place)
    assert status == 1
    assert "cannot be written" in err


def test_differences_are_told_of_numbers_and_locks(run: Run, node: Node, tmp_path: Path) -> None:
    run("build", lock_file(node, tmp_path, 6), "--progress=none")
    status, out, _ = run("diff", "6", lock_file(node, tmp_path, 7, OTHER))
    assert status == 0
    assert out.splitlines() == [
        f"changed unet: {digest(UNET)} to {digest(OTHER)}",
        "1 change, 0 the same",
    ]
    _, out, _ = run("diff", "6", "6", "--json")
    assert json.loads(out) == {"before": 6, "after": 6, "changes": [], "same": 1}


def test_pruned_and_kept_generations_are_told(run: Run, node: Node, tmp_path: Path) -> None:
    for number, data in ((6, UNET), (7, OTHER), (8, b"x")):
        run("build", lock_file(node, tmp_path, number, data), "--progress=none")
    assert run("prune")[0] == 2
    status, out, _ = run("prune", "--keep", "2")
    assert (status, out) == (0, "removed 6\n")
    status, out, _ = run("prune", "--min", "8", "--json")
    assert json.loads(out) == {"removed": [7], "in_use": []}
    status, out, _ = run("ls")
    assert out.startswith("8  ")
    assert "latest" in out


def test_readers_and_names_do_not_steer_the_terminal(run: Run, node: Node, tmp_path: Path) -> None:
    for number, data in ((6, UNET), (7, OTHER)):
        run("build", lock_file(node, tmp_path, number, data), "--progress=none")
    code = (
        "import sys; from pgetpy.generations import hold; "
        "held = hold(sys.argv[2], {'PGET_GENERATION': '6'}); print(1, flush=True); input()"
    )
    # The words of the script come first in what is shown of a command.
    hostile = "\x1b[31m\nremoved 7\x07"
    script = tmp_path / "r"
    script.write_text(code)
    command = ["python", "r", hostile, str(node.root)]
    with subprocess.Popen(
        command,
        executable=sys.executable,
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        printed = run("prune", "--keep", "1")[1], run("ls")[1]
        reader.kill()
    assert "kept 6: it is read by" in printed[0]
    assert "[31m removed 7" in printed[0]
    (node.root / "ids/7/files/\x1b[31m\nhostile").touch()
    printed = (*printed, run("verify", "7")[1])
    assert "hostile was added" in printed[2]
    for text in printed:
        assert text.replace("\n", "").isprintable()
        assert all("removed 7" not in line[:9] for line in text.splitlines())


def test_pruning_says_which_flags_it_needs(run: Run) -> None:
    status, _, err = run("prune")
    assert status == 2
    assert "--keep, --min or both" in err


def test_verify_names_a_changed_file(run: Run, node: Node, tmp_path: Path) -> None:
    run("build", lock_file(node, tmp_path, 6), "--progress=none")
    run("build", lock_file(node, tmp_path, 7), "--progress=none")
    assert run("verify")[0] == 0
    path = node.root / "ids/6/files/unet"
    path.chmod(0o644)
    path.write_bytes(UNET[::-1])
    status, out, _ = run("verify", "6", "--json")
    assert status == 1
    (fault,) = json.loads(out)["faults"]
    assert (fault["path"], fault["poisons"]) == ("files/unet", [7])
    status, out, _ = run("verify", "6")
    assert "the same file is in 7" in out


def test_a_program_keeps_its_generation_across_exec(node: Node, tmp_path: Path) -> None:
    node.generations.build(node.lock(6, {"unet": UNET}))
    node.generations.build(node.lock(7, {"unet": OTHER}))
    code = (
        "import os, sys; files = os.environ['PGET_GENERATION_FILES']; "
        "print(len(open(files + '/unet', 'rb').read()), flush=True); input()"
    )
    command = [sys.executable, "-m", "pgetpy", "generation", "exec", "--generation", "6", "--"]
    with subprocess.Popen(
        [*command, sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"PGET_GENERATION_ROOT": str(node.root)}),
    ) as program:
        assert program.stdout is not None
        assert int(program.stdout.readline()) == len(UNET)
        (kept,) = node.generations.prune(keep=1).in_use
        assert kept.readers[0].startswith(f"{program.pid} (")
        program.kill()
        program.wait()
    assert node.generations.prune(keep=1).removed == (6,)


def test_a_program_that_is_not_there_is_an_error(run: Run, node: Node) -> None:
    node.generations.build(node.lock(6, {"unet": UNET}))
    status, _, err = run("exec", "--", "/no/such/program")
    assert status == 1
    assert "cannot run /no/such/program" in err


def test_the_folder_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generation", "ready"], environ={}) == 2
    assert "PGET_GENERATION_ROOT" in capsys.readouterr().err


def test_looking_creates_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("ready", "ls"):
        main(["generation", command, "--root", str(tmp_path / "none")], environ={})
    capsys.readouterr()
    assert os.listdir(tmp_path) == []
