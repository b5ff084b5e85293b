"""Streams that are closed or full, names that are no UTF-8, folders that are not there."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NoReturn

import pytest

import pgetpy
from pgetpy.cli import main
from pgetpy.settings import folders
from tests.support.bodies import body
from tests.support.processes import NOBODY, environment
from tests.support.resources import Resource
from tests.support.server import Server

BODY = body(1_500_001)


@pytest.fixture
def url(server: Server) -> str:
    return server.add("/model.bin", Resource(BODY))


def shell(
    order: str,
    *arguments: str | bytes | Path,
    cwd: Path,
    given: bytes = b"",
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line with `arguments` from a shell that redirects its streams by `order`."""
    command = ["/bin/sh", "-c", f'exec "$@" {order}', "sh", sys.executable, "-m", "pgetpy"]
    ended = subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        input=given,
        capture_output=True,
        timeout=50,
        check=False,
        env=environment(env),
    )
    assert b"Traceback" not in ended.stderr
    assert b"Exception ignored" not in ended.stderr
    return ended


def last_words(ended: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line for line in ended.stderr.decode().splitlines() if line.startswith("pgetpy: ")]
    assert len(lines) == 1, ended.stderr
    return lines[0]


# --------------------------------------------------------------------------------- streams

PROGRESS = ("auto", "plain", "bar", "json")
UNTOLD = ("2>/dev/full", "<&- >&- 2>&-", "<&- 2>&-")


@pytest.mark.parametrize(
    ("order", "progress"),
    [
        *(("2>&-", kind) for kind in PROGRESS),
        *((order, kind) for order in UNTOLD for kind in ("auto", "json")),
        *(
            pytest.param(*pair, marks=pytest.mark.soak)
            for pair in product(UNTOLD, ("plain", "bar"))
        ),
    ],
)
def test_a_transfer_needs_nobody_who_is_told(
    url: str, tmp_path: Path, order: str, progress: str
) -> None:
    ended = shell(order, url, "out", "--progress", progress, cwd=tmp_path)
    assert ended.returncode == 0
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.parametrize("order", [">&-", ">/dev/full", "<&- >&-"])
def test_a_result_that_cannot_be_printed_is_one_error_once_the_file_is_safe(
    url: str, tmp_path: Path, order: str
) -> None:
    ended = shell(order, url, "out", "--json", cwd=tmp_path)
    assert ended.returncode == 1
    assert "standard output cannot be written" in last_words(ended)
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.parametrize("order", [">&-", ">/dev/full"])
def test_the_results_of_a_manifest_that_cannot_be_printed_are_one_error(
    url: str, tmp_path: Path, order: str
) -> None:
    lines = f"{url} one\n{url} two\n".encode()
    ended = shell(order, "multifile", "-", "--json", cwd=tmp_path, given=lines)
    assert ended.returncode == 1
    assert "standard output cannot be written" in last_words(ended)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == BODY


@pytest.mark.parametrize("order", [">&-", ">/dev/full"])
def test_a_path_that_cannot_be_printed_is_in_the_cache(
    url: str, tmp_path: Path, order: str
) -> None:
    place = ("--cache-dir", tmp_path / "cache", "--any-file", "--min-disk-free", "0")
    ended = shell(order, "ensure", url, *place, cwd=tmp_path)
    assert ended.returncode == 1
    assert "standard output cannot be written" in last_words(ended)
    found = shell("", "cache", "path", url, "--cache-dir", tmp_path / "cache", cwd=tmp_path)
    assert Path(found.stdout.decode().strip()).read_bytes() == BODY


@pytest.mark.parametrize("order", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    "words", ["--version", "version", "--help", "completion bash", "cache ls --cache-dir none"]
)
def test_words_that_cannot_be_printed_are_one_error(tmp_path: Path, order: str, words: str) -> None:
    ended = shell(order, *words.split(), cwd=tmp_path)
    assert ended.returncode == 1
    assert "standard output cannot be written" in last_words(ended)


@pytest.mark.parametrize("order", [">&-", ">/dev/full"])
def test_bytes_that_cannot_go_to_standard_output_are_an_error(
    url: str, tmp_path: Path, order: str
) -> None:
    ended = shell(order, url, "-", "--progress", "none", cwd=tmp_path)
    assert ended.returncode == 1
    assert "destination - cannot be written" in last_words(ended)


def test_why_it_failed_is_said_even_if_programs_cannot_be_told(
    server: Server, tmp_path: Path
) -> None:
    ended = shell(">/dev/full", server.url("/missing"), "out", "--json", cwd=tmp_path)
    assert ended.returncode == 1
    assert "404" in last_words(ended)


# ------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "words",
    [
        "{url} out",
        "{good} out --mirror {url}",
        "ensure {url}",
        "cache path {url}",
        "cache pin {url}",
        "snapshot {url}",
    ],
)
def test_a_url_that_is_no_utf8_is_a_usage_error(url: str, tmp_path: Path, words: str) -> None:
    bad = url.encode() + b"\xff\xfe"
    values = {b"{url}": bad, b"{good}": url.encode()}
    arguments = [values.get(word, word) for word in words.encode().split()]
    env = {"PGET_CACHE_DIR": str(tmp_path / "cache")}
    ended = shell("", *arguments, cwd=tmp_path, env=env)
    assert ended.returncode == 2
    assert "not valid UTF-8" in last_words(ended)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("from_file", [False, True])
def test_a_line_that_is_no_utf8_is_named(url: str, tmp_path: Path, *, from_file: bool) -> None:
    lines = url.encode() + b" one\n" + url.encode() + b"/\xff two\n"
    (tmp_path / "list").write_bytes(lines)
    manifest = "list" if from_file else "-"
    ended = shell("", "multifile", manifest, cwd=tmp_path, given=lines)
    assert ended.returncode == 2
    assert ":2: " in last_words(ended)
    assert "not valid UTF-8" in last_words(ended)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("call", [pgetpy.download, pgetpy.extract])
def test_python_refuses_a_url_that_is_no_utf8(call: object, url: str, tmp_path: Path) -> None:
    with pytest.raises(pgetpy.errors.BadReferenceError, match="UTF-8"):
        call(url + "\udcff", tmp_path / "out")  # type: ignore[operator]
    with pytest.raises(pgetpy.errors.BadReferenceError, match="UTF-8"):
        call(url, tmp_path / "out", mirrors=[url + "\udcff"])  # type: ignore[operator]


def test_a_destination_may_be_no_utf8(url: str, tmp_path: Path) -> None:
    assert shell("", url, b"one\xff", "--json", cwd=tmp_path).returncode == 0
    line = url.encode() + b" two\xff\n"
    assert shell("", "multifile", "-", cwd=tmp_path, given=line).returncode == 0
    names = sorted(os.listdir(os.fsencode(tmp_path)))
    assert names == [b"one\xff", b"two\xff"]


def test_a_path_that_is_no_utf8_is_printed_as_its_bytes(url: str, tmp_path: Path) -> None:
    words = ("--any-file", "--min-disk-free", "0", "--cache-dir")
    ended = shell("", "ensure", url, *words, b"cache\xff", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert Path(os.fsdecode(ended.stdout.rstrip(b"\n"))).read_bytes() == BODY


# ------------------------------------------------------------------------ folders and homes


@pytest.mark.parametrize(
    "words", ["{url} out", "{url} out/", "{url}", "{url} out -x", "multifile -", "ensure {url}"]
)
def test_a_folder_that_was_deleted_is_a_clear_error(url: str, tmp_path: Path, words: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    arguments = [sys.executable, "-m", "pgetpy", *words.format(url=url).split()]
    script = 'cd "$0"; rmdir "$0"; exec "$@"'
    ended = subprocess.run(
        ["/bin/sh", "-c", script, str(gone), *arguments],
        input=f"{url} out\n",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=environment({"PGET_CACHE_DIR": "cache"}),
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "no such file or directory" in ended.stderr


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What stands in for the home of a uid that has no name."""

    def unknown(uid: int) -> NoReturn:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "PGET_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folders._tell.cache_clear()
    yield tmp_path / f"pgetpy-{os.geteuid()}"
    folders._tell.cache_clear()


def test_without_a_home_the_cache_is_below_the_temporary_folder(
    url: str, homeless: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["ensure", url, "--any-file", "--min-disk-free", "0"]
    assert main(words, environ={}) == 0
    said = capfd.readouterr()
    assert Path(said.out.strip()).read_bytes() == BODY
    assert Path(said.out.strip()).is_relative_to(homeless)
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700
    assert f"pgetpy: warning: this user has no home folder: the cache is in {homeless}" in said.err
    assert main(["cache", "path", url], environ={}) == 0


@pytest.mark.parametrize("words", ["cache ls", "cache info", "cache gc", "cache verify"])
def test_without_a_home_looking_at_the_cache_is_no_error(
    homeless: Path, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split(), environ={}) == 0
    said = f"pgetpy: warning: this user has no home folder: the cache is in {homeless}\n"
    assert capfd.readouterr().err == said


def test_without_a_home_python_has_a_cache_too(url: str, homeless: Path) -> None:
    with pgetpy.WeightsDownloadCache(min_disk_free=0, any_file=True) as cache:
        assert cache.ensure(url).is_relative_to(homeless)


def test_without_a_home_a_cache_of_ones_own_needs_none(
    url: str, tmp_path: Path, homeless: Path
) -> None:
    words = ["ensure", url, "--any-file", "--min-disk-free", "0"]
    assert main([*words, "--cache-dir", str(tmp_path / "own")], environ={}) == 0
    assert not homeless.exists()


def test_without_a_home_a_tilde_is_a_usage_error(
    homeless: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "ls", "--cache-dir", "~/cache"], environ={}) == 2
    assert "no home folder" in capfd.readouterr().err
    assert not homeless.exists()


def test_without_a_home_a_snapshot_has_a_place(
    homeless: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "PGET_RETRIES": "0"}
    assert main(["snapshot", "hf://owner/name"], environ=environ) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert f"the cache is in {homeless}" in said


@pytest.mark.parametrize("kind", ["others look in", "link", "file", "another user's"])
def test_a_stand_in_that_is_not_ours_alone_is_refused(
    url: str, tmp_path: Path, homeless: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    if kind == "link":
        (tmp_path / "other").mkdir(0o700)
        homeless.symlink_to(tmp_path / "other")
    elif kind == "file":
        homeless.write_bytes(b"")
    else:
        homeless.mkdir(0o700)
    if kind == "others look in":
        homeless.chmod(0o755)
    if kind == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root gives folders away")
        os.chown(homeless, NOBODY, NOBODY)
    for words in (["ensure", url, "--any-file"], ["cache", "ls"], ["snapshot", "hf://owner/name"]):
        assert main(words, environ={}) == 1
        said = capfd.readouterr().err
        assert "other users own it or can read it; set HOME" in said
        assert "Traceback" not in said
