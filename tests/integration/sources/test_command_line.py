"""References and tokens on the command line: what opens them is seen by nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.cli.command_table import SHELLS
from pgetpy.cli.completion import completion_script
from pgetpy.cli.help import help_text
from pgetpy.cli.parser import parse_arguments
from pgetpy.errors import BadSettingError
from pgetpy.settings import Settings, SourceSettings
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import check_settings, source_options
from tests.integration.sources.conftest import MARK, OTHER_TOKEN, TOKEN
from tests.support.children import last_line
from tests.support.civitai import Civitai, File, Version
from tests.support.processes import Ended, environment, run
from tests.support.replicate import Replicate
from tests.support.server import Server
from tests.support.weights import flip, serve, tar_of, weights

pytestmark = pytest.mark.usefixtures("forked_runs")

LORA = weights()
SOURCE_FLAGS = [row.name for row in source_options() if row.name]
TOKEN_FLAGS = [flag for flag in SOURCE_FLAGS if flag.endswith("-token")]
REFERENCE = "urn:air:sdxl:lora:civitai:1@5"


class Shell:
    """The command line in this process; what it says is looked at."""

    def __init__(self, tmp_path: Path, civitai: Civitai, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.root = tmp_path / "cache"
        self.environ = {
            "PGET_CACHE_DIR": str(self.root),
            "PGET_MIN_DISK_FREE": "0",
            "PGET_CIVITAI_ENDPOINT": civitai.endpoint,
            "PGET_REPLICATE_ENDPOINT": civitai.endpoint,
        }

    def run(self, *argv: str, **environ: str) -> Ended:
        self._capfd.readouterr()
        code = main(list(argv), environ=environment({**self.environ, **environ}))
        ended = Ended(code, *self._capfd.readouterr())
        assert MARK not in ended.out + ended.err
        assert "Traceback" not in ended.err
        return ended

    def succeeds(self, *argv: str, **environ: str) -> str:
        ended = self.run(*argv, **environ)
        assert ended.code == 0, ended.err
        return ended.out.strip()


@pytest.fixture
def civitai(server: Server, other_server: Server, owners: set[int]) -> Civitai:
    owners.add(server.port)
    made = Civitai(server, other_server)
    made.add(1, Version(5, (File("lora.safetensors", LORA, primary=True),), needs=TOKEN))
    return made


@pytest.fixture
def shell(tmp_path: Path, civitai: Civitai, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, civitai, capfd)


# ------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        ((), {"CIVITAI_API_TOKEN": TOKEN}),
        ((), {"PGET_CIVITAI_TOKEN": TOKEN, "CIVITAI_API_TOKEN": OTHER_TOKEN}),
        (("--civitai-token", TOKEN), {}),
        ((f"--civitai-token={TOKEN}",), {"CIVITAI_API_TOKEN": OTHER_TOKEN}),
    ],
)
def test_a_token_opens_a_reference(
    shell: Shell, argv: tuple[str, ...], environ: dict[str, str]
) -> None:
    path = shell.succeeds("ensure", *argv, REFERENCE, "--log-level", "debug", **environ)
    assert Path(path).read_bytes() == LORA
    assert shell.succeeds("cache", "path", *argv, REFERENCE, **environ) == path
    assert shell.run("cache", "path", REFERENCE).code == 1


def test_every_command_that_takes_references_takes_tokens(shell: Shell, tmp_path: Path) -> None:
    token = ("--civitai-token", TOKEN, "--hf-token", OTHER_TOKEN)
    (tmp_path / "manifest").write_text(f"{REFERENCE} {tmp_path}/b\n")
    shell.succeeds(REFERENCE, str(tmp_path / "a"), *token, "--json", "--progress", "json")
    shell.succeeds("multifile", *token, str(tmp_path / "manifest"), "--json", "-v")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == LORA
    path = Path(shell.succeeds("cache", "ensure", *token, REFERENCE))
    shell.succeeds("cache", "pin", *token, REFERENCE, "--json")
    shell.succeeds("cache", "unpin", *token, REFERENCE)
    shell.succeeds("cache", "ls", "--json")
    flip(path)
    ended = shell.run("cache", "verify", *token)
    assert (ended.code, "downloaded again" in ended.out) == (1, True), ended.out
    assert "1 sound" in shell.succeeds("cache", "verify", *token, REFERENCE)
    shell.succeeds("cache", "rm", *token, REFERENCE)


def test_what_needs_another_token_is_not_repaired(shell: Shell) -> None:
    path = Path(shell.succeeds("ensure", "--civitai-token", TOKEN, REFERENCE))
    flip(path)
    ended = shell.run("cache", "verify")
    assert ended.code == 1
    assert "not repaired" in ended.out
    assert "does not keep the secrets that open what it holds" in ended.out


def test_a_refusal_names_the_service_and_what_to_set(shell: Shell, tmp_path: Path) -> None:
    for argv in (("ensure", REFERENCE), (REFERENCE, str(tmp_path / "x"))):
        for environ in ({}, {"CIVITAI_API_TOKEN": OTHER_TOKEN}):
            ended = shell.run(*argv, **environ)
            assert ended.code == 1
            for words in ("CivitAI", "requires you to be logged in", "CIVITAI_API_TOKEN"):
                assert words in last_line(ended)
        json_line = json.loads(shell.run(*argv, "--json").out.splitlines()[-1])
        assert json_line["error_type"] == "UnauthorizedError"
    assert not (tmp_path / "x").exists()


def test_an_empty_token_takes_back_that_of_the_environment(shell: Shell) -> None:
    argv = ("ensure", "--civitai-token", "", REFERENCE)
    assert shell.run(*argv, CIVITAI_API_TOKEN=TOKEN).code == 1


@pytest.mark.parametrize("bad", [f"{TOKEN}\nX: y", f"a {TOKEN}", f"{TOKEN}\u00e9", f"{TOKEN}\x7f"])
def test_a_malformed_token_is_refused_unseen(shell: Shell, bad: str) -> None:
    for flag in TOKEN_FLAGS:
        ended = shell.run("ensure", f"--{flag}", bad, REFERENCE)
        assert (ended.code, f"--{flag}" in last_line(ended)) == (2, True)
    for name in (
        "HF_TOKEN",
        "CIVITAI_API_TOKEN",
        *(row.variable for row in source_options() if row.name in TOKEN_FLAGS),
    ):
        with pytest.raises(BadSettingError) as caught:
            check_settings(Settings.from_environment({name: bad}).sources)
        assert (caught.value.name, caught.value.value) == (name, "***")


@pytest.mark.parametrize(
    "argv",
    [
        ("ensure", REFERENCE, f"--civitai-tokne={TOKEN}"),
        ("ensure", REFERENCE, "--civitai-tokne", TOKEN),
        ("ensure", REFERENCE, f"--no-civitai-token={TOKEN}"),
        ("cache", "ls", "--hf-token", TOKEN),
        ("completion", "--hf-token", TOKEN),
        ("--hf-token", TOKEN),
        ("--civitai-token", TOKEN, "--help"),
        (f"--hf-token={TOKEN}", "ftp://h/x", "d"),
        (f"https://civitai.com/models/x?token={TOKEN}", "d"),
        ("ensure", f"https://civitai.com/models/1?modelVersionId=x&token={TOKEN}"),
        ("cache", f"https://civitai.com/models/1?token={TOKEN}"),
        ("http://h/x", "d", f"https://civitai.com/models/1?token={TOKEN}"),
    ],
)
def test_a_mistake_beside_a_token_does_not_show_it(shell: Shell, argv: tuple[str, ...]) -> None:
    assert shell.run(*argv).code in (0, 2)


@pytest.mark.parametrize(
    "name", ["HF_ENDPOINT", "PGET_CIVITAI_ENDPOINT", "PGET_REPLICATE_ENDPOINT"]
)
def test_an_endpoint_with_a_password_is_refused(name: str) -> None:
    with pytest.raises(BadSettingError, match="not contain a user or password"):
        check_settings(SourceSettings(environ={name: f"https://me:{TOKEN}@host"}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" ", "is blank"),
        ('"https://host"', "quotation marks"),
        ("'https://host'", "quotation marks"),
        ("host", "does not begin with http"),
        ("host:8080/", "does not begin with http"),
        ("https://host?x=1", r"not contain \? or #"),
        ("https://host/#f", r"not contain \? or #"),
        ("ftp://host", "'ftp' is not supported"),
    ],
)
def test_an_endpoint_that_makes_no_sense_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(BadSettingError, match=f"HF_ENDPOINT.*{reason}"):
        check_settings(SourceSettings(environ={"HF_ENDPOINT": text}))


@pytest.mark.parametrize("text", ["https://h", "https://h/", " https://h//\n", "https://h\r\n"])
def test_blanks_and_slashes_around_an_endpoint_mean_nothing(text: str) -> None:
    settings = SourceSettings(environ={"HF_ENDPOINT": text})
    assert settings.of(HubSettings).endpoint == "https://h"


def test_settings_and_arguments_show_no_token() -> None:
    arguments = parse_arguments(["--hf-token", TOKEN, "a", "b"])
    settings = Settings().with_flags({"hf-token": TOKEN, "civitai-token": OTHER_TOKEN})
    read = settings.sources.of(HubSettings), settings.sources.of(CivitaiSettings)
    assert [each.token for each in read] == [TOKEN, OTHER_TOKEN]
    assert MARK not in repr(arguments) + repr(settings) + repr(read)


def test_help_prefers_the_environment_and_completion_knows_the_flags() -> None:
    for command in ("download", "multifile", "ensure", "cache verify", "cache path", "cache rm"):
        text = " ".join(help_text(command, everything=True).split())
        assert "Prefer to set HF_TOKEN" in text
        assert "Prefer to set CIVITAI_API_TOKEN" in text
    for command in ("cache ls", "cache gc", "completion"):
        assert "token" not in help_text(command)
    for shell in SHELLS:
        assert all(flag in completion_script(shell) for flag in SOURCE_FLAGS)


# ------------------------------------------------------------------- references


def test_every_reference_goes_to_a_destination(
    shell: Shell, server: Server, other_server: Server, tmp_path: Path
) -> None:
    Replicate(server, other_server).add("me/lora", tar_of({"x.safetensors": LORA}))
    (tmp_path / "a file").write_bytes(LORA)
    url = serve(server, path="/plain.safetensors")
    local, data = (tmp_path / "a file").as_uri(), "data:,hello"
    out = tmp_path / "out"
    lines = [f"{ref} {out}/" for ref in (url, local, data, "me/lora", REFERENCE)]
    lines.append(f"me/lora {tmp_path}/extracted -x")
    (tmp_path / "manifest").write_text("\n".join(lines))
    shell.succeeds(
        "multifile", "--no-force", str(tmp_path / "manifest"), CIVITAI_API_TOKEN=TOKEN
    )  # fmt: skip
    names = sorted(path.name for path in out.iterdir())
    assert names == ["a file", "data", "lora.safetensors", "lora.tar", "plain.safetensors"]


def test_without_a_destination_the_service_names_the_file(shell: Shell, tmp_path: Path) -> None:
    words = (REFERENCE, "--civitai-token", TOKEN)
    ended = run(*words, env=shell.environ, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert (tmp_path / "lora.safetensors").read_bytes() == LORA
    again = run(*words, env=shell.environ, cwd=tmp_path)
    assert again.code == 1
    assert "lora.safetensors already exists; use -f" in last_line(again)


def test_what_is_no_reference_is_refused_before_anything_is_done(
    shell: Shell, tmp_path: Path
) -> None:
    for text in ("model.bin", "ftp://h/x", "civitai:x", "data:x", "http://h\t/x", "http://h:0/"):
        (tmp_path / "manifest").write_text(f'"{text}" {tmp_path}/a\n')
        for argv in ((text, str(tmp_path / "a")), ("multifile", str(tmp_path / "manifest"))):
            ended = shell.run(*argv)
            assert (ended.code, ended.out) == (2, "")
            assert last_line(ended)
    assert not (tmp_path / "a").exists()
