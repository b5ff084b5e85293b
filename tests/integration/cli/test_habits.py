"""What users of curl, wget and aria2 type out of habit, and what they get."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.cli.parser import parse_arguments
from tests.support.bodies import body
from tests.support.faults import Headers
from tests.support.fetching import names_in
from tests.support.resources import Resource
from tests.support.server import Server

BODY = body(1_500_001)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def url(server: Server) -> str:
    return server.add("/model.bin", Resource(BODY))


def disposition(said: str) -> Headers:
    return Headers(add=(("Content-Disposition", said),))


# ------------------------------------------------------------------------- without a destination


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/model.bin", "model.bin"),
        ("/a/b/model%20one.bin?token=1", "model one.bin"),
        ("/%2e%2e%2fetc%2fpasswd", "passwd"),
    ],
)
def test_the_url_names_the_file(server: Server, here: Path, path: str, name: str) -> None:
    server.add(path.partition("?")[0], Resource(BODY))
    assert main([server.url(path)], environ={}) == 0
    assert names_in(here) == [name]
    assert (here / name).read_bytes() == BODY


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ('attachment; filename="real.bin"', "real.bin"),
        ("attachment; filename=plain.bin; filename*=UTF-8''caf%C3%A9.bin", "caf\u00e9.bin"),
        ("attachment; filename*=UTF-8''caf%C3%A9.bin; filename=plain.bin", "caf\u00e9.bin"),
        ('attachment; filename="../../up.bin"', "up.bin"),
        ('attachment; filename="/etc/cron.d/job"', "job"),
        ("attachment; filename*=UTF-8''..%2F..%2Fup.bin", "up.bin"),
        ('attachment; filename="C:\\\\Users\\\\me\\\\model.bin"', "model.bin"),
        ('attachment; filename=".bashrc"', "_bashrc"),
        ('attachment; filename=".."', "model.bin"),
        ("attachment", "model.bin"),
    ],
)
def test_the_server_names_the_file(server: Server, here: Path, said: str, name: str) -> None:
    url = server.add("/x/model.bin", Resource(BODY, faults=[disposition(said)]))
    assert main([url, "--json"], environ={}) == 0
    assert names_in(here) == [name]


@pytest.mark.parametrize("said", [None, 'attachment; filename="model.bin"'])
def test_what_exists_is_not_replaced_unless_forced(
    server: Server, here: Path, capfd: pytest.CaptureFixture[str], said: str | None
) -> None:
    faults = [disposition(said)] if said else []
    url = server.add("/model.bin", Resource(BODY, faults=faults))
    (here / "model.bin").write_bytes(b"mine")
    assert main([url], environ={}) == 1
    assert "model.bin already exists; use -f" in capfd.readouterr().err
    assert (here / "model.bin").read_bytes() == b"mine"
    assert names_in(here) == ["model.bin"]
    assert main([url, "-f"], environ={}) == 0
    assert (here / "model.bin").read_bytes() == BODY


def test_a_link_is_not_written_through_unless_forced(url: str, here: Path) -> None:
    (here / "model.bin").symlink_to(here / "target")
    (here / "target").write_bytes(b"mine")
    assert main([url], environ={}) == 1
    assert (here / "target").read_bytes() == b"mine"


def test_a_url_that_names_nothing_is_an_error_that_says_what_to_type(
    server: Server, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.add("/", Resource(BODY))
    assert main([server.url("/")], environ={}) == 1
    assert "gives a file name; give a file name" in capfd.readouterr().err
    assert names_in(here) == []


def test_an_archive_still_needs_a_folder(
    url: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["-x", url], environ={}) == 2
    assert "expected URL and DEST" in capfd.readouterr().err


def test_a_word_that_is_no_command_is_a_usage_error(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["downlaod"], environ={}) == 2
    assert names_in(here) == []


# ------------------------------------------------------------------------- flags of other programs


@pytest.mark.parametrize(
    "flags",
    ["--continue", "--continue=true", "-C -", "-C-", "--continue-at -", "--continue-at=-"],
)
def test_going_on_can_be_asked_for_in_other_words(url: str, here: Path, flags: str) -> None:
    assert main([*flags.split(), url, "out"], environ={}) == 0
    assert (here / "out").read_bytes() == BODY
    assert main([url, "two", *flags.split()], environ={}) == 0


@pytest.mark.parametrize("flags", ["--continue=false", "--no-continue", "-C 0"])
def test_going_on_can_be_forbidden_in_other_words(flags: str) -> None:
    assert parse_arguments([*flags.split(), "u", "d"]).values == {"resume": "false"}


@pytest.mark.parametrize("flags", ["-C 100", "--continue-at=100", "-C", "--continue=maybe"])
def test_an_offset_of_ones_own_is_a_usage_error(
    url: str, here: Path, capfd: pytest.CaptureFixture[str], flags: str
) -> None:
    assert main([url, "out", *flags.split()], environ={}) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        "-O {url}",
        "-LO {url}",
        "-OJ {url}",
        "--remote-name {url}",
        "-o model.bin {url}",
        "{url} -o model.bin",
        "--output=model.bin {url}",
        "--out=model.bin {url}",
        "-d folder {url}",
        "-P folder {url}",
    ],
)
def test_flags_that_name_the_file_elsewhere_are_answered_with_what_to_type(
    url: str, here: Path, capfd: pytest.CaptureFixture[str], words: str
) -> None:
    assert main(words.format(url=url).split(), environ={}) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "pgetpy URL" in line
    assert names_in(here) == []
