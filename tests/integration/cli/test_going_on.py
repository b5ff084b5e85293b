"""A manifest that was interrupted goes on; what is right already is not fetched again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy.cli import main
from pgetpy.destinations import manifest_journal
from tests.support.bodies import body
from tests.support.children import after
from tests.support.delivery import Gate
from tests.support.faults import GateAfter, Headers, Status, When
from tests.support.fetching import Events, contents, fetch, impatient, names_in
from tests.support.processes import NOBODY, Run, run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

SMALL = body(5_000)
LARGE = body(2_500_001)
SLOW = body(3_000_001, "slow")
DIGEST = f"sha256:{hashlib.sha256(LARGE).hexdigest()}"
WRONG = f"sha256:{'0' * 64}"


def tarball() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("a", b"a" * 2000), ("sub/b", SMALL)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Call:
    """The command line in this process; `out` and `err` are what the last call printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.out = self.err = ""
        self._capfd = capfd

    def __call__(self, *words: str | Path) -> int:
        code = main([str(word) for word in words], environ={})
        self.out, self.err = self._capfd.readouterr()
        assert "Traceback" not in self.err
        return code

    @property
    def skipped(self) -> int:
        """How many files the last call with --json says that it has skipped."""
        return sum(json.loads(line).get("skipped", False) for line in self.out.splitlines())


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """The command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Call(capfd)


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for state."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


class Half:
    """A manifest of which three lines can be carried out, and the last waits at a gate."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.gate = Gate()
        self.server = server
        self.folder = folder
        held = GateAfter(1_200_000, self.gate)
        self.urls = [
            server.add("/small", Resource(SMALL)),
            server.add("/large", Resource(LARGE)),
            server.add("/tar", Resource(tarball())),
            server.add("/slow", Resource(SLOW, faults=[held])),
        ]
        self.text = (
            f"{self.urls[0]} small\n{self.urls[1]} folder/\n{self.urls[2]} tree -x\n"
            f"{self.urls[3]} slow\n"
        )
        (folder / "list").write_text(self.text)

    def stands(self) -> bool:
        """Whether three are finished, which has been noted."""
        notes = [path for path in self.folder.glob(".*.pgetpy-manifest") if path.exists()]
        whole = [self.folder / "small", self.folder / "folder" / "large", self.folder / "tree"]
        named = notes[0].read_text().count('"named": true') if notes else 0
        return all(path.exists() for path in whole) and named >= 3

    def requests(self) -> list[int]:
        return [len(self.server.asked(f"/{name}")) for name in ("small", "large", "tar")]


def interrupted(server: Server, folder: Path, number: int) -> Half:
    """A run of a manifest that ended with signal `number` before the last line."""
    half = Half(server, folder)
    with Run("multifile", "list", cwd=folder) as running:
        running.wait_until(half.stands)
        running.send(number)
        running.process.wait(30)
    half.gate.open()
    return half


# ------------------------------------------------------------------------------- interrupted


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_manifest_goes_on(
    call: Call, server: Server, tmp_path: Path, number: int
) -> None:
    half = interrupted(server, tmp_path, number)
    before = half.requests()
    assert call("multifile", "list", "--json") == 0, call.err
    assert half.requests() == before
    assert call.skipped == 3
    dests = [json.loads(line)["dest"] for line in call.out.splitlines()]
    assert dests[:2] == ["small", "folder/large"]
    assert "skipped=3" in call.err
    assert (tmp_path / "slow").read_bytes() == SLOW
    assert (tmp_path / "folder" / "large").read_bytes() == LARGE
    assert names_in(tmp_path) == ["folder", "list", "slow", "small", "tree"]
    count = len(server.requests)
    assert call("multifile", "list") == 1
    assert "already exists (list:1); use -f" in call.err
    assert len(server.requests) == count


def test_a_manifest_by_standard_input_goes_on_too(
    server: Server, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = interrupted(server, tmp_path, signal.SIGKILL)
    before = half.requests()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(half.text.encode())))
    assert call("multifile", "-", "--json") == 0, call.err
    assert (half.requests(), call.skipped) == (before, 3)


def test_with_force_what_was_finished_is_not_fetched_again(
    call: Call, server: Server, tmp_path: Path
) -> None:
    half = interrupted(server, tmp_path, signal.SIGKILL)
    before = half.requests()
    assert call("multifile", "list", "--json", "-f") == 0, call.err
    assert (half.requests(), call.skipped) == (before, 3)
    assert call("multifile", "list", "--json", "-f") == 0, call.err
    assert call.skipped == 0


def test_python_goes_on_as_well(server: Server, tmp_path: Path, call: Call) -> None:
    del call
    (tmp_path / "in").mkdir()
    gate = Gate()
    small = server.add("/small", Resource(SMALL))
    slow = server.add("/slow", Resource(SLOW, faults=[GateAfter(10, gate)]))
    files = [(small, tmp_path / "in" / "small"), (slow, tmp_path / "in" / "slow")]

    class StopError(Exception):
        pass

    def stop(event: object) -> None:
        if isinstance(event, pgetpy.core.report.events.Finished):
            raise StopError

    with pytest.raises(StopError):
        pgetpy.download_many(files, settings=impatient(), progress=stop)
    gate.open()
    events = Events()
    found = pgetpy.download_many(files, settings=impatient(), progress=events)
    assert [getattr(each, "skipped", None) for each in found] == [True, False]
    assert len(events.of(pgetpy.core.report.events.Finished)) == 2
    assert len(server.asked("/small")) == 1
    assert names_in(tmp_path / "in") == ["slow", "small"]


@pytest.mark.parametrize("change", ["grown", "same size", "same bytes, later"])
def test_a_file_that_has_changed_is_not_taken_for_finished(
    call: Call, server: Server, tmp_path: Path, change: str
) -> None:
    interrupted(server, tmp_path, signal.SIGKILL)
    small = tmp_path / "small"
    small.write_bytes({"grown": SMALL + b"x", "same size": SMALL[::-1]}.get(change, SMALL))
    os.utime(small, ns=(1, 1))
    assert call("multifile", "list") == 1
    assert "small already exists (list:1); use -f" in call.err
    assert not (tmp_path / "slow").exists()
    assert call("multifile", "list", "--json", "-f") == 0
    assert call.skipped == 2
    assert small.read_bytes() == SMALL


def test_a_member_that_has_changed_is_noticed(call: Call, server: Server, tmp_path: Path) -> None:
    interrupted(server, tmp_path, signal.SIGKILL)
    (tmp_path / "tree" / "sub" / "b").write_bytes(b"other")
    assert call("multifile", "list") == 1
    assert "tree already exists and is not empty (list:3)" in call.err


def test_a_file_that_is_gone_is_fetched_again(call: Call, server: Server, tmp_path: Path) -> None:
    half = interrupted(server, tmp_path, signal.SIGKILL)
    before = half.requests()
    (tmp_path / "small").unlink()
    assert call("multifile", "list", "--json") == 0
    assert (tmp_path / "small").read_bytes() == SMALL
    assert half.requests() == [before[0] + 1, *before[1:]]


def test_another_manifest_is_not_helped(call: Call, server: Server, tmp_path: Path) -> None:
    half = interrupted(server, tmp_path, signal.SIGKILL)
    (tmp_path / "list").write_text(half.text + f"{half.urls[0]} another\n")
    assert call("multifile", "list") == 1
    assert "small already exists" in call.err


def test_without_resuming_nothing_is_taken_over(call: Call, server: Server, tmp_path: Path) -> None:
    interrupted(server, tmp_path, signal.SIGKILL)
    assert call("multifile", "list", "--no-resume") == 1
    assert "small already exists" in call.err


# Kills itself right after the file has its name.
_KILLED = """
import os, signal
def replace(source, target, *rest, own=os.replace, **options):
    own(source, target, *rest, **options)
    if str(target).endswith("/victim"):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
"""


@pytest.mark.parametrize("content", [SMALL, LARGE])
@pytest.mark.parametrize("dest", ["out/victim", "out/"])
def test_a_kill_right_after_the_rename_loses_nothing(
    call: Call, server: Server, tmp_path: Path, content: bytes, dest: str
) -> None:
    named = Headers(add=(("Content-Disposition", "attachment; filename=victim"),))
    url = server.add("/any", Resource(content, faults=[named]))
    other = server.add("/other", Resource(SMALL))
    (tmp_path / "out").mkdir()
    (tmp_path / "list").write_text(f"{url} {dest}\n{other} other\n")
    killed = run("multifile", "list", "--max-concurrent-files", "1", cwd=tmp_path,
                 program=after(_KILLED))  # fmt: skip
    assert killed.code == -signal.SIGKILL
    assert (tmp_path / "out" / "victim").read_bytes() == content
    before = len(server.asked("/any"))
    assert call("multifile", "list", "--json") == 0, call.err
    assert call.skipped == 1
    assert len(server.asked("/any")) == before
    assert names_in(tmp_path / "out") == ["victim"]


# Kills itself when so many renames and removals are done since the archive's folder appeared.
_KILLED_AT = """
import os, signal, sys
left = [None]
def count():
    if left[0] is not None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
def rename(source, target, *rest, own=os.rename, **options):
    own(source, target, *rest, **options)
    if str(target).endswith("/victim"):
        left[0] = int(os.environ["KILLED_AT"])
        count()
def unlink(path, *rest, own=os.unlink, **options):
    own(path, *rest, **options)
    count()
os.rename, os.unlink, os.remove = rename, unlink, unlink
"""


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_a_kill_once_an_archives_folder_has_appeared_loses_nothing(
    call: Call, server: Server, tmp_path: Path, count: int
) -> None:
    url = server.add("/tar", Resource(tarball()))
    gate = Gate()
    other = server.add("/other", Resource(SLOW, faults=[GateAfter(1_200_000, gate)]))
    (tmp_path / "list").write_text(f"{url} victim -x\n{other} other\n")
    options = {"program": after(_KILLED_AT), "env": {"KILLED_AT": str(count)}}
    with Run("multifile", "list", cwd=tmp_path, **options) as running:  # type: ignore[arg-type]
        noted = lambda: any(  # noqa: E731
            '"fingerprint"' in path.read_text() for path in tmp_path.glob(".*.pgetpy-manifest")
        )
        with contextlib.suppress(RuntimeError):
            running.wait_until(noted)
            running.kill()
    gate.open()
    assert call("multifile", "list", "--json") == 0, call.err
    assert contents(tmp_path / "victim") == {"a": b"a" * 2000, "sub/b": SMALL}
    assert names_in(tmp_path) == ["list", "other", "victim"]


def test_a_stranger_in_the_place_of_what_was_about_to_appear_is_not_ours(
    call: Call, server: Server, tmp_path: Path
) -> None:
    url = server.add("/any", Resource(SMALL))
    other = server.add("/other", Resource(SMALL))
    (tmp_path / "list").write_text(f"{url} victim\n{other} other\n")
    run("multifile", "list", "--max-concurrent-files", "1", cwd=tmp_path, program=after(_KILLED))
    victim = tmp_path / "victim"
    times = victim.stat()
    victim.rename(tmp_path / "elsewhere")
    victim.write_bytes(SMALL[::-1])
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert call("multifile", "list") == 1
    assert "victim already exists (list:1)" in call.err


# ------------------------------------------------------------------------------- lines that fail


def test_a_manifest_with_a_line_that_failed_goes_on(
    call: Call, server: Server, tmp_path: Path, state: Path
) -> None:
    old = state / "pgetpy" / ".old.pgetpy-manifest"
    old.parent.mkdir()
    old.touch()
    os.utime(old, (1, 1))
    good = server.add("/good", Resource(LARGE))
    # Each run asks for it twice, the second time without a range.
    bad = server.add("/bad", Resource(SMALL, faults=[Status(404, when=When(times=4))]))
    (tmp_path / "list").write_text(f"{good} good\n{bad} bad\n")
    assert call("multifile", "list", "--json") == 1
    assert names_in(tmp_path) == ["good", "list"]
    (journal,) = (state / "pgetpy").iterdir()
    assert journal != old, "what is old is gone"
    before = len(server.asked("/good"))
    assert call("multifile", "list", "--json") == 1
    assert list((state / "pgetpy").iterdir()) == [journal]
    assert call("multifile", "list", "--json") == 0, call.err
    assert (call.skipped, len(server.asked("/good"))) == (1, before)
    assert list((state / "pgetpy").iterdir()) == []
    assert call("multifile", "list") == 1
    assert "already exists" in call.err


def test_fail_fast_goes_on_as_well(call: Call, server: Server, tmp_path: Path) -> None:
    good = server.add("/good", Resource(SMALL))
    bad = server.add("/bad", Resource(SMALL, faults=[Status(404, when=When(times=2))]))
    (tmp_path / "list").write_text(f"{good} good\n{bad} bad\n")
    words = ("multifile", "list", "--fail-fast", "--max-concurrent-files", "1", "--json")
    assert call(*words) == 1
    assert call(*words) == 0, call.err
    assert call.skipped == 1


@pytest.mark.parametrize("kind", ["another user's", "writable by others", "a link", "damaged"])
def test_only_a_journal_of_ones_own_is_believed(
    call: Call, server: Server, tmp_path: Path, kind: str
) -> None:
    interrupted(server, tmp_path, signal.SIGKILL)
    (journal,) = tmp_path.glob(".*.pgetpy-manifest")
    if kind == "another user's":
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(journal, NOBODY, NOBODY)
    elif kind == "writable by others":
        journal.chmod(0o666)
    elif kind == "a link":
        journal.rename(tmp_path / "moved")
        journal.symlink_to(tmp_path / "moved")
    else:
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(line.replace(b"1", b"2") for line in lines))
    assert call("multifile", "list") == 1
    assert "small already exists" in call.err


def test_where_nothing_can_be_noted_downloads_go_on(
    call: Call, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/any", Resource(SMALL))
    own: Callable[..., int] = os.open

    def refused(path: Any, *rest: Any, **options: Any) -> int:
        if str(path).endswith(".pgetpy-manifest"):
            raise PermissionError(13, "Permission denied", str(path))
        return own(path, *rest, **options)

    monkeypatch.setattr(os, "open", refused)
    (tmp_path / "list").write_text(f"{url} one\n{url} two\n")
    assert call("multifile", "list") == 0, call.err


def test_after_a_power_cut_it_is_fetched_again(
    call: Call, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = interrupted(server, tmp_path, signal.SIGKILL)
    before = half.requests()
    monkeypatch.setattr(manifest_journal, "boot_id", lambda: "another boot")
    assert call("multifile", "list", "--json") == 0, call.err
    assert call.skipped == 0
    assert all(now > then for now, then in zip(half.requests(), before, strict=True))
    assert (tmp_path / "small").read_bytes() == SMALL
    assert contents(tmp_path / "tree") == {"a": b"a" * 2000, "sub/b": SMALL}


def test_what_was_flushed_counts_after_a_power_cut(
    call: Call, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Half(server, tmp_path)
    code = "from pgetpy.destinations import manifest_journal as m; m._FLUSH_EVERY = 0.0"
    with Run("multifile", "list", cwd=tmp_path, program=after(code)) as running:
        running.wait_until(
            lambda: any(
                path.read_text().count('"flushed": true') == 3
                for path in tmp_path.glob(".*.pgetpy-manifest")
            )
        )
        running.kill()
    half.gate.open()
    monkeypatch.setattr(manifest_journal, "boot_id", lambda: "another boot")
    before = half.requests()
    assert call("multifile", "list", "--json") == 0, call.err
    assert (call.skipped, half.requests()) == (3, before)


# ------------------------------------------------------------------------------- checksums


def test_a_file_with_the_right_checksum_is_success(
    call: Call, server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(LARGE))
    for dest in ("model", "folder/"):
        assert call(url, dest, "--checksum", DIGEST) == 0
    count = len(server.requests)
    for words in (("model",), ("folder/",), ("folder",), ("model", "-f"), ("model", "--no-resume")):
        assert call(url, *words, "--checksum", DIGEST, "--json") == 0, call.err
        assert json.loads(call.out)["skipped"] is True
        assert json.loads(call.out)["digest"] == DIGEST
        assert call.err.splitlines()[-1].startswith("[ Skipped ] dest=")
    assert call(url, "--checksum", DIGEST) == 0
    assert len(server.requests) == count


@pytest.mark.parametrize("dest", ["model", "./"])
def test_a_file_with_another_checksum_is_in_the_way(
    call: Call, server: Server, tmp_path: Path, dest: str
) -> None:
    url = server.add("/model", Resource(LARGE))
    (tmp_path / "model").write_bytes(SMALL)
    assert call(url, dest, "--checksum", DIGEST) == 1
    assert "model already exists" in call.err
    assert server.requests == []
    assert (tmp_path / "model").read_bytes() == SMALL
    assert call(url, dest, "--checksum", DIGEST, "-f") == 0
    assert (tmp_path / "model").read_bytes() == LARGE


def test_a_name_that_only_the_server_knows_may_have_the_checksum(
    call: Call, server: Server, tmp_path: Path
) -> None:
    named = Headers(add=(("Content-Disposition", "attachment; filename=real"),))
    url = server.add("/model", Resource(LARGE, faults=[named]))
    (tmp_path / "list").write_text(f"{url} ./ {DIGEST}\n")
    (tmp_path / "real").write_bytes(LARGE)
    assert call(url, "--checksum", DIGEST, "--json") == 0, call.err
    assert call.skipped == 1
    assert call("multifile", "list", "--json") == 0, call.err
    assert call.skipped == 1
    (tmp_path / "real").write_bytes(SMALL)
    assert call(url, "--checksum", DIGEST) == 1
    assert call("multifile", "list") == 1
    assert "real already exists" in call.err


def test_python_takes_a_file_with_the_right_checksum(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(LARGE))
    (tmp_path / "model").write_bytes(LARGE)
    assert fetch(url, tmp_path / "model", checksum=DIGEST).skipped
    assert fetch(url, tmp_path / "model", checksum=DIGEST, force=True).skipped
    with pytest.raises(pgetpy.errors.DestinationError, match="already exists"):
        fetch(url, tmp_path / "model", checksum=WRONG)
    assert server.requests == []


def test_lines_with_digests_that_are_right_are_skipped(
    call: Call, server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(LARGE))
    (tmp_path / "list").write_text(f"{url} one {DIGEST}\n{url} two {DIGEST}\n")
    assert call("multifile", "list", "--json") == 0
    assert call.skipped == 0
    count = len(server.requests)
    assert call("multifile", "list", "--json") == 0, call.err
    assert (call.skipped, len(server.requests)) == (2, count)
    assert "file_count=0" in call.err
    (tmp_path / "two").unlink()
    assert call("multifile", "list", "--json", "-f") == 0
    assert call.skipped == 1


def test_a_line_with_a_wrong_digest_stops_everything_before_it_starts(
    call: Call, server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(LARGE))
    (tmp_path / "list").write_text(f"{url} one\n{url} two {DIGEST}\n")
    (tmp_path / "two").write_bytes(SMALL)
    assert call("multifile", "list") == 1
    assert "two already exists (list:2)" in call.err
    assert server.requests == []
    assert call("multifile", "list", "-f") == 0
    assert (tmp_path / "two").read_bytes() == LARGE


# ------------------------------------------------------------------------------- --skip-existing


def test_what_exists_is_skipped_if_that_is_asked_for(
    call: Call, server: Server, tmp_path: Path
) -> None:
    url, tar = server.add("/model", Resource(LARGE)), server.add("/tar", Resource(tarball()))
    (tmp_path / "model").write_bytes(b"mine")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine").write_bytes(b"mine")
    for words in ((url, "model"), (url,), (url, "./"), ("-x", tar, "tree")):
        assert call(*words, "--skip-existing", "--json") == 0, call.err
        assert call.skipped == 1
    assert [seen.target for seen in server.requests] == []
    assert (tmp_path / "model").read_bytes() == b"mine"
    assert names_in(tmp_path / "tree") == ["mine"]
    (tmp_path / "list").write_text(f"{url} model\n{url} new\n{tar} tree -x\n{tar} other -x\n")
    assert call("multifile", "list", "--skip-existing", "--json") == 0, call.err
    assert call.skipped == 2
    assert (tmp_path / "new").read_bytes() == LARGE
    assert contents(tmp_path / "other") == {"a": b"a" * 2000, "sub/b": SMALL}


def test_what_only_the_server_can_name_is_skipped_too(
    call: Call, server: Server, tmp_path: Path
) -> None:
    named = Headers(add=(("Content-Disposition", "attachment; filename=real"),))
    url = server.add("/model", Resource(LARGE, faults=[named]))
    (tmp_path / "real").write_bytes(b"mine")
    (tmp_path / "list").write_text(f"{url} ./\n")
    for words in ((url,), (url, "./"), ("multifile", "list")):
        assert call(*words, "--skip-existing", "--json") == 0, call.err
        assert call.skipped == 1
    assert (tmp_path / "real").read_bytes() == b"mine"


def test_what_is_known_to_be_wrong_is_not_skipped(
    call: Call, server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(LARGE))
    (tmp_path / "model").write_bytes(b"mine")
    assert call(url, "model", "--skip-existing", "--checksum", DIGEST) == 1
    assert "already exists and has another checksum" in call.err


def test_keeping_and_replacing_contradict_each_other(call: Call, server: Server) -> None:
    assert call(server.url("/model"), "model", "--skip-existing", "-f") == 2
    assert "--skip-existing" in call.err
