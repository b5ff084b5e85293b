"""Extractions that are killed, stopped, tampered with, short of room or of rights: the tree is
right or there is one clear error, nothing is written elsewhere, and nothing is left behind.
"""

from __future__ import annotations

import bz2
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pgetpy.core.destinations.journal import moving_line, parse_journal, subject_line
from pgetpy.core.destinations.names import layout_name
from pgetpy.core.http.ranges import Spans
from pgetpy.errors import DestinationError, DiskFullError
from tests.support.bodies import body, digest
from tests.support.children import (
    MIB,
    PAGE,
    after,
    asked_since,
    in_namespace,
    journal_of,
    killed_when,
    last_line,
    part_of,
    result_of,
    written,
)
from tests.support.delivery import Gate
from tests.support.faults import Dam, Fault, GateAfter, IgnoreRange, Pace, When, at_least
from tests.support.fetching import extract, names_in, unchanged
from tests.support.processes import Ended, Run, folder_of_nobody, limited_tmpfs, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.trees import plain_tree as tree
from tests.support.trees import without_trials
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

MB = 1_000_000
MTIME = 1_700_000_000
Member = tuple[str, bytes, int, Any]


# ------------------------------------------------------------------- archives, and what they are


def packed(members: list[Member]) -> bytes:
    """A tar of members: name, type, mode, and contents or the target of a link."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, mode, rest in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = kind, mode, MTIME
            if kind == tarfile.REGTYPE:
                member.size = len(rest)
                archive.addfile(member, io.BytesIO(rest))
            else:
                member.linkname = rest or ""
                archive.addfile(member)
    return made.getvalue()


def file(name: str, data: bytes, mode: int = 0o644) -> Member:
    return name, tarfile.REGTYPE, mode, data


def folder_member(name: str, mode: int = 0o755) -> Member:
    return name, tarfile.DIRTYPE, mode, None


def weights(seed: str = "v1") -> list[Member]:
    """Large members and many small ones, folders and links."""
    return [
        folder_member("model"),
        file("model/config.json", f'{{"seed": "{seed}"}}'.encode()),
        file("model/1.safetensors", body(3 * MIB, seed)),
        *[file(f"small/{n}", body(700 + n, seed)) for n in range(60)],
        file("model/2.safetensors", body(2 * MIB + 17, seed)),
        ("model/latest", tarfile.SYMTYPE, 0o777, "2.safetensors"),
        ("model/same", tarfile.LNKTYPE, 0o644, "model/config.json"),
        *[file(f"tail/{n}", body(9_000 + n, seed)) for n in range(20)],
        file("empty", b""),
    ]


@lru_cache
def archive_of(seed: str = "v1") -> bytes:
    return packed(weights(seed))


def tree_of(members: list[Member]) -> dict[str, Any]:
    """What `tree` says of the folder that an archive of `members` becomes."""
    found: dict[str, Any] = {}
    for name, kind, _, rest in members:
        for parent in list(Path(name).parents)[:-1]:
            found[str(parent)] = None
        if kind == tarfile.SYMTYPE:
            found[name] = f"-> {rest}"
        else:
            found[name] = found[rest] if kind == tarfile.LNKTYPE else rest
    found.pop("./", None)
    return found


@lru_cache
def expected(seed: str = "v1") -> dict[str, Any]:
    return tree_of(weights(seed))


def serve(
    server: Server, *faults: Fault, data: bytes | None = None, path: str = "/w.tar", etag: str = "1"
) -> str:
    data = archive_of() if data is None else data
    return server.add(path, Resource(data, etag=f'"{etag}"', faults=faults))


def layout_of(out: Path) -> Path:
    return out.with_name(layout_name(out.name))


def slow(data: bytes | None = None) -> tuple[Fault, ...]:
    """So slow that there is a midway, and never the end of it."""
    size = len(archive_of() if data is None else data)
    return Pace(2 * MIB), Dam(size - 100_000)


def killed_midway(
    server: Server, out: Path, *options: str, least: int = 2 * MIB, **run_options: Any
) -> Spans:
    """kill -9 a run to `out` when `least` bytes are there; what its journal says is there."""
    url = serve(server, *slow())
    with Run("-x", url, out, "-c", "3", "-m", "400k", *options, **run_options) as running:
        killed_when(running, lambda: written(out).size > least)
    serve(server)
    server.requests.clear()
    return written(out)


CHECKSUM = ("--checksum", f"sha256:{digest(archive_of())}")


# ------------------------------------------------------------------- kill -9


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("new", ()),
        ("new", CHECKSUM),
        ("full", CHECKSUM),
        *[
            pytest.param(place, options, marks=pytest.mark.soak)
            for place, options in [("empty", ()), ("empty", CHECKSUM), ("full", ())]
        ],
    ],
    ids=["new", "new hashed", "full hashed", "empty", "empty hashed", "full"],
)
def test_a_plain_tar_goes_on_after_a_kill(
    server: Server, tmp_path: Path, place: str, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    if place != "new":
        out.mkdir()
    if place == "full":
        (out / "other").write_bytes(b"kept")
        options = (*options, "-f")
    held = killed_midway(server, out, *options)
    result = result_of(run("-x", server.url("/w.tar"), out, *options, "--json"))
    assert result["resumed"] > MIB
    assert result["resumed"] == held.size
    again = asked_since(server, "/w.tar", 0)
    inner = {page for span in held for page in range(-(-span.start // PAGE), span.stop // PAGE)}
    assert not again & inner
    also = {"other": b"kept"} if place == "full" else {}
    assert tree(out) == {**expected(), **also}
    assert names_in(tmp_path) == ["out"]
    assert (out / "model" / "same").stat().st_nlink == 2
    assert (out / "model" / "1.safetensors").stat().st_mtime == MTIME


def below_out(found: dict[str, Any]) -> dict[str, Any]:
    """What `tree` finds in the folder that holds nothing but `out`, in which it has `found`."""
    return {"out": None, **{f"out/{name}": what for name, what in found.items()}}


def test_kills_at_random_moments_end_right(server: Server, tmp_path: Path) -> None:
    kill_until_done(server, tmp_path, random.Random(7), 4)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1))
def test_many_kills_at_random_moments_end_right(server: Server, tmp_path: Path, seed: int) -> None:
    for number in range(4):
        chance = random.Random(seed * 100 + number)
        (tmp_path / str(number)).mkdir()
        kill_until_done(server, tmp_path / str(number), chance, 12)


def kill_until_done(server: Server, home: Path, chance: random.Random, most: int) -> None:
    out = home / "out"
    if chance.random() < 0.5:
        out.mkdir()
    for _ in range(most):
        url = serve(server, Pace(chance.choice([1, 4, 64]) * MIB))
        checked = CHECKSUM if chance.random() < 0.3 else ()
        with Run("-x", url, out, "-c", "4", "-m", "300k", "-f", *checked) as running:
            try:
                ended = running.wait(chance.uniform(0.2, 1.2))
            except subprocess.TimeoutExpired:
                running.kill()
                continue
            assert ended.code == 0, ended.err
            break
    url = serve(server)
    ended = run("-x", url, out, "-f")
    assert ended.code == 0, ended.err
    assert without_trials(tree(home)) == below_out(expected())


def test_a_compressed_archive_starts_over_after_a_kill(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = zstandard.compress(archive_of())
    url = serve(server, *slow(data), data=data, path="/w.tar.zst")
    with Run("-x", url, out) as running:
        killed_when(running, lambda: server.sent("/w.tar.zst") > 2 * MIB)
    assert not out.exists()
    serve(server, data=data, path="/w.tar.zst")
    result = result_of(run("-x", url, out, "--json"))
    assert result["resumed"] == 0
    assert tree(out) == expected()
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("options", [(), ("--checksum", f"sha256:{digest(archive_of('v2'))}")])
def test_an_object_that_changed_between_the_runs_is_never_mixed(
    server: Server, tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    killed_midway(server, out)
    url = serve(server, data=archive_of("v2"), etag="2")
    result = result_of(run("-x", url, out, *options, "--json"))
    assert result["resumed"] == 0
    assert tree(out) == expected("v2")
    assert names_in(tmp_path) == ["out"]


# ------------------------------------------------------------------- killed at one call


def dying(call: str, nth: int) -> tuple[str, ...]:
    """The command line, which is killed as it makes the `nth` of its calls of `os.<call>`."""
    return after(f"""
import os, signal
real, count = os.{call}, 0
def dying(*args, **named):
    global count
    count += 1
    if count == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **named)
os.{call} = dying
""")


def dying_at(call: str, name: str) -> tuple[str, ...]:
    """The command line, which is killed as it calls `os.<call>` of `name`, in whatever folder."""
    return after(f"""
import os, signal
real = os.{call}
def dying(path, *args, **named):
    if path == {name!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, *args, **named)
os.{call} = dying
""")


def check_death(server: Server, home: Path, call: str, nth: int, place: str) -> bool:
    """Have a run die at a call and the next finish it; False where there are fewer calls."""
    out = home / "out"
    url = serve(server)
    if place != "new":
        (out / "model").mkdir(parents=True)
        (out / "model" / "config.json").write_bytes(b"old")
    command = ["-x", url, out, "-c", "2", *(["-f"] if place == "full" else [])]
    first = run(*command, program=dying(call, nth))
    if first.code == 0:
        return False
    assert first.code == -signal.SIGKILL, first.err
    ended = run(*command)
    assert ended.code == 0, ended.err
    assert len(tree(home)) - len(without_trials(tree(home))) <= 1
    assert without_trials(tree(home)) == below_out(expected())
    return True


@pytest.mark.parametrize(
    ("place", "call", "nth"),
    [
        ("new", "rename", 1),
        # The members have appeared, and what was of use until then is still there.
        ("new", "ftruncate", 2),
        ("full", "rename", 2),
        ("full", "rmdir", 1),
    ],
)
def test_a_run_that_dies_while_it_moves_the_members_is_finished_by_the_next(
    server: Server, tmp_path: Path, place: str, call: str, nth: int
) -> None:
    assert check_death(server, tmp_path, call, nth, place)


@pytest.mark.parametrize("place", ["new", "full"])
def test_a_run_that_dies_when_the_members_are_there_is_finished_by_the_next(
    server: Server, tmp_path: Path, place: str
) -> None:
    out = tmp_path / "out"
    if place == "full":
        out.mkdir()
        (out / "empty").write_bytes(b"old")
    url = serve(server)
    # The first name to go is that of the layout, when all have come to their places.
    layout = layout_of(out if place == "new" else out / "members")
    order = f"""
import os, signal
real = os.unlink
def dying(path, *args, **named):
    if str(path) == {str(layout)!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, *args, **named)
os.unlink = dying
"""
    first = run("-x", "-f", url, out, program=after(order))
    assert first.code == -signal.SIGKILL, first.err
    server.requests.clear()
    ended = run("-x", url, out, *(["-f"] if place == "full" else []))
    assert ended.code == 0, ended.err
    assert tree(out) == expected()
    assert names_in(tmp_path) == ["out"]
    assert server.sent("/w.tar") < 2 * MIB


def looks(out: Path) -> dict[str, tuple[int, int]]:
    """Permissions and times of the folders in `out`, itself included: 0 for a time of today."""
    found = {}
    for path in (out, *out.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            status = path.stat()
            old = status.st_mtime < MTIME + 1
            found[str(path.relative_to(out))] = (
                status.st_mode & 0o7777,
                int(status.st_mtime) if old else 0,
            )
    return found


FOLDERS = [
    folder_member("./", 0o750),
    folder_member("stated", 0o711),
    file("stated/1", b"1"),
    folder_member("stated/inner", 0o555),
    file("stated/inner/2", b"2"),
    file("implied/3", b"3"),
    file("shut/4", b"4"),
    folder_member("shut/inner", 0o700),
    file("shut/inner/5", b"5"),
]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        *[("rename", name) for name in "12345"],
        ("rmdir", "stated"),
        ("rmdir", "inner"),
        ("rmdir", "implied"),
        ("rmdir", "shut"),
    ],
)
def test_folders_look_the_same_after_a_kill_as_without_one(
    server: Server, call: str, name: str
) -> None:
    with folder_of_nobody() as home:
        options = folders_there(server, home)
        first = run(*options, program=dying_at(call, name), unprivileged=True)
        assert first.code == -signal.SIGKILL, first.err
        looks_right(home, run(*options, unprivileged=True))


def test_folders_that_are_there_look_as_the_archive_says(server: Server) -> None:
    with folder_of_nobody() as home:
        looks_right(home, run(*folders_there(server, home), unprivileged=True))


def folders_there(server: Server, home: Path) -> tuple[str | Path, ...]:
    """The command that extracts FOLDERS over some that are there and look otherwise."""
    out = home / "out"
    for folder, mode in [("stated/inner", 0o777), ("implied", 0o700), ("shut/inner", 0o500)]:
        (out / folder).mkdir(parents=True)
        (out / folder).chmod(mode)
    (out / "shut").chmod(0o555)
    for path in (*out.rglob("*"), out):
        if os.geteuid() == 0:
            os.chown(path, home.stat().st_uid, home.stat().st_gid)
        os.utime(path, (1, 1))
    return "-x", "-f", serve(server, data=packed(FOLDERS)), out


def looks_right(home: Path, ended: Ended) -> None:
    assert ended.code == 0, ended.err
    assert tree(home / "out") == tree_of(FOLDERS)
    assert looks(home / "out") == {
        ".": (0o750, MTIME),
        "stated": (0o711, MTIME),
        "stated/inner": (0o555, MTIME),
        "implied": (0o700, 0),
        "shut": (0o555, 0),
        "shut/inner": (0o700, MTIME),
    }


def test_a_folder_of_another_keeps_its_looks(server: Server) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is no other here")
    url = serve(server, data=packed(FOLDERS))
    with folder_of_nobody() as home:
        out = home / "out"
        out.mkdir()
        os.chown(out, 0, 0)
        out.chmod(0o777)
        ended = run("-x", url, out, unprivileged=True)
        assert ended.code == 0, ended.err
        assert tree(out) == tree_of(FOLDERS)
        assert looks(out)["."] == (0o777, 0)
        assert looks(out)["stated"] == (0o711, MTIME)


@pytest.mark.parametrize("compress", [bytes, zstandard.compress], ids=["tar", "tar.zst"])
def test_a_run_that_fails_while_it_moves_the_members_is_finished_by_the_next(
    server: Server, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    url = serve(server, data=compress(archive_of()))
    order = """
import errno, os
real = os.rename
def failing(path, *args, **named):
    if path == "same":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return real(path, *args, **named)
os.rename = failing
"""
    first = run("-x", "-f", url, out, program=after(order))
    assert first.code == 1
    assert "input/output error" in last_line(first)
    server.requests.clear()
    ended = run("-x", url, out)
    assert ended.code == 0, ended.err
    assert tree(out) == expected()
    # The server is asked what it has, not for all of it.
    assert server.sent("/w.tar") < 2 * MIB


@pytest.mark.parametrize(("place", "nth"), [("new", 1), ("full", 1), ("full", 3)])
def test_members_that_were_being_moved_when_they_were_deleted_are_fetched_again(
    server: Server, tmp_path: Path, place: str, nth: int
) -> None:
    out = tmp_path / "out"
    if place == "full":
        (out / "model").mkdir(parents=True)
    url = serve(server)
    first = run("-x", "-f", url, out, program=dying("rename", nth))
    assert first.code == -signal.SIGKILL, first.err
    anchor = out if place == "new" else out / "members"
    assert parse_journal(journal_of(anchor).read_bytes()).moving
    shutil.rmtree(part_of(anchor))
    ended = run("-x", url, out)
    assert ended.code == 0, ended.err
    assert tree(out) == expected()
    assert names_in(tmp_path) == ["out"]


def test_members_that_were_being_moved_when_they_were_deleted_need_force_for_another_archive(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    first = run("-x", "-f", serve(server), out, program=dying("rename", 3))
    assert first.code == -signal.SIGKILL, first.err
    shutil.rmtree(part_of(out / "members"))
    other = serve(server, data=packed([file("a", b"a")]), path="/other.tar")
    ended = run("-x", other, out)
    assert ended.code == 1
    assert "already exists and is not empty" in last_line(ended)
    assert not (out / "a").exists()


def test_a_run_that_cannot_finish_what_it_does_anew_leaves_nothing_half_to_be_moved(
    server: Server, tmp_path: Path
) -> None:
    """What is fetched again after a deletion is not there yet when that run is killed in turn."""
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    url = serve(server)
    first = run("-x", "-f", url, out, program=dying("rename", 3))
    assert first.code == -signal.SIGKILL, first.err
    shutil.rmtree(part_of(out / "members"))
    serve(server, *slow())
    with Run("-x", "-f", url, out) as running:
        killed_when(running, part_of(out / "members").exists)
    serve(server)
    ended = run("-x", "-f", url, out)
    assert ended.code == 0, ended.err
    assert tree(out) == expected()


def test_members_that_were_being_moved_are_not_mixed_with_those_of_another_version(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model").mkdir()
    url = serve(server)
    first = run("-x", "-f", url, out, program=dying("rename", 3))
    assert first.code == -signal.SIGKILL, first.err
    serve(server, data=archive_of("v2"), etag="2")
    ended = run("-x", "-f", url, out)
    assert ended.code == 0, ended.err
    assert tree(out) in (expected("v1"), expected("v2"))
    assert names_in(tmp_path) == ["out"]
    ended = run("-x", "-f", url, out, "--checksum", f"sha256:{digest(archive_of('v2'))}")
    assert ended.code == 0, ended.err
    assert tree(out) == expected("v2")


def test_members_that_were_being_moved_when_the_power_went_are_not_believed(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    url = serve(server)
    first = run("-x", url, out, program=dying("rename", 1))
    assert first.code == -signal.SIGKILL, first.err
    journal = journal_of(out / "members")
    told = parse_journal(journal.read_bytes())
    assert told.moving
    assert told.subject is not None
    journal.write_bytes(subject_line(told.subject._replace(boot="before")) + moving_line())
    # What had not been flushed: the names are there, the bytes are not.
    for path in part_of(out / "members").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(bytes(path.stat().st_size))
    ended = run("-x", url, out)
    assert ended.code == 0, ended.err
    assert tree(out) == expected()


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["new", "full"])
@pytest.mark.parametrize("call", ["open", "mkdir", "rename", "pwrite"])
def test_a_run_that_dies_at_any_call_is_finished_by_the_next(
    server: Server, tmp_path: Path, place: str, call: str
) -> None:
    for nth in [1, 4, 50]:
        home = tmp_path / str(nth)
        home.mkdir()
        if not check_death(server, home, call, nth, place):
            break


# ------------------------------------------------------------------- tampered with between the runs


def largest_staged(out: Path) -> Path:
    return part_of(out) / "model" / "1.safetensors"


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def replaced_by_link(path: Path, elsewhere: Path) -> None:
    """What stood at `path` stands elsewhere now, and a link leads there."""
    path.rename(elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda out: None,
    "a member deleted": lambda out: largest_staged(out).unlink(),
    "a small member deleted": lambda out: (part_of(out) / "small" / "3").unlink(),
    "a member cut short": lambda out: cut(largest_staged(out), 100),
    "a member emptied": lambda out: cut(largest_staged(out), 0),
    "a member too long": lambda out: cut(largest_staged(out), 4 * MIB),
    "a small member cut short": lambda out: cut(part_of(out) / "small" / "3", 5),
    "a member is a folder": lambda out: replaced_by_folder(largest_staged(out)),
    "a folder deleted": lambda out: shutil.rmtree(part_of(out) / "small"),
    "all deleted": lambda out: shutil.rmtree(part_of(out)),
    "layout deleted": lambda out: layout_of(out).unlink(),
    "layout emptied": lambda out: cut(layout_of(out), 0),
    "layout cut short": lambda out: cut(layout_of(out), layout_of(out).stat().st_size // 2 + 3),
    "layout garbled": lambda out: garble(layout_of(out)),
    "journal deleted": lambda out: journal_of(out).unlink(),
    "journal emptied": lambda out: cut(journal_of(out), 0),
    "journal cut short": lambda out: cut(journal_of(out), journal_of(out).stat().st_size // 2 + 3),
    "journal garbled": lambda out: garble(journal_of(out)),
}


@pytest.fixture(scope="module")
def left_by_a_kill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A folder with what a run to `out` left in it that was killed; and its server."""
    home = tmp_path_factory.mktemp("left")
    with Server() as server:
        killed_midway(server, home / "out", least=4 * MIB)
        yield server, home
    assert server.violations == []


@contextmanager
def copy_of(home: Path, to: Path) -> Iterator[Path]:
    """A copy of what was left, as it was."""
    shutil.copytree(home, to / "home", symlinks=True)
    yield to / "home" / "out"


def the_next_run(server: Server, out: Path, *options: str) -> Ended:
    """The next run to `out`, which ends with the right tree, or an error and none."""
    ended = run("-x", server.url("/w.tar"), out, *options)
    if ended.code:
        last_line(ended)
        assert not out.exists()
    else:
        assert tree(out) == expected()
        assert names_in(out.parent) == ["out"]
    return ended


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_was_tampered_with_between_the_runs_is_no_harm(
    left_by_a_kill: tuple[Server, Path], tmp_path: Path, tampering: str
) -> None:
    server, home = left_by_a_kill
    with copy_of(home, tmp_path) as out:
        TAMPERINGS[tampering](out)
        extract(server.url("/w.tar"), out)
        assert tree(out) == expected()
        assert names_in(out.parent) == ["out"]


def test_a_member_half_there_that_was_cut_short_is_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    out = home / "out"
    gate = Gate()
    # All but one range of the first large member comes.
    url = serve(server, GateAfter(0, gate, when=When(start=range(600_000, 1_400_000))))
    with Run("-x", url, out, "-c", "4", "-m", "400k") as running:
        gate.wait_reached()
        killed_when(running, lambda: written(out).size > 4 * MIB)
    gate.open()
    serve(server)
    for size in (2 * MIB, 100_000, 0):
        with copy_of(home, tmp_path / str(size)) as copy:
            cut(largest_staged(copy), size)
            ended = the_next_run(server, copy)
            assert ended.code == 0, ended.err


@pytest.mark.parametrize("what", ["", "model", "model/1.safetensors", "small", "small/3"])
def test_links_put_among_the_staged_members_are_not_followed(
    left_by_a_kill: tuple[Server, Path], tmp_path: Path, what: str
) -> None:
    server, home = left_by_a_kill
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with copy_of(home, tmp_path) as out:
        replaced_by_link(part_of(out) / what, elsewhere)
        with unchanged(elsewhere):
            the_next_run(server, out)


@pytest.mark.parametrize("name", [layout_of, journal_of])
def test_links_put_in_the_place_of_what_the_run_keeps_are_not_followed(
    left_by_a_kill: tuple[Server, Path], tmp_path: Path, name: Callable[[Path], Path]
) -> None:
    server, home = left_by_a_kill
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with copy_of(home, tmp_path) as out:
        replaced_by_link(name(out), elsewhere)
        with unchanged(elsewhere):
            the_next_run(server, out)


# ------------------------------------------------------------------- side by side


@pytest.mark.parametrize(
    ("count", "place"),
    [
        (4, "new"),
        (2, "empty"),
        *[pytest.param(*case, marks=pytest.mark.soak) for case in [(2, "new"), (4, "empty")]],
    ],
)
def test_several_processes_extract_the_same_archive_to_the_same_folder(
    server: Server, tmp_path: Path, count: int, place: str
) -> None:
    out = tmp_path / "out"
    if place == "empty":
        out.mkdir()
    gate = Gate()
    url = serve(server, GateAfter(200_000, gate))
    # With one connection each, so that nobody asks elsewhere for what stands at the gate.
    runs = [Run("-x", url, out, "-c", "1") for _ in range(count)]
    try:
        eventually(lambda: sum("another run" in one.err for one in runs) == count - 1)
        gate.open()
        ends = [one.wait() for one in runs]
    finally:
        for one in runs:
            one.__exit__(None, None, None)
    assert 0 in [ended.code for ended in ends]
    for ended in ends:
        if ended.code:
            assert "already exists and is not empty" in last_line(ended)
    assert tree(out) == expected()
    assert names_in(tmp_path) == ["out"]
    # The others have begun, and let go when they saw that one is at work.
    assert server.sent("/w.tar") < (1 + 0.8 * (count - 1)) * len(archive_of())


def test_an_extraction_and_a_download_to_the_same_name_do_no_harm(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    url = serve(server, Pace(4 * MIB))
    with Run("-x", url, out) as extracting, Run(url, out) as downloading:
        ends = [extracting.wait(), downloading.wait()]
    assert 0 in [ended.code for ended in ends]
    for ended in ends:
        if ended.code:
            last_line(ended)
    if out.is_dir():
        inside = tree(out)
        # A download to a folder that has come to be there may go into it.
        inside.pop("w.tar", None)
        assert inside == expected()
    else:
        assert out.read_bytes() == archive_of()
    left = [name for name in names_in(tmp_path) if name != "out"]
    assert all("pgetpy" in name for name in left)


# ------------------------------------------------------------------- disks and folders


@pytest.mark.parametrize("compress", [bytes, zstandard.compress], ids=["tar", "tar.zst"])
def test_a_full_disk_is_one_error_and_a_rerun_with_more_room_goes_on(
    server: Server, compress: Callable[[bytes], bytes]
) -> None:
    data = compress(archive_of())
    gate = Gate()
    with limited_tmpfs(16 * MIB) as disk:
        out = disk / "out"
        url = serve(server, GateAfter(100_000, gate, when=When(request=at_least(5))), data=data)
        with Run("-x", url, out, "-c", "2", "-m", "500k") as running:
            gate.wait_reached()
            running.wait_until(part_of(out).exists)
            with (disk / "filler").open("wb", buffering=0) as filler:
                while True:
                    try:
                        filler.write(bytes(PAGE))
                    except OSError:
                        break
            gate.open()
            ended = running.wait()
        assert ended.code == 1
        assert "full" in last_line(ended)
        assert not out.exists()
        (disk / "filler").unlink()
        serve(server, data=data)
        result = result_of(run("-x", url, out, "--json"))
        assert tree(out) == expected()
        assert names_in(disk) == ["out"]
        if compress is bytes:
            assert result["resumed"] > 0


def test_room_that_is_missing_is_seen_before_anything_is_written(server: Server) -> None:
    url = serve(server)
    with limited_tmpfs(4 * MIB) as disk:
        with unchanged(disk), pytest.raises(DiskFullError):
            extract(url, disk / "out")
        ended = run("-x", url, disk / "out")
        assert ended.code == 1
        assert "not enough space" in last_line(ended)


@pytest.mark.parametrize("also", ["", "lost+found"])
def test_a_volume_is_filled_at_its_root(server: Server, also: str) -> None:
    with limited_tmpfs(32 * MIB) as out:
        if also:
            (out / also).mkdir(mode=0o700)
        beside = set(os.listdir(out.parent))
        killed_midway(server, out)
        result = result_of(run("-x", server.url("/w.tar"), out, "--json"))
        assert result["resumed"] > MIB
        assert tree(out) == {**expected(), **({also: None} if also else {})}
        # Other processes make folders of their own there, which are not hidden.
        new = set(os.listdir(out.parent)) - beside
        assert not [name for name in new if name.startswith(".") and "pgetpy" in name]


def test_a_folder_in_one_that_may_not_be_written_will_do(server: Server) -> None:
    with folder_of_nobody() as home:
        out = home / "out"
        out.mkdir()
        if os.geteuid() == 0:
            os.chown(out, home.stat().st_uid, home.stat().st_gid)
        home.chmod(0o555)
        killed_midway(server, out, unprivileged=True)
        ended = run("-x", server.url("/w.tar"), out, "--json", unprivileged=True)
        assert result_of(ended)["resumed"] > MIB
        assert tree(out) == expected()
        assert names_in(home) == ["out"]


# ------------------------------------------------------------------- what cannot be moved


MOUNTS = {
    "bound": ("mount --bind {elsewhere} {out}/model", "model"),
    "volume": ("mount -t tmpfs tmpfs {out}/model", "model"),
    # Nothing is amiss in the folder above it.
    "file": ("mount --bind {elsewhere} {out}/small/7", "small/7"),
    "odd name": ("mount --bind {elsewhere} '{out}/model/a folder'", "model/a folder"),
    "read-only": (
        "mount --bind {elsewhere} {out}/model && mount -o remount,bind,ro {out}/model",
        "model",
    ),
}


@pytest.mark.parametrize(
    ("mount", "compress"),
    [
        *[(mount, bytes) for mount in MOUNTS],
        ("bound", zstandard.compress),
        *[
            pytest.param(mount, zstandard.compress, marks=pytest.mark.soak)
            for mount in MOUNTS
            if mount != "bound"
        ],
    ],
)
def test_a_mount_point_in_the_way_is_seen_before_anything_is_moved(
    server: Server, tmp_path: Path, mount: str, compress: Callable[[bytes], bytes]
) -> None:
    order, at = MOUNTS[mount]
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / "model").mkdir(parents=True)
    (out / "small").mkdir()
    members = [*weights(), file("model/a folder/file", b"1"), file("model/a folder/in/it", b"2")]
    if at == "small/7":
        (out / at).write_bytes(b"old")
        elsewhere.write_bytes(b"old")
    else:
        elsewhere.mkdir()
        (out / at).mkdir(exist_ok=True)
    before = tree(out)
    url = serve(server, data=compress(packed(members)))
    mounted = in_namespace(order.format(elsewhere=elsewhere, out=out))
    for _ in range(2):
        ended = run("-x", "-f", url, out, program=mounted)
        assert ended.code == 1
        assert f"destination {out / at} is a mount point" in last_line(ended)
        left = {name: what for name, what in tree(out).items() if "pgetpy" not in name}
        assert left == before
        assert elsewhere.is_file() or not any(elsewhere.iterdir())
    ended = run("-x", "-f", url, out)
    assert ended.code == 0, ended.err
    assert tree(out) == tree_of(members)


def test_a_mount_point_into_which_nothing_goes_is_not_in_the_way(
    server: Server, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (out / "cache" / "below").mkdir(parents=True)
    elsewhere.mkdir()
    members = [*weights(), folder_member("cache"), folder_member("model/cache")]
    order = f"mount --bind {elsewhere} {out}/cache && mount -o remount,bind,ro {out}/cache"
    url = serve(server, data=packed(members))
    ended = run("-x", "-f", url, out, program=in_namespace(order))
    assert ended.code == 0, ended.err
    assert tree(out) == {**tree_of(members), "cache/below": None}


@pytest.mark.parametrize("at", ["model", "model/deeper", "model/config.json"])
def test_what_may_not_be_written_is_seen_before_anything_is_moved(server: Server, at: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("there is no other here")
    members = [*weights(), file("model/deeper/still", b"1")]
    url = serve(server, data=packed(members))
    with folder_of_nobody() as home:
        out = home / "out"
        (out / "model" / "deeper").mkdir(parents=True)
        (out / "model" / "config.json").write_bytes(b"old")
        for path in (out, *out.rglob("*")):
            os.chown(path, home.stat().st_uid, home.stat().st_gid)
        if at.endswith(".json"):
            # Who may write in the folder may not take from it what belongs to others.
            os.chown(out / "model", 0, 0)
            (out / "model").chmod(0o1777)
        os.chown(out / at, 0, 0)
        before = tree(out)
        ended = run("-x", "-f", url, out, unprivileged=True)
        assert ended.code == 1
        assert f"destination {out / at} " in last_line(ended)
        left = {name: what for name, what in tree(out).items() if "pgetpy" not in name}
        assert left == before
        os.chown(out / at, home.stat().st_uid, home.stat().st_gid)
        ended = run("-x", "-f", url, out, unprivileged=True)
        assert ended.code == 0, ended.err
        assert tree(out) == tree_of(members)


# ------------------------------------------------------------------- what cannot be made


@pytest.mark.parametrize("compress", [bytes, zstandard.compress], ids=["tar", "tar.zst"])
@pytest.mark.parametrize("size", [3 * MIB, 400_000], ids=["large", "small"])
def test_a_member_that_is_too_large_for_the_disk_is_named(
    server: Server, tmp_path: Path, size: int, compress: Callable[[bytes], bytes]
) -> None:
    data = packed([file("fine", b"1"), file("model/much", body(size))])
    url = serve(server, data=compress(data))
    ended = run("-x", url, tmp_path / "out", file_size=300_000)
    assert ended.code == 1
    assert "destination model/much (a member of the archive)" in last_line(ended)
    assert "file too large" in last_line(ended)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_member_whose_path_is_too_long_is_named(
    server: Server, tmp_path: Path, kind: bytes
) -> None:
    # Allowed as a name, and beyond PATH_MAX in any folder.
    name = "/".join([*["d" * 200] * 20, "e" * 70])
    rest = {tarfile.REGTYPE: b"1", tarfile.SYMTYPE: "x"}.get(kind)
    url = serve(server, data=packed([file("fine", b"1"), (name, kind, 0o755, rest)]))
    with pytest.raises(DestinationError, match="file name too long") as caught:
        extract(url, tmp_path / "out")
    assert caught.value.dest == name
    assert caught.value.errno == errno.ENAMETOOLONG
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------- what nobody may write


READ_ONLY = [
    folder_member("./", 0o555),
    folder_member("closed", 0o555),
    file("closed/large", body(2 * MIB), 0o444),
    folder_member("closed/inner", 0o500),
    file("closed/inner/small", b"small", 0o400),
    file("hidden", b"none may read it", 0o000),
    folder_member("shut", 0o111),
    file("shut/in", b"in", 0o444),
    file("large", body(2 * MIB, "v2"), 0o444),
]


def modes(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mode & 0o777 for p in out.rglob("*")}


MODES = {name: mode for name, _, mode, _ in READ_ONLY if name != "./"}


@pytest.mark.parametrize(
    ("place", "kind", "hashed"),
    [
        ("new", "tar", False),
        ("new", "tar.zst", True),
        ("empty", "tar", True),
        ("empty", "tar.zst", False),
        ("again", "tar", False),
        ("again", "tar.zst", True),
    ],
)
def test_members_that_may_not_be_written_are_made_by_nobody(
    server: Server, place: str, kind: str, hashed: bool
) -> None:
    data = packed(READ_ONLY)
    if kind == "tar.zst":
        data = zstandard.compress(data)
    url = serve(server, data=data)
    check = ("--checksum", f"sha256:{digest(data)}") if hashed else ()
    with folder_of_nobody() as home:
        out = home / "out"
        if place == "empty":
            out.mkdir()
            if os.geteuid() == 0:
                os.chown(out, home.stat().st_uid, home.stat().st_gid)
        if place == "again":
            # What is there for its own archive to be extracted over it need not be open itself.
            ended = run("-x", serve(server, data=packed(READ_ONLY[1:])), out, unprivileged=True)
            assert ended.code == 0, ended.err
            serve(server, data=data)
        ended = run("-x", "-f", url, out, *check, unprivileged=True)
        assert ended.code == 0, ended.err
        assert tree(out) == tree_of(READ_ONLY)
        assert modes(out) == MODES
        assert names_in(home) == ["out"]


@pytest.mark.parametrize("hashed", [False, True], ids=["", "hashed"])
@pytest.mark.parametrize("place", ["new", "empty"])
def test_members_that_may_not_be_written_are_taken_over_by_nobody(
    server: Server, place: str, hashed: bool
) -> None:
    data = packed([*READ_ONLY, file("last", body(MIB, "last"))])
    check = ("--checksum", f"sha256:{digest(data)}") if hashed else ()
    gate = Gate()
    url = serve(server, GateAfter(0, gate, when=When(covers=len(data) - 200_000)), data=data)
    with folder_of_nobody() as home:
        out = home / "out"
        if place == "empty":
            out.mkdir()
            if os.geteuid() == 0:
                os.chown(out, home.stat().st_uid, home.stat().st_gid)
        options = ("-c", "2", "-m", "400k", *check)
        with Run("-x", url, out, *options, unprivileged=True) as running:
            gate.wait_reached()
            killed_when(running, lambda: written(out).size > len(data) - 1_200_000)
        gate.open()
        serve(server, data=data)
        ended = run("-x", url, out, *check, "--json", unprivileged=True)
        assert result_of(ended)["resumed"] > 3 * MIB
        assert tree(out) == {**tree_of(READ_ONLY), "last": body(MIB, "last")}
        assert {name: mode for name, mode in modes(out).items() if name != "last"} == MODES
        assert names_in(home) == ["out"]


@pytest.mark.parametrize("compress", [bytes, zstandard.compress], ids=["tar", "tar.zst"])
def test_members_that_may_not_be_written_are_taken_away_by_nobody(
    server: Server, compress: Callable[[bytes], bytes]
) -> None:
    url = serve(server, data=compress(packed(READ_ONLY)))
    with folder_of_nobody() as home:
        wrong = ("--checksum", f"sha256:{'0' * 64}")
        ended = run("-x", url, home / "out", *wrong, unprivileged=True)
        assert ended.code == 1
        assert "checksum" in last_line(ended) or "sha256" in last_line(ended)
        assert names_in(home) == []


# ------------------------------------------------------------------- Ctrl-C and SIGTERM


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("tar", signal.SIGINT),
        ("tar", signal.SIGTERM),
        ("decoding", signal.SIGTERM),
        ("limited", signal.SIGINT),
        ("no ranges", signal.SIGTERM),
    ],
)
def test_a_signal_midway_is_one_line_and_the_same_command_ends_well(
    server: Server, tmp_path: Path, way: str, number: int
) -> None:
    out = tmp_path / "out"
    data = zstandard.compress(archive_of()) if way == "decoding" else archive_of()
    faults = (IgnoreRange(),) if way == "no ranges" else ()
    url = serve(server, *faults, *slow(data), data=data)
    options = ("--limit-rate", "3M") if way == "limited" else ()
    with Run("-x", url, out, "-c", "2", "-m", "400k", *options) as running:
        running.wait_until(lambda: server.sent("/w.tar") > 2 * MIB)
        if way in ("tar", "limited"):
            running.wait_until(lambda: written(out).size > MIB)
        running.send(number)
        ended = running.wait(30)
    assert ended.code == CODES[signal.Signals(number)]
    assert last_line(ended).startswith("pgetpy: interrupted")
    assert not out.exists()
    if way in ("decoding", "no ranges"):
        assert names_in(tmp_path) == []
    serve(server, data=data)
    result = result_of(run("-x", url, out, "--json"))
    assert (result["resumed"] > 0) == (way in ("tar", "limited"))
    assert tree(out) == expected()
    assert names_in(tmp_path) == ["out"]


# ------------------------------------------------------------------- manifests


def test_a_manifest_of_archives_with_a_bad_one_among_them(server: Server, tmp_path: Path) -> None:
    good = serve(server)
    bad = serve(server, data=b"<html>" * 200, path="/bad")
    other = serve(server, data=bz2.compress(packed([file("a", b"a")])), path="/other.tar.bz2")
    lines = [f"{good} {tmp_path}/good", f"{bad} {tmp_path}/bad", f"{other} {tmp_path}/other"]
    (tmp_path / "manifest").write_text("\n".join(lines))
    ended = run("multifile", "-x", tmp_path / "manifest", "--json")
    assert ended.code == 1
    assert "format is not known" in ended.err
    assert "Traceback" not in ended.err
    assert tree(tmp_path / "good") == expected()
    assert tree(tmp_path / "other") == {"a": b"a"}
    assert names_in(tmp_path) == ["good", "manifest", "other"]


def test_one_line_of_a_manifest_may_be_an_archive(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    (tmp_path / "manifest").write_text(f"{url} {tmp_path}/file\n{url} {tmp_path}/folder -x\n")
    ended = run("multifile", tmp_path / "manifest", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out.splitlines()[-1])
    assert (tmp_path / "file").read_bytes() == archive_of()
    assert tree(tmp_path / "folder") == expected()
    assert names_in(tmp_path) == ["file", "folder", "manifest"]


def test_two_lines_of_a_manifest_may_not_have_one_folder(server: Server, tmp_path: Path) -> None:
    one, two = serve(server), serve(server, path="/two")
    (tmp_path / "manifest").write_text(f"{one} {tmp_path}/out\n{two} {tmp_path}/out\n")
    ended = run("multifile", "-x", tmp_path / "manifest")
    assert ended.code in (1, 2)
    assert "Traceback" not in ended.err


# ------------------------------------------------------------------- what DEST may be


def a_file(home: Path) -> None:
    (home / "out").write_bytes(b"precious")


def a_full_folder(home: Path) -> None:
    (home / "out").mkdir()
    (home / "out" / "precious").write_bytes(b"precious")


def a_link_to_a_file(home: Path) -> None:
    (home / "file").write_bytes(b"precious")
    (home / "out").symlink_to("file")


def a_loop(home: Path) -> None:
    (home / "out").symlink_to("out")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (a_file, "is not a folder"),
        (a_link_to_a_file, "is not a folder"),
        (a_full_folder, "already exists and is not empty"),
        (a_loop, ""),
    ],
)
def test_a_destination_that_will_not_do_is_one_line(
    server: Server, tmp_path: Path, made: Callable[[Path], None], words: str
) -> None:
    made(tmp_path)
    before = sorted(path.lstat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")])
    ended = run("-x", serve(server), tmp_path / "out")
    assert ended.code == 1
    assert words in last_line(ended)
    if made is a_full_folder:
        assert "-f" in ended.err
        with pytest.raises(DestinationError, match=words):
            extract(server.url("/w.tar"), tmp_path / "out")
    else:
        assert run("-x", "-f", server.url("/w.tar"), tmp_path / "out").code == 1
    assert before == sorted(path.lstat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")])


def test_an_archive_does_not_go_to_standard_output(server: Server, tmp_path: Path) -> None:
    ended = run("-x", serve(server), "-", cwd=tmp_path)
    assert ended.code in (1, 2)
    assert ended.out == ""
    last_line(ended)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("there", [True, False], ids=["to a folder", "dangling"])
def test_a_link_is_resolved_once(server: Server, tmp_path: Path, there: bool) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if there:
        (store / "real").mkdir()
    (tmp_path / "out").symlink_to("store/real")
    killed_midway(server, store / "real")
    ended = run("-x", server.url("/w.tar"), tmp_path / "out", "--json")
    assert result_of(ended)["resumed"] > MIB
    assert (tmp_path / "out").is_symlink()
    assert tree(store / "real") == expected()
    assert names_in(store) == ["real"]
    assert names_in(tmp_path) == ["out", "store"]


def test_a_folder_left_by_a_kill_needs_force_for_another_archive(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_bytes(b"precious")
    killed_midway(server, out, "-f")
    other = serve(server, data=packed([file("a", b"a")]), path="/other.tar")
    ended = run("-x", other, out)
    assert ended.code == 1
    assert "already exists and is not empty" in last_line(ended)
    assert not (out / "a").exists()


def test_what_a_kill_left_of_trying_out_locks_does_not_count(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{'0' * 16}.pgetpy-lock").touch()
    ended = run("-x", serve(server), out)
    assert ended.code == 0, ended.err
