"""Disks and folders that are full, closed, gone or in the way; and what a finished file is like."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.destinations.journal import parse_journal
from pgetpy.errors import DestinationError, DiskFullError, PgetError
from pgetpy.settings import Proxies
from tests.support.bodies import body, digest
from tests.support.children import MIB, PAGE, bytes_asked, events_of, journal_of, part_of
from tests.support.delivery import Gate
from tests.support.faults import Chunked, Dam, Fault, GateAfter, Http10, IgnoreRange, When, at_least
from tests.support.fetching import Events, fetch, names_in, unchanged
from tests.support.processes import Run, folder_of_nobody, limited_tmpfs, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(8 * MIB)
BOTH = pytest.mark.usefixtures("transport")


def serve(server: Server, *faults: Fault, data: bytes = BODY, path: str = "/model") -> str:
    return server.add(path, Resource(data, faults=faults))


def fill_up(folder: Path) -> Path:
    """Write a file into `folder` until there is no room for another byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(PAGE)):
            pass
    assert os.statvfs(folder).f_bavail == 0
    return filler


# ------------------------------------------------------------------- a full disk


@pytest.fixture(params=["direct", "aiohttp", "TLS", "hashed"])
def way(request: pytest.FixtureRequest) -> tuple[Server, dict[str, Any]]:
    """A server and the options of a way to it."""
    options: dict[str, Any] = {"retries": 0}
    if request.param == "TLS":
        options["cacert"] = str(request.getfixturevalue("ca").pem)
    if request.param == "aiohttp":
        # Through a proxy everything goes by the full client.
        options["proxies"] = Proxies(http=request.getfixturevalue("proxy").url())
    if request.param == "hashed":
        options["checksum"] = f"sha256:{digest(BODY)}"
    name = "tls_server" if request.param == "TLS" else "server"
    return request.getfixturevalue(name), options


def fill_midway(server: Server, dest: Path, **options: Any) -> DiskFullError:
    """The error of a run to `dest` whose disk fills up, by a file beside it, when some has come."""
    gate = Gate()
    url = serve(server, Dam(5_100_000, gate))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch, url, dest, chunk_size=1_500_000, **options)
        gate.wait_reached()
        eventually(lambda: journal_of(dest).read_bytes().count(b"\n") > 2)
        fill_up(dest.parent)
        gate.open()
        with pytest.raises(DiskFullError) as caught:
            running.result(30)
    server.requests.clear()
    return caught.value


def held(dest: Path) -> int:
    """Bytes that the journal of `dest` vouches for; they are what the object has there."""
    part = part_of(dest).read_bytes()
    written = parse_journal(journal_of(dest).read_bytes()).written
    for span in written:
        assert part[span.start : span.stop] == BODY[span.start : span.stop]
    return written.size


def test_a_disk_that_fills_up_midway_is_one_error_and_a_rerun_goes_on(
    way: tuple[Server, dict[str, Any]],
) -> None:
    server, options = way
    with limited_tmpfs(12 * MIB) as folder:
        dest = folder / "got"
        error = fill_midway(server, dest, **options)
        assert error.errno == errno.ENOSPC
        assert error.needed is None
        assert str(error).startswith(f"the disk of {dest} is full (")
        assert "run it again" in str(error)
        assert names_in(folder) == sorted([journal_of(dest).name, part_of(dest).name, "filler"])
        left = held(dest)
        assert left > MIB
        (folder / "filler").unlink()
        result = fetch(server.url("/model"), dest, **options)
        assert dest.read_bytes() == BODY
        assert names_in(folder) == ["got"]
        assert result.resumed == left
        assert bytes_asked(server, "/model") <= len(BODY) - left


@pytest.mark.parametrize("size", [len(BODY), 1000])
def test_a_disk_without_inodes_is_said_to_have_none(server: Server, size: int) -> None:
    url = server.add("/model", Resource(BODY[:size]))
    with limited_tmpfs(12 * MIB, inodes=2) as folder:
        (folder / "other").touch()
        with pytest.raises(DiskFullError, match=r"has no inodes left for new files.*`df -i`"):
            fetch(url, folder / "got")
        assert names_in(folder) == ["other"]
        (folder / "other").unlink()


def test_a_rerun_that_comes_before_there_is_room_loses_nothing(
    way: tuple[Server, dict[str, Any]],
) -> None:
    server, options = way
    with limited_tmpfs(12 * MIB) as folder:
        dest = folder / "got"
        fill_midway(server, dest, **options)
        left = held(dest)
        for _ in range(2):
            with pytest.raises(DiskFullError) as caught:
                fetch(server.url("/model"), dest, **options)
            # There may be room in the holes of the last page, but not for more.
            assert 0 < (caught.value.needed or 0) <= len(BODY) - left + PAGE
            assert held(dest) == left
        (folder / "filler").unlink()
        assert fetch(server.url("/model"), dest, **options).resumed == left
        assert dest.read_bytes() == BODY


def test_a_full_disk_is_one_line_of_the_command_line(server: Server) -> None:
    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    with limited_tmpfs(12 * MIB) as folder, Run(url, folder / "got", "-c", "4") as running:
        gate.wait_reached()
        running.wait_until(journal_of(folder / "got").exists)
        fill_up(folder)
        gate.open()
        ended = running.wait()
    assert ended.code == 1
    assert ended.out == ""
    said = [line for line in ended.err.splitlines() if line.startswith("pgetpy: ")]
    assert len(said) == 1
    assert "is full" in said[0]
    assert "Traceback" not in ended.err


@BOTH
@pytest.mark.parametrize(
    "faults", [(IgnoreRange(), Chunked()), (Http10(),)], ids=["chunked", "1.0"]
)
def test_a_body_of_unknown_size_that_fills_the_disk_leaves_nothing(
    server: Server, faults: tuple[Fault, ...]
) -> None:
    url = serve(server, *faults)
    with limited_tmpfs(2 * MIB) as folder:
        with pytest.raises(DiskFullError):
            fetch(url, folder / "got")
        assert names_in(folder) == []


@BOTH
@pytest.mark.parametrize("size", [1000, MIB, 3 * MIB, 8 * MIB])
@pytest.mark.parametrize("dest", ["got", "new/folder/got", "new/"])
def test_room_that_is_missing_is_seen_before_the_first_byte_is_written(
    server: Server, size: int, dest: str
) -> None:
    url = serve(server, data=BODY[:size])
    with limited_tmpfs(4 * MIB) as folder:
        if size < 4 * MIB:
            (folder / "other").write_bytes(bytes(4 * MIB - size // 2 // PAGE * PAGE))
        with unchanged(folder), pytest.raises(DiskFullError) as caught:
            fetch(url, f"{folder}/{dest}")
        assert caught.value.needed == size
        assert caught.value.free < size
        assert f"{size} bytes needed" in str(caught.value)
        assert len(server.requests) == 1


@BOTH
def test_space_that_is_to_stay_free_stays_free(server: Server) -> None:
    url = serve(server)
    with limited_tmpfs(12 * MIB) as folder:
        with unchanged(folder), pytest.raises(DiskFullError, match="to stay free") as caught:
            fetch(url, folder / "got", min_free=5 * MIB)
        assert caught.value.needed == len(BODY)
        assert caught.value.keep == 5 * MIB
        fetch(url, folder / "got", min_free=3 * MIB)
        assert (folder / "got").read_bytes() == BODY
        ended = run(url, folder / "again", "--min-free", "5M")
        assert ended.code == 1
        assert "to stay free" in ended.err
        assert names_in(folder) == ["got"]


def test_only_the_rest_of_what_is_there_needs_room(server: Server) -> None:
    gate = Gate()
    url = serve(server, GateAfter(600_000, gate, when=When(request=at_least(6))))
    with limited_tmpfs(12 * MIB) as folder:
        dest = folder / "got"
        with Run(url, dest, "-c", "1", "-m", "1M") as running:
            gate.wait_reached()
            running.wait_until(lambda: journal_of(dest).read_bytes().count(b"\n") > 10)
            running.kill()
        gate.open()
        (folder / "other").write_bytes(bytes(3 * MIB))
        # There is no room for the whole a second time, nor for a whole new one.
        assert fetch(url, dest).resumed > 3 * MIB
        assert dest.read_bytes() == BODY


def test_a_file_that_is_overwritten_keeps_its_room_until_the_new_one_is_there(
    server: Server,
) -> None:
    url = serve(server)
    with limited_tmpfs(12 * MIB) as folder:
        (folder / "got").write_bytes(bytes(6 * MIB))
        with unchanged(folder), pytest.raises(DiskFullError):
            fetch(url, folder / "got", force=True)


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC])
def test_a_quota_that_is_used_up_is_a_full_disk(
    server: Server, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_writes(monkeypatch, number)
    with pytest.raises(DiskFullError):
        fetch(serve(server), tmp_path / "got")


def test_a_disk_that_breaks_is_an_error_with_its_words(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_writes(monkeypatch, errno.EIO)
    with pytest.raises(DestinationError, match="input/output error") as caught:
        fetch(serve(server), tmp_path / "got")
    assert caught.value.errno == errno.EIO
    assert not (tmp_path / "got").exists()


def refuse_writes(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the system refuse to write data to files, with this error number."""

    def refused(*_: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    splice = os.splice

    def spliced(src: int, dst: int, count: int, *places: object, **named: object) -> int:
        if stat.S_ISREG(os.fstat(dst).st_mode):
            return refused()
        return splice(src, dst, count, *places, **named)

    monkeypatch.setattr(os, "pwrite", refused)
    monkeypatch.setattr(os, "splice", spliced)


# ------------------------------------------------------------------- limits and permissions


@pytest.mark.parametrize(
    "faults", [(), (IgnoreRange(),), (IgnoreRange(), Chunked())], ids=["ranges", "200", "chunked"]
)
def test_a_file_larger_than_the_limit_of_the_process_is_an_error(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    url = serve(server, *faults)
    with unchanged(tmp_path):
        ended = run(url, tmp_path / "got", file_size=2 * MIB)
    assert ended.code == 1
    assert "file too large" in ended.err
    assert "Traceback" not in ended.err


def closed(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "got"


def closed_to_look_at(folder: Path) -> Path:
    (folder / "inner").mkdir()
    (folder / "inner").chmod(0)
    return folder / "inner" / "got"


def of_another(folder: Path) -> Path:
    return Path("/") / "got-by-nobody"


@pytest.mark.parametrize("place", [closed, of_another])
@pytest.mark.parametrize("data", [BODY, BODY[:1000], b""], ids=len)
def test_a_folder_that_may_not_be_written_is_an_error_in_one_line(
    server: Server, place: Callable[[Path], Path], data: bytes
) -> None:
    url = serve(server, data=data)
    with folder_of_nobody() as folder:
        dest = place(folder)
        with unchanged(folder):
            ended = run(url, dest, unprivileged=True)
        assert ended.code == 1
        (line,) = ended.err.splitlines()
        assert line.startswith(f"pgetpy: destination {dest} cannot be written: permission denied")
        assert not dest.exists()


def test_a_folder_that_may_not_be_entered_is_an_error_in_one_line(server: Server) -> None:
    with folder_of_nobody() as folder:
        dest = closed_to_look_at(folder)
        ended = run(serve(server), dest, unprivileged=True)
        assert ended.code == 1
        (line,) = ended.err.splitlines()
        assert "permission denied" in line


@contextmanager
def read_only() -> Iterator[Path]:
    with limited_tmpfs(16 * MIB) as folder:
        remount = ["mount", "-o", "remount,ro", str(folder)]
        subprocess.run(remount, check=True)
        yield folder


@pytest.mark.parametrize("data", [BODY, BODY[:1000]], ids=len)
@pytest.mark.parametrize("dest", ["got", "new/got"])
def test_a_read_only_file_system_is_an_error_in_one_line(
    server: Server, data: bytes, dest: str
) -> None:
    url = serve(server, data=data)
    with read_only() as folder:
        ended = run(url, folder / dest)
        assert names_in(folder) == []
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert "read-only file system" in line


@pytest.mark.parametrize(
    ("dest", "words"),
    [
        ("file/got", "not a directory"),
        ("n" * 300, "name too long"),
        ("loop/got", "too many levels of symbolic links"),
        ("loop", "too many levels of symbolic links"),
    ],
)
def test_a_path_that_cannot_be_is_an_error_with_the_systems_words(
    server: Server, tmp_path: Path, dest: str, words: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_bytes(b"precious")
    (home / "loop").symlink_to("loop")
    with unchanged(tmp_path), pytest.raises(DestinationError, match=words):
        fetch(serve(server), home / dest)


@pytest.mark.parametrize("own", [part_of, journal_of])
def test_what_stands_where_the_part_file_or_journal_goes_is_not_harmed(
    server: Server, tmp_path: Path, own: Callable[[Path], Path]
) -> None:
    url = serve(server)
    (tmp_path / "precious").write_bytes(b"precious")
    own(tmp_path / "got").symlink_to(tmp_path / "precious")
    with pytest.raises(PgetError):
        fetch(url, tmp_path / "got")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    own(tmp_path / "got").unlink()
    own(tmp_path / "got").mkdir()
    with pytest.raises(PgetError):
        fetch(url, tmp_path / "got")
    assert own(tmp_path / "got").is_dir()
    assert not (tmp_path / "got").exists()


# ------------------------------------------------------------------- what changes under a run


@BOTH
def test_a_folder_that_vanishes_midway_is_an_error(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    folder = tmp_path / "folder"
    folder.mkdir()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch, url, folder / "got")
        gate.wait_reached()
        eventually(part_of(folder / "got").exists)
        shutil.rmtree(folder)
        gate.open()
        with pytest.raises(DestinationError, match="no such file"):
            running.result(30)
    assert names_in(tmp_path) == []
    fetch(url, folder / "got")
    assert (folder / "got").read_bytes() == BODY


@BOTH
def test_a_folder_that_takes_the_destinations_name_midway_is_an_error(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    dest = tmp_path / "got"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch, url, dest)
        gate.wait_reached()
        (dest / "precious").mkdir(parents=True)
        gate.open()
        with pytest.raises(DestinationError):
            running.result(30)
    assert names_in(dest) == ["precious"]
    shutil.rmtree(dest)
    server.requests.clear()
    # All of it had come.
    assert fetch(url, dest).resumed == len(BODY)
    assert server.sent("/model") == 1
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


@BOTH
def test_nothing_stands_at_the_destination_until_it_is_whole(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, GateAfter(600_000, gate, when=When(request=at_least(2))))
    (tmp_path / "old").write_bytes(b"old")
    with ThreadPoolExecutor(2) as pool:
        # With one connection each, so that nobody asks elsewhere for what stands at the gate.
        options = {"concurrency": 1, "chunk_size": 100 * MIB}
        new = pool.submit(fetch, url, tmp_path / "new", **options)
        old = pool.submit(fetch, url, tmp_path / "old", force=True, **options)
        server.wait_until(lambda: sum(seen.sent == 600_000 for seen in server.requests) >= 2)
        eventually(lambda: part_of(tmp_path / "old").exists())
        assert not (tmp_path / "new").exists()
        assert (tmp_path / "old").read_bytes() == b"old"
        gate.open()
        new.result(30)
        old.result(30)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes() == BODY
    assert names_in(tmp_path) == ["new", "old"]


# ------------------------------------------------------------------- what a finished file is like


@BOTH
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
@pytest.mark.parametrize("data", [BODY, BODY[:1000], b""], ids=len)
def test_a_file_has_the_mode_of_any_new_file(
    server: Server, tmp_path: Path, mask: int, data: bytes
) -> None:
    url = serve(server, data=data)
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o600)
    before = os.umask(mask)
    try:
        fetch(url, tmp_path / "new")
        fetch(url, tmp_path / "old", force=True)
        fetch(url, tmp_path / "folder" / "new")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o666 & ~mask
    assert (tmp_path / "old").stat().st_mode & 0o7777 == 0o600, "what is replaced"
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


@BOTH
@pytest.mark.parametrize("data", [BODY, BODY[:1000]], ids=len)
def test_force_replaces_and_whoever_reads_the_old_file_keeps_it(
    server: Server, tmp_path: Path, data: bytes
) -> None:
    url = serve(server, data=data)
    dest = tmp_path / "got"
    dest.write_bytes(b"old")
    dest.chmod(0o444)
    (tmp_path / "link").hardlink_to(dest)
    with unchanged(tmp_path), pytest.raises(DestinationError, match="already exists"):
        fetch(url, dest)
    with dest.open("rb") as reader:
        fetch(url, dest, force=True)
        assert dest.read_bytes() == data
        assert reader.read() == b"old"
    assert (tmp_path / "link").read_bytes() == b"old"


@BOTH
def test_a_link_to_nothing_yet_is_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "got").symlink_to("store/blob")
    fetch(serve(server), tmp_path / "got")
    assert (tmp_path / "got").is_symlink()
    assert (tmp_path / "store" / "blob").read_bytes() == BODY
    assert names_in(tmp_path / "store") == ["blob"]


def test_a_link_to_a_file_is_followed_with_force_only(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    (tmp_path / "blob").write_bytes(b"old")
    (tmp_path / "got").symlink_to("blob")
    with unchanged(tmp_path), pytest.raises(DestinationError, match="already exists"):
        fetch(url, tmp_path / "got")
    fetch(url, tmp_path / "got", force=True)
    assert (tmp_path / "got").is_symlink()
    assert (tmp_path / "blob").read_bytes() == BODY


def test_a_relative_destination_stays_where_it_was_meant(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    assert run(url, "got", cwd=tmp_path).code == 0
    assert (tmp_path / "got").read_bytes() == BODY


class Calls:
    """Which system calls on files were made, and in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        for name in ("fsync", "fdatasync", "replace"):
            self._watch(monkeypatch, name, getattr(os, name))

    def _watch(
        self, monkeypatch: pytest.MonkeyPatch, name: str, call: Callable[..., object]
    ) -> None:
        def watched(first: object, *rest: object) -> object:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            self.made.append((name, path))
            return call(first, *rest)

        monkeypatch.setattr(os, name, watched)


@BOTH
@pytest.mark.parametrize("data", [BODY, BODY[:1000]], ids=len)
def test_fsync_is_of_the_file_before_it_has_its_name_and_of_the_folder_after(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    url = serve(server, data=data)
    calls = Calls(monkeypatch)
    fetch(url, tmp_path / "plain")
    (renamed,) = calls.made
    assert renamed[0] == "replace"
    calls.made.clear()
    fetch(url, tmp_path / "synced", fsync=True)
    (file, renamed, folder) = calls.made
    assert file == ("fsync", renamed[1])
    assert renamed[0] == "replace"
    assert folder == ("fsync", str(tmp_path))


def test_fsync_of_the_command_line_ends_well(server: Server, tmp_path: Path) -> None:
    ended = run(serve(server), tmp_path / "got", "--fsync", "--progress", "json")
    assert ended.code == 0
    assert events_of(ended, "finished")
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_callers_progress_that_raises_leaves_what_a_rerun_can_use(
    server: Server, tmp_path: Path
) -> None:
    from pgetpy.core.report.events import Event, Progressed

    class SpoiledError(Exception):
        pass

    def spoil(event: Event) -> None:
        if isinstance(event, Progressed) and event.done > 2 * MIB:
            raise SpoiledError

    url = serve(server)
    with pytest.raises(SpoiledError):
        fetch(url, tmp_path / "got", progress=spoil, chunk_size=MIB, limit_rate=20 * MIB)
    assert names_in(tmp_path) == [journal_of(tmp_path / "got").name, part_of(tmp_path / "got").name]
    events = Events()
    result = fetch(url, tmp_path / "got", progress=events)
    assert result.resumed > MIB
    assert (tmp_path / "got").read_bytes() == BODY
