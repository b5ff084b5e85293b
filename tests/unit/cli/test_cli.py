"""Arguments to calls of the engine, and outcomes to lines and statuses. The engine is played."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pgetpy
from pgetpy.cli import main
from pgetpy.cli.command_table import COMMANDS, SHELLS
from pgetpy.cli.option_table import OPTIONS
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Finished, Progressed, Queued, Started
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.errors import DestinationError, HttpStatusError, PgetError
from pgetpy.settings import Settings

URL = "http://example.com/model.bin?X-Amz-Signature=hunter2"
MD5 = "md5:" + "0123456789abcdef" * 2


def result_of(job: Job) -> DownloadResult:
    return DownloadResult(
        url="http://example.com/model.bin?X-Amz-Signature=***",
        final_url="http://cdn.example.com/model.bin",
        dest=job.dest or "",
        size=2_000_000_000,
        digest=None,
        seconds=4.0,
        bytes_per_second=5e8,
        retries=0,
        connections=8,
        resumed=0,
        validator="strong",
        length_known=True,
        shared=False,
    )


class Engine:
    """Stands in for pgetpy.api: notes what it is asked for, and does `before` it answers."""

    def __init__(self, before: Callable[[Any], None] = lambda progress: None) -> None:
        self.jobs: list[Job] = []
        self.settings = Settings()
        self.fail_fast: bool | None = None
        self.errors: dict[str, PgetError] = {}
        self._before = before

    def download_job(self, job: Job, *, settings: Settings, progress: Any) -> DownloadResult:
        self.jobs, self.settings = [job], settings
        self._before(progress)
        if job.url in self.errors:
            raise self.errors[job.url]
        return result_of(job)

    def download_jobs(
        self, jobs: Sequence[Job], *, settings: Settings, progress: Any, fail_fast: bool
    ) -> tuple[DownloadResult | DownloadFailure, ...]:
        self.jobs, self.settings, self.fail_fast = list(jobs), settings, fail_fast
        self._before(progress)
        return tuple(
            DownloadFailure(job.url, job.dest or "", self.errors[job.url])
            if job.url in self.errors
            else result_of(job)
            for job in jobs
        )


class Shell:
    """Runs the command line in an empty folder and keeps what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.engine = Engine()
        self.environ: dict[str, str] = {}
        self.out = self.err = ""
        self._capsys = capsys

    def run(self, *argv: str) -> int:
        status = main(argv, api=self.engine, environ=self.environ)
        self.out, self.err = self._capsys.readouterr()
        assert "hunter2" not in self.out + self.err
        return status

    def refuses(self, *argv: str, status: int = 2) -> str:
        """Return the one line that says why `argv` is not carried out."""
        assert self.run(*argv) == status
        assert self.engine.jobs == []
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("pgetpy: ")
        return line.removeprefix("pgetpy: ")


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)


# ---------------------------------------------------------------------------- a single file


def test_a_url_and_a_destination_are_one_job(shell: Shell) -> None:
    assert shell.run(URL, "model.bin") == 0
    assert shell.engine.jobs == [Job(URL, "model.bin")]
    assert shell.engine.settings == Settings()
    assert shell.out == ""


def test_a_file_that_is_complete_is_said_so_in_one_line(shell: Shell) -> None:
    shell.run(URL, "a b.bin")
    assert shell.err.splitlines() == [
        '[ Complete ] dest="a b.bin" size="2.0 GB" total_elapsed=4.000s '
        'bytes_per_second="500 MB/s" url=http://example.com/model.bin?X-Amz-Signature=***'
    ]


@pytest.mark.parametrize("level", ["warn", "WARNING", "error"])
def test_a_higher_log_level_leaves_nothing_to_say(shell: Shell, level: str) -> None:
    assert shell.run(f"--log-level={level}", URL, "x") == 0
    assert shell.err == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["-f", "-c", "8", URL, "d"],
        [URL, "d", "-f", "-c", "8"],
        [URL, "-fc8", "d"],
        [URL, "--force", "d", "--concurrency=8"],
        ["--force=true", "-c=8", "--", URL, "d"],
        [URL, "d", "--max-chunks", "8", "-vf"],
    ],
)
def test_flags_stand_anywhere_and_in_every_form(shell: Shell, argv: list[str]) -> None:
    assert shell.run(*argv) == 0
    assert shell.engine.jobs == [Job(URL, "d")]
    assert shell.engine.settings == Settings(force=True, concurrency=8)


def test_all_flags_of_a_transfer_arrive(shell: Shell) -> None:
    Path("ca.pem").touch()
    argv = (
        "-m 16MiB --connect-timeout 1m30s --stall-timeout 2s -r 0 --max-conn-per-host 9 "
        "--max-concurrent-files 3 --limit-rate 1M --max-size 1G --min-free 5G --fsync --netrc "
        "--no-resume --cacert ca.pem --resolve h:80:1.2.3.4 --resolve h:443:::1,g:80:1.2.3.5 "
        f"--checksum {MD5.upper()} --mirror http://m/1 --mirror http://m/2"
    ).split()
    assert shell.run(*argv, "-H", "X-A: b: c", "-H", "authorization:Bearer hunter2", URL, "d") == 0
    assert shell.engine.jobs == [
        Job(URL, "d", Checksum.parse(MD5), ("http://m/1", "http://m/2")),
    ]
    settings = shell.engine.settings
    assert settings == Settings(
        chunk_size=16 * 2**20,
        connect_timeout=90.0,
        stall_timeout=2.0,
        retries=0,
        max_conn_per_host=9,
        max_concurrent_files=3,
        limit_rate=10**6,
        max_size=10**9,
        min_free=5 * 10**9,
        fsync=True,
        use_netrc=True,
        resume=False,
        cacert="ca.pem",
        resolve={("h", 80): "1.2.3.4", ("h", 443): "::1", ("g", 80): "1.2.3.5"},
        headers={"X-A": "b: c"},
        authorization="Bearer hunter2",
    )


def test_a_flag_takes_back_what_the_environment_says(shell: Shell) -> None:
    shell.environ = {"PGET_FORCE": "1", "PGET_RETRIES": "7", "PGET_CONCURRENCY": "3"}
    assert shell.run("--force=false", "-c", "5", URL, "d") == 0
    assert shell.engine.settings == Settings(force=False, retries=7, concurrency=5)
    assert shell.run("--no-force", URL, "d") == 0
    assert shell.engine.settings.force is False


@pytest.mark.parametrize("argv", [["-o", "null", URL], ["--output=null", URL, "ignored"]])
def test_bytes_that_are_thrown_away_need_no_destination(shell: Shell, argv: list[str]) -> None:
    Path("ignored").touch()
    assert shell.run(*argv) == 0
    assert shell.engine.jobs == [Job(URL, None)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "expected URL [DEST], got nothing"),
        ([URL, "-x"], "expected URL and DEST, got 1"),
        ([URL, "d", "e"], "got 3"),
        (["-o", "null"], "expected URL [DEST]"),
        ([URL, ""], "DEST is empty"),
        (["model.bin", "d"], "it has no scheme"),
        (["ftp://h/x", "d"], "scheme 'ftp' is not supported"),
        (["http://h:x/", "d"], "http://h:x/"),
        ([URL, "d", "--mirror", "ftp://h/x"], "ftp://h/x"),
        ([URL, "d", "--nonsense"], "unknown flag: --nonsense"),
        ([URL, "d", "--chunk-siz", "1"], "did you mean --chunk-size?"),
        ([URL, "d", "-fz"], "unknown flag: -z"),
        ([URL, "d", "-m"], "-m/--chunk-size: expected one argument"),
        ([URL, "d", "-m", "big"], "--chunk-size 'big': is not a size"),
        ([URL, "d", "-m", "1M", "--minimum-chunk-size", "1M"], "cannot be used at the same time"),
        ([URL, "d", "-c", "-1"], "must be at least 1"),
        ([URL, "d", "--force=maybe"], "neither true nor false"),
        ([URL, "d", "--log-level", "loud"], "--log-level 'loud'"),
        ([URL, "d", "-o", "screen"], "--output 'screen'"),
        ([URL, "d", "--progress", "loud"], "--progress 'loud'"),
        ([URL, "d", "--checksum", "md5:12"], "md5 has 32 hex digits"),
        ([URL, "d", "-H", "hunter2"], "has no valid name"),
        ([URL, "d", "--cacert", "nowhere.pem"], "there is no such file"),
        ([URL, "d", "--resolve", "h:80"], "expected HOST:PORT:IP"),
        ([URL, "-", "-x"], "not to standard output"),
        ([URL, "/dev/stdout", "-o", "tar-extractor"], "not to standard output"),
        ([URL, "d", "--fail-fast"], "cannot use --fail-fast with a single URL"),
        (["multifile"], "expected one MANIFEST"),
        (["multifile", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["multifile", "."], ".: is a directory"),
        (["multifile", "--mirror", "http://h/", "x"], "cannot use --mirror with multifile mode"),
        (["completion", "tcsh"], "bash, zsh, fish, powershell"),
        (["help", "nonsense"], "there is no command 'nonsense'"),
    ],
)
def test_nonsense_is_refused_in_one_line(shell: Shell, argv: list[str], words: str) -> None:
    assert words in shell.refuses(*argv)
    assert list(Path().iterdir()) == []


def test_a_bad_variable_is_refused_by_its_name(shell: Shell) -> None:
    shell.environ = {"PGET_CHUNK_SIZE": "big"}
    assert shell.refuses(URL, "d").startswith("PGET_CHUNK_SIZE 'big'")


def test_a_destination_that_exists_is_an_error_before_anything_starts(shell: Shell) -> None:
    Path("d").write_text("mine")
    assert shell.refuses(URL, "d", status=1).startswith("destination d already exists; use -f")
    assert shell.run("-f", URL, "d") == 0


@pytest.mark.parametrize(
    ("argv", "place"),
    [
        ([URL, "d"], "destination d cannot be written"),
        (["-x", URL, "d"], "destination d cannot be written"),
        (["cache", "ls", "--cache-dir", "d"], "the cache at d cannot be used"),
        (["ensure", URL, "--cache-dir", "d"], "the cache at d cannot be used"),
        (["snapshot", "hf://o/n", "--hub-cache-dir", "d"], "destination d cannot be written"),
    ],
)
def test_a_current_folder_that_was_removed_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    place: str,
) -> None:
    (tmp_path / "removed").mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()
    assert main(argv, environ={}) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"pgetpy: {place}: no such file or directory"


def test_what_is_no_file_does_not_stand_in_the_way(shell: Shell) -> None:
    os.mkdir("folder")
    os.mkfifo("fifo")
    os.symlink("nowhere", "link")
    for dest in ("folder", "folder/", "fifo", "link", "/dev/null", "/dev/stdout", "-"):
        assert shell.run(URL, dest) == 0
        assert shell.engine.jobs == [Job(URL, dest)]


def test_deprecated_flags_hold_with_pgets_warning(shell: Shell) -> None:
    assert shell.run("--max-chunks", "3", "--minimum-chunk-size", "1M", URL, "d") == 0
    assert shell.engine.settings == Settings(concurrency=3, chunk_size=10**6)
    warnings = [line for line in shell.err.splitlines() if "warning" in line]
    assert warnings == [
        "pgetpy: warning: Flag --max-chunks has been deprecated, use --concurrency instead",
        "pgetpy: warning: Flag --minimum-chunk-size has been deprecated, use --chunk-size instead",
    ]


def test_flags_without_effect_are_accepted(shell: Shell) -> None:
    assert shell.run("--pid-file", "/run/x.pid", "--force-http2", URL, "d") == 0
    assert "--force-http2 has no effect" in shell.err


def test_a_failure_is_one_line(shell: Shell) -> None:
    shell.engine.errors[URL] = HttpStatusError(URL, 404, "Not Found")
    assert shell.run(URL, "d") == 1
    assert shell.err == (
        "pgetpy: HTTP status 404 (Not Found) for "
        "http://example.com/model.bin?X-Amz-Signature=***; check the URL\n"
    )


def test_words_of_a_server_do_not_steer_the_terminal(shell: Shell) -> None:
    shell.engine.errors[URL] = HttpStatusError(URL, 400, "\x1b[2J\nno\x9b")
    assert shell.run(URL, "d") == 1
    (line,) = shell.err.splitlines()
    assert line.isprintable()


def test_a_mistake_in_the_program_is_not_hidden(shell: Shell) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    shell.engine = Engine(broken)
    with pytest.raises(ZeroDivisionError):
        shell.run(URL, "d")


# ----------------------------------------------------------------------------------- JSON


def test_a_result_is_a_json_object_on_standard_output(shell: Shell) -> None:
    assert shell.run("--json", URL, "d") == 0
    record = json.loads(shell.out)
    assert (record["dest"], record["size"], record["resumed"]) == ("d", 2_000_000_000, 0)


def test_a_failure_is_a_json_object_with_an_error(shell: Shell) -> None:
    shell.engine.errors[URL] = HttpStatusError(URL, 404, "Not Found")
    assert shell.run("--json", URL, "d") == 1
    record = json.loads(shell.out)
    assert record["error_type"] == "HttpStatusError"
    assert record["error"].startswith("HTTP status 404")


def test_the_result_keeps_out_of_the_bytes(shell: Shell) -> None:
    assert shell.run("--json", "--log-level=error", URL, "-") == 0
    assert shell.out == ""
    assert json.loads(shell.err)["dest"] == "-"


# ------------------------------------------------------------------------------- a manifest


MANIFEST = f"http://h/a a.bin\n# b is large\nhttp://h/b b.bin {MD5}\n"


def test_a_manifest_is_its_jobs(shell: Shell) -> None:
    Path("list.txt").write_text(MANIFEST)
    assert shell.run("multifile", "list.txt", "--max-concurrent-files", "2") == 0
    assert shell.engine.jobs == [
        Job("http://h/a", "a.bin"),
        Job("http://h/b", "b.bin", Checksum.parse(MD5)),
    ]
    assert shell.engine.settings.max_concurrent_files == 2
    assert shell.engine.fail_fast is False
    (line,) = shell.err.splitlines()
    assert line.startswith('[ Metrics ] file_count=2 total_bytes_downloaded="4.0 GB" bytes_per')


def test_a_manifest_may_come_by_standard_input(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(MANIFEST.encode())))
    assert shell.run("-f", "multifile", "-", "--fail-fast") == 0
    assert len(shell.engine.jobs) == 2
    assert shell.engine.fail_fast is True


def test_a_manifest_by_standard_input_that_is_closed_is_a_usage_error(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert shell.run("multifile", "-") == 2
    assert shell.err == "pgetpy: standard input: it is closed\n"


def test_failures_end_in_a_table(shell: Shell) -> None:
    Path("list.txt").write_text("http://h/a?token=hunter2 a.bin\nhttp://h/b b.bin\n")
    shell.engine.errors["http://h/a?token=hunter2"] = HttpStatusError(
        "http://h/a?token=hunter2", 404, "Not Found"
    )
    assert shell.run("multifile", "--json", "list.txt") == 1
    heading, row, metrics = shell.err.splitlines()
    assert heading == "pgetpy: 1 of 2 files failed:"
    expected = ["a.bin", "http://h/a?token=***", "HTTP status 404 (Not Found); check the URL"]
    assert row.split(maxsplit=2) == expected
    assert "file_count=1 " in metrics
    records = [json.loads(line) for line in shell.out.splitlines()]
    assert ["error" in record for record in records] == [True, False]


def test_a_destination_of_a_manifest_that_exists_is_an_error_with_its_line(shell: Shell) -> None:
    Path("list.txt").write_text(MANIFEST)
    Path("b.bin").touch()
    line = shell.refuses("multifile", "list.txt", status=1)
    assert line.startswith("destination b.bin already exists (list.txt:3)")
    assert shell.run("multifile", "-f", "list.txt") == 0


def test_weights_in_place_of_a_manifest_are_not_read_into_memory(
    shell: Shell, tmp_path: Path
) -> None:
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(1 << 40)
    assert shell.run("multifile", str(tmp_path / "weights")) == 2
    assert shell.err == f"pgetpy: {tmp_path}/weights: it has more than 256 MiB\n"


def test_a_bad_line_of_a_manifest_is_an_error_with_its_place(shell: Shell) -> None:
    Path("list.txt").write_text("http://h/a?token=hunter2 a\nhttp://h/b a\n")
    assert shell.refuses("multifile", "list.txt").startswith("list.txt:2: duplicate destination a")


def test_a_folder_that_exists_takes_several_files_of_a_manifest(shell: Shell) -> None:
    os.mkdir("d")
    Path("list.txt").write_text("http://h/a d\nhttp://h/b d\n")
    assert shell.run("multifile", "list.txt") == 0
    assert len(shell.engine.jobs) == 2


def test_a_repeated_line_of_a_manifest_is_warned_of(shell: Shell) -> None:
    Path("list.txt").write_text("http://h/a a\nhttp://h/a a\n")
    assert shell.run("multifile", "list.txt") == 0
    assert len(shell.engine.jobs) == 1
    assert "warning: list.txt:2: http://h/a to a is there already; skipped" in shell.err


# ----------------------------------------------------------------------------- interruption


def interrupted_by(error: BaseException | int, *events: Any) -> Engine:
    def interrupt(progress: Any) -> None:
        for event in events:
            progress(event)
        if isinstance(error, int):
            os.kill(os.getpid(), error)
        else:
            raise error

    return Engine(interrupt)


HALF = (Started(1, URL, "d", 2000, 0), Progressed(1, 1000, 2000, 4))


@pytest.mark.parametrize(
    ("cause", "status"),
    [(KeyboardInterrupt(), 130), (signal.SIGTERM, 143)],
)
def test_an_interruption_says_what_is_kept(
    shell: Shell, cause: BaseException | int, status: int
) -> None:
    shell.engine = interrupted_by(cause, *HALF)
    assert shell.run("--progress=none", URL, "d") == status
    assert shell.err == (
        "pgetpy: interrupted; 1.0 kB of 2.0 kB is kept: run the same command to continue\n"
    )


@pytest.mark.parametrize("argv", [["-"], ["d", "--no-resume"], ["d", "-o", "null"]])
def test_an_interruption_promises_nothing_where_nothing_is_kept(
    shell: Shell, argv: list[str]
) -> None:
    shell.engine = interrupted_by(KeyboardInterrupt(), *HALF)
    assert shell.run("--progress=none", URL, *argv) == 130
    assert shell.err == "pgetpy: interrupted\n"


def test_an_interrupted_manifest_counts_the_files(shell: Shell) -> None:
    Path("list.txt").write_text(MANIFEST)
    done = Finished(0, result_of(Job("http://h/a", "a.bin")))
    shell.engine = interrupted_by(KeyboardInterrupt(), Queued(2), done, *HALF)
    assert shell.run("--progress=none", "multifile", "list.txt") == 130
    assert shell.err == (
        "pgetpy: interrupted; 1 of 2 files are finished; "
        "1.0 kB of 2.0 kB of the others is kept: run the same command to continue\n"
    )


def test_the_handler_of_the_process_is_put_back(shell: Shell) -> None:
    before = signal.getsignal(signal.SIGTERM)
    shell.engine = interrupted_by(signal.SIGTERM)
    shell.run(URL, "d")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(), DestinationError("-", "is gone", code=errno.EPIPE)],
)
def test_a_reader_that_has_gone_ends_it_without_a_word(shell: Shell, error: Exception) -> None:
    shell.engine = interrupted_by(error)
    assert shell.run(URL, "-") == 141
    assert shell.err == ""


# -------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    "argv", [["--version"], ["version"], ["-f", "version"], ["a", "--version"]]
)
def test_the_version_is_shown(shell: Shell, argv: list[str]) -> None:
    assert shell.run(*argv) == 0
    assert shell.out == f"pgetpy {pgetpy.__version__}\n"


def test_the_version_needs_no_library() -> None:
    probe = (
        "import sys; from pgetpy.cli import main; main(['--version']); "
        "print(sorted({'asyncio', 'aiohttp', 'tqdm', 'argparse', 'logging'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=50
    )
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "usage"),
    [
        (["--help"], "usage: pgetpy [flags] URL [DEST]"),
        (["-h", URL], "usage: pgetpy [flags] URL [DEST]"),
        (["multifile", "--help"], "usage: pgetpy multifile [flags] MANIFEST|-"),
        (["help", "multifile"], "usage: pgetpy multifile [flags] MANIFEST|-"),
        (["completion", "-h"], "usage: pgetpy completion bash|zsh|fish|powershell"),
        (["version", "--help"], "usage: pgetpy version"),
        (["help"], "usage: pgetpy [flags] URL [DEST]"),
    ],
)
def test_help_is_shown_for_each_command(shell: Shell, argv: list[str], usage: str) -> None:
    assert shell.run(*argv) == 0
    assert shell.out.startswith(usage)
    assert shell.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_person_the_common_flags_alone(shell: Shell, command: str) -> None:
    words = [] if command == "download" else command.split()
    shell.run("help", *words)
    flags = re.findall(r"^  (?:-\w.*)?--([a-z-]+)", shell.out, re.MULTILINE)
    assert len(flags) <= 16
    hidden = sum(command in option.commands for option in OPTIONS) - len(flags)
    assert (f"{' '.join(['pgetpy', *words])} --help all shows {hidden}" in shell.out) == (
        hidden > 0
    )
    shell.run("help", *words, "all")
    everything = shell.out
    shell.run(*words, "--help", "all")
    assert shell.out == everything


def _error_on(environ: dict[str, str], *, terminal: bool) -> str:
    """Return what an error looks like on a terminal, or in a file."""
    import pty

    command = [sys.executable, "-m", "pgetpy", "nonsense"]
    env = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    reader, writer = pty.openpty() if terminal else os.pipe()
    with open(reader, "rb", buffering=0) as screen:
        subprocess.run(command, stderr=writer, env=env | environ, check=False, timeout=50)
        # Until the reading, so that no kernel drops what a closed terminal held.
        text = screen.read(4096).decode()
        os.close(writer)
    return text.replace("\r\n", "\n")


def test_errors_are_red_on_a_terminal_that_shows_colours() -> None:
    text = _error_on({"TERM": "xterm"}, terminal=True)
    assert re.fullmatch(r"\x1b\[31mpgetpy: [^\x1b]+\x1b\[0m\n", text)


@pytest.mark.parametrize(
    ("environ", "terminal"),
    [
        ({"TERM": "xterm", "NO_COLOR": "1"}, True),
        ({"TERM": "dumb"}, True),
        ({}, True),
        ({"TERM": "xterm"}, False),
    ],
)
def test_errors_are_plain_elsewhere(environ: dict[str, str], terminal: bool) -> None:
    text = _error_on(environ, terminal=terminal)
    assert text.startswith("pgetpy: ")
    assert "\x1b" not in text


def test_help_names_every_flag_of_its_command(shell: Shell) -> None:
    for command in COMMANDS:
        shell.run("help", *(() if command == "download" else command.split()), "all")
        for option in OPTIONS:
            row = rf"^  (-\w.*)?--{option.name}(?![\w-])"
            named = re.search(row, shell.out, re.MULTILINE) is not None
            assert named == (command in option.commands), (command, option.name)


@pytest.mark.parametrize("shell_name", SHELLS)
def test_a_completion_script_names_every_flag(shell: Shell, shell_name: str) -> None:
    assert shell.run("completion", shell_name) == 0
    for option in OPTIONS:
        if not option.deprecated:
            assert option.name in shell.out


def test_bash_completes_flags_and_their_values(shell: Shell, tmp_path: Path) -> None:
    shell.run("completion", "bash")
    probe = (
        "COMP_WORDS=(pgetpy --chunk); COMP_CWORD=1; _pgetpy; echo ${COMPREPLY[*]}\n"
        "COMP_WORDS=(pgetpy --progress p); COMP_CWORD=2; _pgetpy; echo ${COMPREPLY[*]}\n"
        "COMP_WORDS=(pgetpy mul); COMP_CWORD=1; _pgetpy; echo ${COMPREPLY[*]}\n"
    )
    script = tmp_path / "probe.bash"
    script.write_text(f"set -u\n{shell.out}\n{probe}")
    said = subprocess.run(["bash", script], capture_output=True, text=True, check=True, timeout=50)
    assert said.stdout.splitlines() == ["--chunk-size", "plain", "multifile"]
    assert said.stderr == ""


def test_a_file_that_went_on_says_how_much_was_there(shell: Shell) -> None:
    class Resuming(Engine):
        def download_job(self, job: Job, **rest: Any) -> DownloadResult:
            return replace(super().download_job(job, **rest), resumed=10**9)

    shell.engine = Resuming()
    shell.run(URL, "d")
    assert 'resumed="1.0 GB"' in shell.err
