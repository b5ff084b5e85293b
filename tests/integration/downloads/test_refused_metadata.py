"""File systems that keep no permissions, times or owners, or cannot flush: content decides."""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import pgetpy
from pgetpy.cli import main
from tests.support.bodies import body
from tests.support.children import in_namespace, journal_of, part_of
from tests.support.fetching import contents, extract, fetch, names_in
from tests.support.processes import NOBODY, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.zips import by_zipfile

BODY = body(2_500_001)
OTHER = body(1_500_001, "older")
REFUSALS = (errno.EPERM, errno.EINVAL, errno.ENOTSUP)
SETTERS = ("chmod", "fchmod", "utime", "chown", "fchown", "fsync", "fdatasync")


@pytest.fixture
def url(server: Server) -> str:
    return server.add("/model.bin", Resource(BODY))


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, *names: str) -> None:
    """Have the system refuse these calls."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    for name in names:
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr(os, "supports_follow_symlinks", {*os.supports_follow_symlinks, os.utime})


def refuse_folders(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have the system flush files, but no folders."""
    own: Callable[[int], None] = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        own(fd)

    monkeypatch.setattr(os, "fsync", fsync)


def tar_of(members: dict[str, bytes], kind: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=kind) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("sub")
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, 1_600_000_000
        archive.addfile(folder)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(content), 1_600_000_000, 0o640
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("sub/link")
        link.type, link.linkname, link.mtime = tarfile.SYMTYPE, "b", 1_600_000_000
        archive.addfile(link)
    return buffer.getvalue()


MEMBERS = {"a": b"a" * 1000, "sub/b": body(700_000)}


def archive_of(kind: str) -> bytes:
    if kind == "zip":
        return by_zipfile(MEMBERS)
    return tar_of(MEMBERS, kind)


@pytest.mark.parametrize("code", REFUSALS)
def test_a_file_is_published_where_nothing_can_be_set(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "out").write_bytes(OTHER)
    (tmp_path / "out").chmod(0o600)
    refuse(monkeypatch, code, *SETTERS)
    fetch(url, tmp_path / "out", force=True, fsync=True)
    assert (tmp_path / "out").read_bytes() == BODY
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("code", REFUSALS)
def test_a_folder_that_cannot_be_flushed_is_no_failure(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_folders(monkeypatch, code)
    assert main([url, str(tmp_path / "out"), "--fsync"], environ={}) == 0
    assert (tmp_path / "out").read_bytes() == BODY


def test_the_command_line_warns_once(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    refuse_folders(monkeypatch, errno.EINVAL)
    assert main([url, str(tmp_path / "out"), "--fsync"], environ={}) == 0
    said = capfd.readouterr().err
    assert said.count("refuses to flush a folder: invalid argument") == 1
    assert "Traceback" not in said


def test_a_disk_that_fails_to_flush_is_a_failure(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, errno.EIO, "fsync")
    with pytest.raises(pgetpy.errors.DestinationError):
        fetch(url, tmp_path / "out", fsync=True)


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
@pytest.mark.parametrize("there", [False, True])
def test_members_are_extracted_where_nothing_can_be_set(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    code: int,
    *,
    there: bool,
) -> None:
    url = server.add("/archive", Resource(archive_of(kind)))
    if there:
        (tmp_path / "out").mkdir()
    refuse(monkeypatch, code, *SETTERS)
    with caplog.at_level(logging.WARNING, "pgetpy"):
        extract(url, tmp_path / "out", fsync=True)
    found = contents(tmp_path / "out")
    assert {name: found[name] for name in MEMBERS} == MEMBERS
    kinds = [record.getMessage() for record in caplog.records]
    assert len(kinds) == len(set(kinds)) > 0


def test_the_cache_takes_weights_where_nothing_can_be_set(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, errno.EPERM, *SETTERS)
    with pgetpy.WeightsDownloadCache(tmp_path / "cache", 0, any_file=True) as cache:
        assert cache.ensure(url).read_bytes() == BODY
        cache.settle()
        assert cache.ensure(url).read_bytes() == BODY


# ------------------------------------------------------------------ what is replaced keeps its mode


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o755, 0o400])
@pytest.mark.parametrize("content", [BODY, BODY[:1000]])
def test_force_keeps_the_mode_of_what_is_replaced(
    server: Server, tmp_path: Path, mode: int, content: bytes
) -> None:
    url = server.add("/any", Resource(content))
    out = tmp_path / "out"
    out.write_bytes(OTHER)
    out.chmod(mode)
    fetch(url, out, force=True)
    assert out.read_bytes() == content
    assert stat.S_IMODE(out.stat().st_mode) == mode


def test_set_id_bits_are_not_kept(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(OTHER)
    out.chmod(0o6755)
    fetch(url, out, force=True)
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_force_keeps_the_owner_of_what_is_replaced(url: str, tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    out.write_bytes(OTHER)
    os.chown(out, NOBODY, 33)
    out.chmod(0o640)
    link.symlink_to(out)
    fetch(url, link, force=True)
    there = out.stat()
    assert (there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode)) == (NOBODY, 33, 0o640)
    assert out.read_bytes() == BODY


def test_the_part_file_is_no_more_readable_than_what_it_replaces(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.write_bytes(OTHER)
    out.chmod(0o600)
    modes: list[int] = []
    own: Callable[..., Any] = os.replace

    def replace(source: Path, target: Path) -> None:
        own(source, target)

    def opened(path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        fd = own_open(path, flags, mode, **rest)
        if str(path) == str(part_of(out)):
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return fd

    own_open = os.open
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "replace", replace)
    fetch(url, out, force=True)
    assert modes == [0o600]


# ------------------------------------------------------------------ what cannot be replaced


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV])
@pytest.mark.parametrize("older", [OTHER, BODY + b"more", b""])
@pytest.mark.parametrize("content", [BODY, BODY[:1000]])
def test_what_cannot_be_replaced_is_written_in_place(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    older: bytes,
    content: bytes,
) -> None:
    url = server.add("/any", Resource(content))
    out = tmp_path / "out"
    out.write_bytes(older)
    before = out.stat().st_ino
    own = os.replace

    def replace(source: Any, target: Any, **rest: Any) -> None:
        if str(target) == str(out):
            raise OSError(code, os.strerror(code))
        own(source, target, **rest)

    monkeypatch.setattr(os, "replace", replace)
    with caplog.at_level(logging.WARNING, "pgetpy"):
        fetch(url, out, force=True)
    assert out.read_bytes() == content
    assert out.stat().st_ino == before
    assert names_in(tmp_path) == ["out"]
    assert "written in place" in caplog.text


def test_a_copy_that_is_cut_short_leaves_the_part_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.write_bytes(OTHER)

    def busy(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def broken(fd: int, size: int) -> None:
        if os.fstat(fd).st_ino == out.stat().st_ino:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        own(fd, size)

    own = os.ftruncate
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", busy)
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(pgetpy.errors.DestinationError):
            fetch(url, out, force=True)
    assert part_of(out).read_bytes() == BODY
    assert journal_of(out).exists()
    assert fetch(url, out, force=True).resumed == len(BODY)
    assert out.read_bytes() == BODY


def test_a_file_that_is_mounted_is_written_in_place(url: str, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "elsewhere"
    out.write_bytes(b"")
    other.write_bytes(OTHER)
    program = in_namespace(f"mount --bind {other} {out}")
    ended = run(url, out, "-f", program=program)
    if "mount" in ended.err and ended.code not in (0, 1):
        pytest.skip(f"nothing can be mounted: {ended.err}")
    assert ended.code == 0, ended.err
    assert other.read_bytes() == BODY
    assert "written in place" in ended.err
    assert names_in(tmp_path) == ["elsewhere", "out"]
