"""The command line of the cache: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.cache.store import Store
from pgetpy.cli import main
from pgetpy.cli.command_table import CACHE_COMMANDS, SHELLS
from pgetpy.cli.option_table import OPTIONS
from pgetpy.core.cache.records import About
from pgetpy.core.text.units import format_age, parse_age
from pgetpy.errors import BadSettingError, CacheFullError
from pgetpy.settings import Settings
from pgetpy.settings.cache_settings import CacheSettings
from tests.support.bodies import body, digest
from tests.support.children import events_of, last_line
from tests.support.entries import content_of, key_of, put, sha256
from tests.support.faults import SilenceAfter
from tests.support.processes import Run, folder_of_nobody, limited_tmpfs, run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

NOWHERE = "http://127.0.0.1:9/gone.safetensors"


def weights(size: int = 3000, seed: str = "v1") -> bytes:
    """A safetensors file with one tensor of `size` bytes."""
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(head)) + head + body(size, seed)


def tar_of(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


class Shell:
    """Runs the command line on a cache of its own and keeps what it said."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.environ = {"PGET_CACHE_DIR": str(root), "PGET_MIN_DISK_FREE": "0"}
        self.out = self.err = ""
        self._capsys = capsys

    def run(self, *argv: str) -> int:
        status = main(argv, environ=self.environ)
        self.out, self.err = self._capsys.readouterr()
        assert "hunter2" not in self.out + self.err
        assert "Traceback" not in self.err
        return status

    def lines(self, *argv: str, status: int = 0) -> list[str]:
        assert self.run(*argv) == status, self.err
        return self.out.splitlines()

    def records(self, *argv: str, status: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(*argv, "--json", status=status)]

    def refuses(self, *argv: str, status: int = 1) -> str:
        """Return the one line that says why `argv` is not carried out."""
        assert self.run(*argv) == status
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("pgetpy: ")
        return line.removeprefix("pgetpy: ")


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "cache", capsys)


@pytest.fixture
def store(shell: Shell) -> Store:
    return Store(shell.root)


def age(store: Store, name: object, seconds: float) -> None:
    """Make the last use of entry `name` so long ago."""
    store.close()
    record = store.root / "entries" / key_of(name)[:2] / key_of(name)
    used = record.stat().st_mtime - seconds
    os.utime(record, (used, used))


def flip(path: str | Path) -> None:
    """Change one byte of a file in place."""
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


# ------------------------------------------------------------------------------------------ ensure


def test_paths_are_printed_in_the_order_given(shell: Shell, server: Server) -> None:
    urls = [
        server.add(f"/{name}.safetensors", Resource(weights(seed=name))) for name in ("b", "a", "c")
    ]
    lines = shell.lines("ensure", *urls, urls[0])
    found = [Path(line).read_bytes() for line in lines]
    assert found == [weights(seed=name) for name in ("b", "a", "c", "b")]
    assert all(line.endswith(".safetensors") for line in lines)


def test_what_is_there_is_not_fetched_again(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    first = shell.lines("ensure", url)
    asked = len(server.requests)
    assert shell.lines("cache", "ensure", url) == first
    assert len(server.requests) == asked
    assert shell.err == ""


def test_a_digest_is_known_when_ensure_has_ended(shell: Shell, tmp_path: Path) -> None:
    # Large enough that hashing it in the background takes longer than ending.
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.write(b"\xff")
        file.truncate(100_000_000)
    shell.run("ensure", large.as_uri())
    (entry,) = shell.records("cache", "ls")
    assert entry["digest"] == f"sha256:{digest(large.read_bytes())}"
    assert not entry["pending"]


def test_each_reference_is_a_json_line(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    secret = f"{url}?X-Amz-Signature=hunter2"
    first, second = shell.records("ensure", url, secret)
    assert Path(first["path"]).read_bytes() == weights()
    assert (first["reference"], first["key"]) == (url, second["key"])
    assert second["reference"].endswith("X-Amz-Signature=***")


def test_a_reference_that_cannot_be_had_is_one_line_and_no_path(
    shell: Shell, server: Server
) -> None:
    shell.run("ensure", server.add("/a.safetensors", Resource(weights())))
    line = shell.refuses("ensure", server.url("/none.safetensors"))
    assert line.startswith("HTTP status 404")


def test_of_several_with_a_failure_programs_learn_of_each(shell: Shell, server: Server) -> None:
    good = server.add("/a.safetensors", Resource(weights()))
    shell.run("ensure", good)
    bad = server.url("/none.safetensors")
    there, failed = shell.records("ensure", good, bad, status=1)
    assert Path(there["path"]).read_bytes() == weights()
    assert (failed["reference"], failed["error_type"]) == (bad, "HttpStatusError")
    assert "path" not in failed


def test_a_page_is_not_taken_for_weights(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(b"<html>sign in</html>"))
    assert shell.run("ensure", url) == 1
    assert "is not a weights file but a page, which says 'sign in'" in shell.err
    assert shell.records("cache", "ls") == []


def test_any_file_is_taken_where_that_is_asked_for(shell: Shell, server: Server) -> None:
    url = server.add("/config.json", Resource(b"{}"))
    assert shell.run("ensure", url) == 1
    assert "--any-file" in shell.err
    (path,) = shell.lines("ensure", "--any-file", url)
    assert Path(path).read_bytes() == b"{}"


def test_a_digest_is_demanded(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    assert shell.run("ensure", "--digest", "0" * 64, url) == 1
    assert "checksum mismatch" in shell.err
    assert shell.run("ensure", "--digest", digest(weights()), url) == 0


def test_what_is_wanted_of_an_archive_is_chosen(shell: Shell, server: Server) -> None:
    members = {"a.safetensors": weights(), "b.txt": b"words"}
    url = server.add("/pack.tar", Resource(tar_of(members)))
    (path,) = shell.lines("ensure", url)
    assert Path(path).read_bytes() == weights()
    (folder,) = shell.lines("ensure", "--wanted", "folder", url)
    assert sorted(os.listdir(folder)) == sorted(members)
    assert f"{url} (folder)" in "\n".join(shell.lines("cache", "ls"))


def test_the_server_is_asked_for_a_new_version_where_that_is_wanted(
    shell: Shell, server: Server
) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    shell.run("ensure", url)
    server.change("/a.safetensors", body=weights(seed="v2"), etag='"v2"')
    (old,) = shell.lines("ensure", url)
    assert Path(old).read_bytes() == weights()
    (new,) = shell.lines("ensure", "--refresh", url)
    assert Path(new).read_bytes() == weights(seed="v2")


def test_a_cache_that_is_too_small_is_one_sentence(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    line = shell.refuses("ensure", "--max-bytes", "1k", url)
    assert "is full: " in line
    assert "downloads under way" not in line


def test_progress_calls_files_by_their_names(shell: Shell, server: Server) -> None:
    urls = [server.add(f"/{name}.safetensors", Resource(weights(seed=name))) for name in "ab"]
    assert shell.run("ensure", "--progress", "json", *urls) == 0
    events = [json.loads(line) for line in shell.err.splitlines()]
    assert events[0]["event"] == "queued"
    assert events[0]["files"] == 2
    started = {event["key"]: event["dest"] for event in events if event["event"] == "started"}
    assert started == {0: "a.safetensors", 1: "b.safetensors"}
    finished = [event for event in events if event["event"] == "finished"]
    assert {event["result"]["dest"] for event in finished} == {"a.safetensors", "b.safetensors"}


def test_what_is_refused_after_it_came_is_told_as_failed(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(b"<html></html>"))
    shell.run("ensure", "--progress", "json", url)
    told = [json.loads(line)["event"] for line in shell.err.splitlines() if line.startswith("{")]
    assert "failed" in told
    assert "finished" not in told


def test_a_failure_is_told_once(shell: Shell, server: Server) -> None:
    shell.run("ensure", "--progress", "json", server.url("/none.safetensors"))
    told = [json.loads(line) for line in shell.err.splitlines() if line.startswith("{")]
    (failed,) = [event for event in told if event["event"] == "failed"]
    assert failed["dest"] == "none.safetensors"


# ---------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["ensure"], "expected REF..., got nothing"),
        (["ensure", "model.safetensors"], "cannot use 'model.safetensors'"),
        (["ensure", "--wanted", "all", NOWHERE], "--wanted 'all'"),
        (["ensure", "--digest", "12", NOWHERE], "sha256 has 64 hex digits"),
        (["ensure", "--digest", "0" * 64, NOWHERE, f"{NOWHERE}2"], "--digest is for one REF"),
        (["ensure", "--min-disk-free", "much", NOWHERE], "--min-disk-free 'much'"),
        (["ensure", "--max-bytes", "0", NOWHERE], "--max-bytes '0'"),
        (["ensure", "--older-than", "3d", NOWHERE], "cannot use --older-than with pgetpy ensure"),
        (["ensure", "--force", NOWHERE], "cannot use --force with pgetpy ensure"),
        (["cache"], "expected one of ls, info, path, "),
        (["cache", "list"], "got list"),
        (["cache", "ls", NOWHERE], "takes no REF"),
        (["cache", "ls", "--digest", "12"], "cannot use --digest with pgetpy cache ls"),
        (["cache", "rm"], "expected REF..., got nothing; see pgetpy cache rm --help"),
        (["cache", "pin", "nonsense"], "cannot use 'nonsense'"),
        (["cache", "path", "abc"], "give at least 8 digits of the key"),
        (["cache", "prune"], "expected --older-than TIME"),
        (["cache", "prune", "--older-than", "long"], "--older-than 'long'"),
        ([NOWHERE, "dest", "--digest", "12"], "cannot use --digest with a single URL"),
        (["help", "cache", "lost"], "there is no command 'cache lost'"),
    ],
)
def test_nonsense_is_refused_in_one_line_and_makes_no_cache(
    shell: Shell, argv: list[str], words: str
) -> None:
    assert words in shell.refuses(*argv, status=2)
    assert not shell.root.exists()


def test_every_flag_of_the_cache_settings_has_its_variable(tmp_path: Path) -> None:
    own = {option.variable for option in OPTIONS if option.section == "CacheSettings"}
    environ = {
        "PGET_CACHE_DIR": str(tmp_path),
        "PGET_MIN_DISK_FREE": "5G",
        "PGET_MAX_BYTES": "7Gi",
        "PGET_CACHE_REMOTE": "s3://bucket/tier",
        "PGET_CACHE_REMOTE_MODE": "read",
        "PGET_CACHE_REMOTE_MAX_AGE": "2h",
        "PGET_CACHE_LOWER": "/src/weights",
    }
    assert own == environ.keys()
    settings = CacheSettings.from_environment(environ)
    remote = ("s3://bucket/tier", "read", 7200.0)
    assert settings == CacheSettings(
        tmp_path, 5 * 10**9, 7 << 30, *remote, lower=(Path("/src/weights"),)
    )
    assert settings.with_flags({"max-bytes": "1k"}).max_bytes == 1000


def test_a_variable_that_makes_no_sense_is_named(shell: Shell) -> None:
    shell.environ["PGET_MAX_BYTES"] = "much"
    assert shell.refuses("cache", "info", status=2).startswith("PGET_MAX_BYTES 'much'")


def test_a_flag_goes_before_its_variable(shell: Shell, tmp_path: Path) -> None:
    (info,) = shell.records("cache", "info", "--cache-dir", str(tmp_path / "b"))
    assert info["folder"] == str(tmp_path / "b")


@pytest.mark.parametrize("command", ["ensure", *(f"cache {name}" for name in CACHE_COMMANDS)])
def test_help_names_the_flags_of_each_command(shell: Shell, command: str) -> None:
    assert shell.run(*command.split(), "--help", "all") == 0
    assert shell.out.startswith(f"usage: pgetpy {command} ")
    for option in OPTIONS:
        named = re.search(rf"--{option.name}(?![\w-])", shell.out) is not None
        assert named == (command in option.commands)
    by_flag = shell.out
    assert shell.lines("help", *command.split(), "all") == by_flag.splitlines()
    assert not shell.root.exists()


def test_help_lists_the_commands_of_the_cache(shell: Shell) -> None:
    shell.run("cache", "--help")
    assert all(f"\n  {name} " in shell.out for name in CACHE_COMMANDS)


@pytest.mark.parametrize("shell_name", SHELLS)
def test_completion_scripts_name_the_commands(shell: Shell, shell_name: str) -> None:
    shell.run("completion", shell_name)
    assert all(re.search(rf"\b{name}\b", shell.out) for name in ("ensure", *CACHE_COMMANDS))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cache pr", "prune"),
        ("help ens", "ensure"),
        ("put --ca", "--cacert --cache-control"),
        ("cache prune --o", "--older-than"),
        ("https://example.com/x --ext", "--extract"),
        ("cache --he", "--help"),
        ("--progress pl", "plain"),
        ("--progress = pl", "plain"),
        ("--output =", "file null tar-extractor"),
    ],
)
def test_bash_completes_what_the_command_takes(
    shell: Shell, tmp_path: Path, words: str, offered: str
) -> None:
    shell.run("completion", "bash")
    count = len(words.split())
    probe = f"COMP_WORDS=(pgetpy {words}); COMP_CWORD={count}; _pgetpy; echo ${{COMPREPLY[*]}}"
    script = tmp_path / "probe.bash"
    script.write_text(f"set -u\n{shell.out}\n{probe}")
    said = subprocess.run(["bash", script], capture_output=True, text=True, check=True, timeout=50)
    assert (said.stdout, said.stderr) == (f"{offered}\n", "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30d", 2592000),
        ("2w", 1209600),
        ("1w1d", 691200),
        ("1d12h", 129600),
        ("90m", 5400),
        ("5", 5),
    ],
)
def test_ages_are_read_in_days_and_weeks_as_well(text: str, seconds: float) -> None:
    assert parse_age(text, name="--older-than") == seconds


@pytest.mark.parametrize("text", ["", "d", "1.5d", "-1d", "3y", "12hd"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(BadSettingError):
        parse_age(text, name="--older-than")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (59.9, "59s"), (60, "1m"), (7200, "2h"), (90000 * 40, "41d")]
)
def test_ages_are_shown_in_one_unit(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


# --------------------------------------------------------------------------------------- looking


@pytest.mark.parametrize("command", ["ls", "verify", "gc", "info"])
def test_looking_at_a_cache_that_is_not_there_makes_none(shell: Shell, command: str) -> None:
    assert shell.run("cache", command) == 0
    assert shell.out
    assert not shell.root.exists()


def test_an_empty_cache_is_a_friendly_sentence(shell: Shell, store: Store) -> None:
    (line,) = shell.lines("cache", "ls")
    assert line == f"The cache at {store.root} is empty: pgetpy ensure URL puts weights there."
    assert shell.lines("cache", "ls", "--json") == []


def test_ls_is_a_table_with_what_was_used_last_first(shell: Shell, store: Store) -> None:
    for name in ("old", "new"):
        put(store, name, size=2000)
    age(store, "old", 3 * 86400)
    heading, first, second, blank, sums = shell.lines("cache", "ls")
    assert heading.split() == ["KEY", "REFERENCE", "SIZE", "AGE", "LAST", "USE", "STATE"]
    assert first.split()[:4] == [key_of("new")[:8], "https://host/new", "2.0", "kB"]
    assert second.split()[-3:] == ["3d", "ago", "pending"]
    assert blank == ""
    assert sums.startswith("2 entries, 4.0 kB; ")
    starts = {
        line.index(word)
        for line, word in zip((heading, first, second), ("REF", "http", "http"), strict=True)
    }
    assert len(starts) == 1


def test_states_say_what_is_wrong_and_who_holds_an_entry(shell: Shell, store: Store) -> None:
    for name in ("sound", "pending", "pinned", "leased", "used", "damaged"):
        put(store, name)
        if name != "pending":
            store.settle(key_of(name))
    store.pin(key_of("pinned"))
    flip(store.root.glob(f"entries/*/{key_of('damaged')}.*").__next__())
    store.verify(key_of("damaged"))
    with Store(shell.root) as other, other.lease(key_of("leased")):
        other.lookup(key_of("used"))
        lines = shell.lines("cache", "ls")
    states = {
        line.split()[1].rpartition("/")[2]: re.split(r"  +", line)[-1]
        for line in lines
        if "host" in line
    }
    assert states == {
        "sound": "sound",
        "pending": "pending",
        "pinned": "pinned",
        "leased": "leased",
        "used": "in use",
        "damaged": "damaged",
    }
    assert "(1.0 kB pinned, 1.0 kB leased)" in lines[-1]


def test_equal_content_counts_once_and_that_is_said(shell: Shell, store: Store) -> None:
    data = b"x" * 3000
    for name in ("a", "b"):
        put(store, name, data, digest=f"sha256:{digest(data)}")
    assert "2 entries, 3.0 kB; " in shell.lines("cache", "ls")[-1]
    assert shell.out.endswith("what is equal is stored once\n")


def test_the_table_fits_a_terminal(shell: Shell, store: Store) -> None:
    put(store, "a/rather/long/name/" + "x" * 200 + "/end")
    child = "import os, sys, pgetpy.cli; sys.exit(pgetpy.cli.main())"
    for columns in (80, 120):
        said = _in_terminal([sys.executable, "-c", child, "cache", "ls"], columns, shell.environ)
        table = said.splitlines()[:2]
        assert max(map(len, table)) <= columns
        assert "…" in table[1]
        assert "/end" in table[1]


def _in_terminal(command: list[str], columns: int, extra: dict[str, str]) -> str:
    """What `command` writes to a terminal so wide."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(command, stdout=theirs, env={**environ, **extra}) as running:
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 65536):
                said += block
        except OSError:  # how Linux says that the other side has closed it
            pass
        os.close(ours)
    assert running.returncode == 0
    return said.decode()


def test_words_of_a_reference_do_not_steer_the_terminal(shell: Shell, store: Store) -> None:
    put(store, "\x1b[2J")
    assert all(line.isprintable() for line in shell.lines("cache", "ls"))


def test_info_says_what_it_takes_and_its_bounds(shell: Shell, store: Store) -> None:
    put(store, "a", size=5000)
    store.pin(key_of("a"))
    facts = dict(line.split(maxsplit=1) for line in shell.lines("cache", "info"))
    assert (facts["folder"], facts["entries"]) == (str(shell.root), "1")
    assert (facts["stored"], facts["pinned"], facts["leased"]) == ("5.0 kB", "5.0 kB", "0 B")
    assert facts["digests"] == "1 to be computed"
    shell.lines("cache", "info", "--max-bytes", "3k", "--min-disk-free", "1E")
    assert re.search(r"at least 1.0 EB free on the disk \(.+ short\), at most 3.0 kB", shell.out)
    assert "(2.0 kB over)" in shell.out


def test_info_for_programs_has_every_number(shell: Shell, store: Store) -> None:
    put(store, "a", size=5000)
    (info,) = shell.records("cache", "info", "--max-bytes", "1M")
    assert info.pop("free") > 0
    assert info == {
        "folder": str(shell.root),
        "entries": 1,
        "stored": 5000,
        "pinned": 0,
        "leased": 0,
        "partial": 0,
        "pending": 1,
        "min_disk_free": 0,
        "max_bytes": 10**6,
    }


def test_path_says_where_it_is_and_asks_nobody(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    lines = shell.lines("ensure", url)
    server.stop()
    assert shell.lines("cache", "path", url) == lines
    assert shell.lines("cache", "path", shell.records("cache", "ls")[0]["key"][:8]) == lines


def test_path_is_a_use(shell: Shell, store: Store) -> None:
    for name in ("a", "b"):
        put(store, name)
    age(store, "a", 1000)
    shell.lines("cache", "path", key_of("a")[:10])
    assert [each["key"] for each in shell.records("cache", "ls")] == [key_of("a"), key_of("b")]


def test_the_path_of_what_is_not_there_is_a_failure(shell: Shell) -> None:
    assert "has no http://127.0.0.1:9/gone" in shell.refuses("cache", "path", NOWHERE)
    assert not shell.root.exists()


def test_the_path_of_what_is_damaged_is_not_shown(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    (path,) = shell.lines("ensure", url)
    Path(path).write_bytes(b"short")
    assert "is damaged; pgetpy cache verify" in shell.refuses("cache", "path", url)


def test_the_path_of_what_another_signature_fetched_is_not_shown(
    shell: Shell, server: Server
) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    mine, other = (f"{url}?X-Amz-Signature={word}" for word in ("hunter2", "guess"))
    assert shell.run("ensure", mine) == 0
    assert shell.run("cache", "path", mine) == 0
    assert "has no" in shell.refuses("cache", "path", other)


# ---------------------------------------------------------------------------------------- upkeep


def test_entries_are_removed_by_reference_or_by_key(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    shell.run("ensure", url)
    put(Store(shell.root), "b")
    assert shell.lines("cache", "rm", url, key_of("b")[:8].upper()) == [
        f"removed {url}, 3.1 kB",
        "removed https://host/b, 1.0 kB",
    ]
    assert shell.records("cache", "ls") == []


def test_removing_goes_on_behind_what_is_not_there(shell: Shell, store: Store) -> None:
    put(store, "b")
    missing, removed = shell.records("cache", "rm", NOWHERE, key_of("b"), status=1)
    assert missing["error_type"] == "CacheError"
    assert (removed["key"], removed["size"]) == (key_of("b"), 1000)
    assert len(shell.err.splitlines()) == 1


def test_what_is_held_is_not_removed_and_the_holder_named(shell: Shell, store: Store) -> None:
    put(store, "a")
    with store.lease(key_of("a")):
        line = shell.refuses("cache", "rm", key_of("a"))
        assert f"held by process {os.getpid()} on " in line
    store.pin(key_of("a"))
    assert "held by a pin" in shell.refuses("cache", "rm", key_of("a"))


def test_a_key_that_is_not_there_or_not_one_is_refused(shell: Shell, store: Store) -> None:
    put(store, "a")
    assert "has no key 00000000" in shell.refuses("cache", "rm", "00000000")
    twin = key_of("a")[:8] + "0" * 56
    fill = store.try_fill(twin)
    assert fill is not None
    with fill:
        (fill.folder / "x").write_bytes(b"x")
        fill.publish(fill.folder / "x", About("https://host/twin"))
    line = shell.refuses("cache", "rm", key_of("a")[:8], status=2)
    assert f"2 keys begin with {key_of('a')[:8]!r}: give more digits" in line
    assert shell.run("cache", "rm", key_of("a")[:20]) == 0


def test_pins_are_kept_and_taken_back(shell: Shell, store: Store) -> None:
    put(store, "a")
    assert shell.lines("cache", "pin", key_of("a")[:8]) == ["pinned https://host/a"]
    (entry,) = shell.records("cache", "ls")
    assert entry["pinned"]
    assert shell.lines("cache", "unpin", key_of("a")[:8]) == ["unpinned https://host/a"]
    assert shell.lines("cache", "unpin", key_of("a")[:8]) == ["https://host/a was not pinned"]


def test_what_is_not_there_yet_can_be_pinned(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    assert "will be kept once it is" in shell.lines("cache", "pin", url)[0]
    shell.run("ensure", url)
    (entry,) = shell.records("cache", "ls")
    assert entry["pinned"]


def test_prune_removes_what_was_not_used_for_long(shell: Shell, store: Store) -> None:
    for name in ("old", "pinned", "new"):
        put(store, name, size=2000)
    store.pin(key_of("pinned"))
    for name in ("old", "pinned"):
        age(store, name, 40 * 86400)
    assert shell.lines("cache", "prune", "--older-than", "30d") == [
        "removed 1 entry, 2.0 kB: not used for 30d"
    ]
    assert {each["key"] for each in shell.records("cache", "ls")} == {
        key_of("pinned"),
        key_of("new"),
    }
    (line,) = shell.lines("cache", "prune", "--older-than", "30d")
    assert line.startswith("nothing to remove")


def test_prune_leaves_what_is_leased(shell: Shell, store: Store) -> None:
    for name in ("leased", "free"):
        put(store, name)
    with Store(shell.root) as other, other.lease(key_of("leased")):
        (gone,) = shell.records("cache", "prune", "--older-than", "0s")
    assert gone["key"] == key_of("free")


def test_gc_brings_the_cache_back_to_its_bounds(shell: Shell, store: Store) -> None:
    for name in "abc":
        put(store, name, size=10_000)
    age(store, "a", 100)
    store.close()
    evicted, now = shell.lines("cache", "gc", "--max-bytes", "25k")
    assert evicted == "evicted  10 kB, the least recently used"
    assert now.startswith("now      2 entries, 20 kB; ")
    assert key_of("a") not in {each["key"] for each in shell.records("cache", "ls")}


def test_gc_with_nothing_to_gain_says_so(shell: Shell, store: Store) -> None:
    put(store, "a")
    store.close()
    first, _ = shell.lines("cache", "gc")
    assert first == "nothing to do: the cache is within its limits"


def test_gc_sweeps_what_was_left_and_says_how_much(shell: Shell, store: Store) -> None:
    fill = store.try_fill(key_of("a"))
    assert fill is not None
    with fill:
        (fill.folder / "object").write_bytes(bytes(1 << 20))
    kept, *_ = shell.lines("cache", "gc")
    assert kept.startswith("kept     1.")
    (told,) = shell.records("cache", "gc", "--older-than", "0s")
    assert told["swept"] >= 1 << 20
    assert told["partial"] == 0


def test_gc_that_cannot_be_is_one_sentence_with_who_holds_what(shell: Shell, store: Store) -> None:
    put(store, "a", size=5000)
    store.pin(key_of("a"))
    line = shell.refuses("cache", "gc", "--max-bytes", "1k")
    assert "would not bring it within its limits; held by pins 5000" in line


# ---------------------------------------------------------------------------------------- verify


def test_what_is_sound_is_said_so(shell: Shell, store: Store) -> None:
    put(store, "a", digest=sha256(content_of("a")))
    line, sums = shell.lines("cache", "verify")
    assert line.split() == ["sound", key_of("a")[:8], "https://host/a"]
    assert sums == "1 entry: 1 sound"
    assert not shell.records("cache", "ls")[0]["pending"]


def test_what_is_damaged_is_repaired_and_that_is_a_failure_once(
    shell: Shell, server: Server
) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    (path,) = shell.lines("ensure", url)
    flip(path)
    line, sums = shell.lines("cache", "verify", status=1)
    assert line.split(maxsplit=3)[0::3] == ["damaged", "downloaded again"]
    assert sums == "1 entry: 1 damaged; 1 of 1 repaired"
    (again,) = shell.lines("cache", "path", url)
    assert Path(again).read_bytes() == weights()
    assert shell.run("cache", "verify", url) == 0


def test_a_json_file_that_was_taken_is_repaired_as_well(shell: Shell, server: Server) -> None:
    url = server.add("/config.json", Resource(b"{}"))
    (path,) = shell.lines("ensure", "--any-file", url)
    flip(path)
    (told,) = shell.records("cache", "verify", status=1)
    assert (told["verdict"], told["repaired"]) == ("damaged", True)


def test_what_cannot_be_fetched_anew_is_said_with_its_reason(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    flip(shell.lines("ensure", url)[0])
    server.remove("/a.safetensors")
    line, sums = shell.lines("cache", "verify", status=1)
    assert "not repaired: HTTP status 404" in line
    assert sums.endswith("0 of 1 repaired")


def test_what_needs_a_secret_is_repaired_by_its_url_alone(shell: Shell, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights())) + "?X-Amz-Signature=hunter2"
    flip(shell.lines("ensure", url)[0])
    (told,) = shell.records("cache", "verify", status=1)
    assert not told["repaired"]
    assert "pgetpy cache verify URL repairs it" in told["error"]
    (told,) = shell.records("cache", "verify", url, status=1)
    assert told["repaired"]


def test_verifying_what_is_not_there_is_a_failure(shell: Shell) -> None:
    assert shell.run("cache", "verify", NOWHERE) == 1
    assert "has no http://127.0.0.1:9/gone" in shell.err


# ------------------------------------------------------------------------------ caches in trouble


EACH = [
    ["ensure", NOWHERE],
    ["cache", "ls"],
    ["cache", "info"],
    ["cache", "path", NOWHERE],
    ["cache", "rm", NOWHERE],
    ["cache", "verify"],
    ["cache", "gc"],
    ["cache", "pin", NOWHERE],
    ["cache", "unpin", NOWHERE],
    ["cache", "prune", "--older-than", "1d"],
]


@pytest.mark.parametrize("argv", EACH, ids=lambda argv: " ".join(argv[:2]))
def test_a_cache_of_another_layout_is_left_alone(shell: Shell, argv: list[str]) -> None:
    shell.root.mkdir()
    (shell.root / "layout").write_text("pgetpy cache 99\n")
    assert "has a layout that this release does not know ('pgetpy cache 99')" in shell.refuses(
        *argv
    )
    assert os.listdir(shell.root) == ["layout"]


@pytest.mark.parametrize("argv", EACH, ids=lambda argv: " ".join(argv[:2]))
def test_a_cache_whose_place_is_taken_by_a_file_is_one_sentence(
    shell: Shell, argv: list[str]
) -> None:
    shell.root.write_text("mine")
    assert f"the cache at {shell.root} cannot be" in shell.refuses(*argv)
    assert shell.root.read_text() == "mine"


def test_a_failure_of_the_whole_cache_is_told_to_programs(shell: Shell) -> None:
    shell.root.write_text("mine")
    (told,) = shell.records("cache", "ls", status=1)
    assert told["error_type"] == "CacheError"
    (told,) = shell.records("ensure", NOWHERE, status=1)
    assert (told["reference"], told["error_type"]) == (NOWHERE, "CacheError")


def test_a_cache_that_may_not_be_written_is_read(server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    with folder_of_nobody() as place:
        root = place / "cache"
        env = {"PGET_CACHE_DIR": str(root), "PGET_MIN_DISK_FREE": "0"}
        made = run("ensure", url, env=env)
        assert made.code == 0, made.err
        os.chmod(place, 0o755)
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o555)
        try:
            for argv in (["ensure", url], ["cache", "path", url]):
                ended = run(*argv, env=env, unprivileged=True)
                assert (ended.code, ended.out) == (0, made.out), ended.err
            assert run("cache", "ls", env=env, unprivileged=True).code == 0
            assert run("cache", "info", env=env, unprivileged=True).code == 0
            for argv in (["rm", url], ["gc"], ["pin", url], ["verify"]):
                ended = run("cache", *argv, env=env, unprivileged=True)
                assert ended.code == 1
                assert "cannot be written" in last_line(ended)
        finally:
            for folder, _, _ in os.walk(root):
                os.chmod(folder, 0o755)


def test_a_full_disk_is_one_sentence(server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights(4_000_000)))
    with limited_tmpfs(2 << 20) as place:
        env = {"PGET_CACHE_DIR": str(place / "cache"), "PGET_MIN_DISK_FREE": "0"}
        ended = run("ensure", url, env=env)
        assert (ended.code, ended.out) == (1, "")
        assert re.search(r"is full: 40\d+ bytes needed, \d+ can be freed", last_line(ended))
        (place / "rest").touch()
        with (place / "rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for argv in (["ls"], ["info"], ["path", url], ["verify"]):
            ended = run("cache", *argv, env=env)
            assert "Traceback" not in ended.err
            assert ended.code == (argv[0] == "path")


# ------------------------------------------------------------------------------ real processes


def test_a_second_process_waits_for_the_first(shell: Shell, server: Server) -> None:
    data = weights(3_000_000)
    url = server.add("/a.safetensors", Resource(data))
    env = shell.environ
    command = ("ensure", url, "-c", "1")
    with Run(*command, env=env) as one, Run(*command, env=env) as two:
        ends = [one.wait(), two.wait()]
    assert [ended.code for ended in ends] == [0, 0], ends
    assert ends[0].out == ends[1].out
    assert server.sent("/a.safetensors") <= 1.1 * len(data)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_ensure_says_what_is_kept(
    shell: Shell, server: Server, number: int, status: int
) -> None:
    data = weights(8_000_000)
    url = server.add("/a.safetensors", Resource(data, faults=[SilenceAfter(3_000_000)]))
    with Run("ensure", url, "-c", "1", "--progress", "json", env=shell.environ) as running:
        running.wait_until(
            lambda: any(event["done"] > 2_000_000 for event in events_of(running, "progressed"))
        )
        running.send(number)
        ended = running.wait()
    assert ended.code == status
    assert ended.out == ""
    assert "is kept: run the same command to continue" in last_line(ended)


def test_a_listing_whose_reader_has_gone_ends_without_a_word(shell: Shell, store: Store) -> None:
    put(store, "a")
    command = f"{sys.executable} -m pgetpy cache ls | :; exit ${{PIPESTATUS[0]}}"
    environ = {**os.environ, **shell.environ}
    said = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=environ,
        timeout=50,
        check=False,
    )
    assert said.stderr == ""
    assert said.returncode in (0, 141)


@pytest.mark.parametrize(
    ("argv", "unwanted"),
    [
        (["--version"], ["argparse", "pgetpy.cache.store", "pgetpy.weights.cache"]),
        (["--help"], ["pgetpy.cache.store", "pgetpy.weights.cache"]),
        (["URL", "DEST"], ["pgetpy.cache.store", "pgetpy.weights.cache", "pgetpy.cli.cache"]),
        (
            ["cache", "ls"],
            ["pgetpy.weights.cache", "pgetpy.engine.engine", "asyncio", "aiohttp", "tqdm"],
        ),
    ],
)
def test_commands_import_no_more_than_they_need(
    server: Server, tmp_path: Path, argv: list[str], unwanted: list[str]
) -> None:
    url = server.add("/a", Resource(b"a"))
    given = [{"URL": url, "DEST": str(tmp_path / "a")}.get(word, word) for word in argv]
    probe = (
        "import sys; from pgetpy.cli import main; assert main(sys.argv[2:]) == 0; "
        "print(sorted(set(sys.argv[1].split(',')) & set(sys.modules)))"
    )
    ended = run(",".join(unwanted), *given, program=(sys.executable, "-c", probe))
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "[]"


# ------------------------------------------------------------------------------- from Python


def test_a_look_without_the_network_is_a_call_as_well(tmp_path: Path, server: Server) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    with WeightsDownloadCache(tmp_path / "cache", 0) as cache:
        assert cache.lookup(url) is None
        assert server.requests == []
        path = cache.ensure(url)
        assert cache.lookup(url) == path


def test_bounds_come_from_the_environment_where_none_are_given(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/a.safetensors", Resource(weights()))
    monkeypatch.setenv("PGET_MAX_BYTES", "1k")
    monkeypatch.setenv("PGET_MIN_DISK_FREE", "0")
    with WeightsDownloadCache(tmp_path / "cache") as cache, pytest.raises(CacheFullError):
        cache.ensure(url)
    with WeightsDownloadCache(tmp_path / "cache", max_bytes=10**6) as cache:
        assert cache.ensure(url).read_bytes() == weights()


def test_many_are_not_all_fetched_at_once(tmp_path: Path, server: Server) -> None:
    urls = [server.add(f"/{n}.safetensors", Resource(weights(seed=str(n)))) for n in range(12)]
    settings = Settings(max_concurrent_files=2)
    with WeightsDownloadCache(tmp_path / "cache", 0, settings=settings) as cache:
        assert len(cache.ensure_many(urls)) == 12
    assert server.peak <= 4
