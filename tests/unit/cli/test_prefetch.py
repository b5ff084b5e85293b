"""`pgetpy prefetch`: a layer is filled once, and checked without writing. Files come from disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.cli import main
from tests.support.weights import weights

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in a folder with two files and a manifest of them."""
    monkeypatch.chdir(tmp_path)
    one, two = weights(5000, "one"), weights(7000, "two")
    Path("one.safetensors").write_bytes(one)
    Path("two.safetensors").write_bytes(two)
    digest = hashlib.sha256(two).hexdigest()
    Path("m.txt").write_text(
        f"file://{tmp_path}/one.safetensors  # the base\n"
        f"file://{tmp_path}/two.safetensors file sha256:{digest}\n"
    )

    def carry_out(*argv: str, **environ: str) -> tuple[int, str, str]:
        usual = {"PGET_MIN_DISK_FREE": "0", "PGET_CACHE_DIR": str(tmp_path / "own")}
        status = main(argv, environ={**usual, **environ})
        out, err = capsys.readouterr()
        return status, out, err

    return carry_out


def fill(run: Run) -> None:
    status, _, _ = run("prefetch", "--progress=none", "m.txt", PGET_CACHE_DIR="layer")
    assert status == 0


def content(name: str) -> Path:
    (found,) = Path("layer/entries").glob(f"*/*{name}")
    return found


def test_what_is_missing_is_fetched_hashed_and_told(run: Run) -> None:
    status, out, _ = run("prefetch", "--progress=none", "m.txt")
    assert status == 0
    *lines, sums = out.splitlines()
    assert [line.split()[0] for line in lines] == ["sound", "sound"]
    assert sums.startswith("2 entries, ")
    assert sums.endswith(": 2 sound")
    # Hashed and flushed: a machine that reads the layer need not do it.
    status, out, _ = run("prefetch", "--json", "--progress=none", "m.txt")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["verdict"] for record in records] == ["sound", "sound"]
    assert all(record["digest"].startswith("sha256:") for record in records)


def test_a_layer_is_found_below_another_cache_and_not_fetched_again(run: Run) -> None:
    fill(run)
    Path("one.safetensors").unlink()
    for flags in ((), ("--check",), ("--verify",)):
        status, out, _ = run("prefetch", *flags, "--json", "m.txt", PGET_CACHE_LOWER="layer")
        assert status == 0
        assert [json.loads(line)["lower"] for line in out.splitlines()] == [True, True]


def test_the_layer_is_not_changed_by_looking_at_it(run: Run) -> None:
    fill(run)
    before = {path: path.lstat().st_mtime_ns for path in Path("layer").rglob("*")}
    run("prefetch", "--verify", "m.txt", "--cache-lower", "layer")
    run("prefetch", "--check", "m.txt", "--cache-lower", "layer")
    assert {path: path.lstat().st_mtime_ns for path in Path("layer").rglob("*")} == before


def test_a_flipped_byte_is_found_by_verify_alone(run: Run) -> None:
    fill(run)
    path = content("one.safetensors")
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[4000] ^= 1
    path.write_bytes(data)
    assert run("prefetch", "--check", "m.txt", PGET_CACHE_LOWER="layer")[0] == 0
    status, out, _ = run("prefetch", "--verify", "m.txt", PGET_CACHE_LOWER="layer")
    assert status == 1
    assert out.splitlines()[0].startswith("damaged  ")
    assert out.splitlines()[-1].endswith(": 1 sound, 1 damaged")


def test_a_truncated_or_missing_file_is_found_by_check(run: Run) -> None:
    fill(run)
    content("one.safetensors").chmod(0o644)
    os.truncate(content("one.safetensors"), 100)
    content("two.safetensors").unlink()
    status, out, _ = run("prefetch", "--check", "m.txt", PGET_CACHE_LOWER="layer")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["damaged", "missing"]


def test_nothing_is_fetched_by_check(run: Run) -> None:
    status, out, _ = run("prefetch", "--check", "m.txt")
    assert status == 1
    assert out.splitlines()[-1] == "2 entries, 0 B: 2 missing"


def test_if_one_fails_what_came_before_is_told_and_the_error_is_last(run: Run) -> None:
    Path("three.safetensors").write_bytes(weights(900, "three"))
    with Path("m.txt").open("a") as file:
        file.write(f"file://{Path.cwd()}/three.safetensors file sha256:{'1' * 64}\n")
    status, out, err = run("prefetch", "--progress=none", "m.txt")
    assert status == 1
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ["sound", "sound", "missing"]
    assert "three.safetensors" in err.splitlines()[-1]


def test_another_digest_than_the_manifests_is_refused(run: Run) -> None:
    fill(run)
    Path("m.txt").write_text(f"file://{Path.cwd()}/one.safetensors sha256:{'0' * 64}\n")
    status, out, _ = run("prefetch", "--check", "m.txt", PGET_CACHE_LOWER="layer")
    assert (status, out.split()[0]) == (1, "damaged")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("prefetch",), "expected one MANIFEST or -, got nothing"),
        (("prefetch", "a", "b"), "expected one MANIFEST or -, got 2"),
        (("prefetch", "nowhere.txt"), "nowhere.txt: there is no such file"),
        (("prefetch", "--check", "--verify", "m.txt"), "--verify does all that --check does"),
    ],
)
def test_mistakes_are_usage_errors(run: Run, argv: tuple[str, ...], words: str) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert words in err


def test_several_layers_are_named_with_colons_or_several_flags(run: Run) -> None:
    fill(run)
    for argv, environ in (
        (("--cache-lower", "none", "--cache-lower", "layer"), {}),
        ((), {"PGET_CACHE_LOWER": "none:layer"}),
    ):
        status, out, _ = run("prefetch", "--check", *argv, "m.txt", **environ)
        assert (status, out.splitlines()[0].endswith("(lower)")) == (0, True)


def test_python_reads_the_same_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file: URL is compared with its file at each look-up, a data: URL has nothing to ask.
    url = f"data:;base64,{base64.b64encode(weights(500)).decode()}"
    Path("m.txt").write_text(url)
    fill(run)
    monkeypatch.setenv("PGET_CACHE_LOWER", str(Path.cwd() / "layer"))
    with WeightsDownloadCache("own", min_disk_free=0) as cache:
        found = cache.lookup(url)
    assert found is not None
    assert Path("layer").absolute() in found.parents
    with WeightsDownloadCache("own", min_disk_free=0, lower=()) as cache:
        assert cache.lookup(url) is None
