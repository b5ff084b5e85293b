"""Archives that become folders while they arrive: from a server, through the whole engine."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest
import zstandard

from pgetpy.errors import (
    ArchiveError,
    DestinationError,
    DigestMismatchError,
    TransferError,
    TruncatedArchiveError,
    UnsafeMemberError,
)
from tests.support.bodies import body
from tests.support.faults import IgnoreRange, ResetAt
from tests.support.fetching import contents, extract, names_in
from tests.support.resources import Resource
from tests.support.server import Server

MIB = 1 << 20


def tar_of(files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mtime = 1_700_000_000
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


WEIGHTS = {
    "model/config.json": b'{"a": 1}',
    "model/weights-1.safetensors": body(9 * MIB),
    **{f"small/{n}": body(1000 + n) for n in range(50)},
    "model/weights-2.safetensors": body(7 * MIB + 17),
    "empty": b"",
}


def test_a_plain_tar_becomes_a_folder(server: Server, tmp_path: Path) -> None:
    url = server.add("/weights.tar", Resource(tar_of(WEIGHTS)))
    result = extract(url, tmp_path / "out")
    assert contents(tmp_path / "out") == WEIGHTS
    assert set(result.members) == set(WEIGHTS)
    assert names_in(tmp_path) == ["out"]


# What takes long to compress is little.
LITTLE = {"model/config.json": b"{}", "model/weights.safetensors": body(MIB), "empty": b""}


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".tar.gz", gzip.compress),
        (".tar.bz2", bz2.compress),
        (".tar.xz", lzma.compress),
        (".tar.zst", zstandard.compress),
        (".tar.lz4", lz4.frame.compress),
        (".tar.lzma", lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE)),
    ],
)
def test_a_compressed_tar_becomes_a_folder(
    server: Server, tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    files = WEIGHTS if suffix in (".tar.zst", ".tar.lz4") else LITTLE
    packed = compress(tar_of(files))
    url = server.add(f"/weights{suffix}", Resource(packed))
    digest = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    result = extract(url, tmp_path / "out", checksum=digest)
    assert contents(tmp_path / "out") == files
    assert result.digest == digest
    assert names_in(tmp_path) == ["out"]


def test_a_single_compressed_file_is_undone_under_its_own_name(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/model.safetensors.zst", Resource(zstandard.compress(body(3 * MIB))))
    result = extract(url, tmp_path / "out")
    assert contents(tmp_path / "out") == {"model.safetensors": body(3 * MIB)}
    assert result.members == ("model.safetensors",)


def test_the_checksum_is_of_the_archive_as_it_was_sent(server: Server, tmp_path: Path) -> None:
    packed = tar_of(WEIGHTS)
    url = server.add("/weights.tar", Resource(packed))
    digest = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert extract(url, tmp_path / "out", checksum=digest).digest == digest
    assert contents(tmp_path / "out") == WEIGHTS


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_a_wrong_checksum_leaves_nothing(
    server: Server, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    url = server.add("/weights.tar", Resource(compress(tar_of(WEIGHTS))))
    with pytest.raises(DigestMismatchError):
        extract(url, tmp_path / "out", checksum=f"sha256:{'0' * 64}")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_a_server_without_ranges_will_do(
    server: Server, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    url = server.add("/weights.tar", Resource(compress(tar_of(WEIGHTS)), faults=[IgnoreRange()]))
    extract(url, tmp_path / "out")
    assert contents(tmp_path / "out") == WEIGHTS


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("cut", [1024, 9 * MIB, 3 * MIB + 7])
def test_a_truncated_archive_leaves_nothing(
    server: Server, tmp_path: Path, compress: Callable[[bytes], bytes], cut: int
) -> None:
    whole = tar_of(WEIGHTS).rstrip(b"\0")
    packed = compress(whole) if compress is bytes else compress(tar_of(WEIGHTS))
    url = server.add("/weights.tar", Resource(packed[:-cut]))
    with pytest.raises(TruncatedArchiveError):
        extract(url, tmp_path / "out")
    assert names_in(tmp_path) == []


def test_a_member_that_would_leave_the_folder_is_refused_by_name(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/evil.tar", Resource(tar_of({"fine": b"1", "../evil": b"2"})))
    with pytest.raises(UnsafeMemberError, match=r"\.\./evil"):
        extract(url, tmp_path / "out")
    assert names_in(tmp_path) == []


def test_what_is_no_archive_is_refused(server: Server, tmp_path: Path) -> None:
    url = server.add("/weights.tar", Resource(b"<html>not found</html>" * 100))
    with pytest.raises(ArchiveError):
        extract(url, tmp_path / "out")
    assert names_in(tmp_path) == []


def test_a_folder_that_holds_something_needs_force(server: Server, tmp_path: Path) -> None:
    url = server.add("/weights.tar", Resource(tar_of(WEIGHTS)))
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    (out / "model" / "config.json").write_text("old")
    (out / "other").write_text("kept")
    with pytest.raises(DestinationError, match="not empty"):
        extract(url, out)
    extract(url, out, force=True)
    assert contents(out) == {**WEIGHTS, "other": b"kept"}
    assert names_in(out) == ["empty", "model", "other", "small"]


def test_a_folder_below_a_file_is_refused_in_the_systems_words(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/weights.tar", Resource(tar_of(WEIGHTS)))
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(DestinationError, match="not a directory"):
        extract(url, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_an_empty_folder_is_filled_in_place(server: Server, tmp_path: Path) -> None:
    url = server.add("/weights.tar", Resource(tar_of(WEIGHTS)))
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    extract(url, out)
    assert out.stat().st_ino == before
    assert contents(out) == WEIGHTS


def test_nothing_is_written_through_a_link_that_was_there_before(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/weights.tar", Resource(tar_of(WEIGHTS)))
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "model").symlink_to(elsewhere)
    with pytest.raises(DestinationError, match="model"):
        extract(url, out, force=True)
    assert names_in(elsewhere) == []
    assert [name for name in names_in(out) if "pgetpy" not in name] == ["model"]
    (out / "model").unlink()
    extract(url, out, force=True)
    assert contents(out) == WEIGHTS


def test_a_transfer_that_failed_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    packed = tar_of(WEIGHTS)
    url = server.add("/weights.tar", Resource(packed, etag='"1"', faults=[ResetAt(3 * MIB)]))
    with pytest.raises(TransferError):
        extract(url, tmp_path / "out", retries=0)
    assert not (tmp_path / "out").exists()
    server.change("/weights.tar", faults=[])
    result = extract(url, tmp_path / "out")
    assert result.resumed > MIB
    assert contents(tmp_path / "out") == WEIGHTS
    assert names_in(tmp_path) == ["out"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells what is open")
@pytest.mark.parametrize("name", ["weights.tar.gz", "weights.bin.gz", "weights.tar"])
def test_a_failed_extraction_leaves_nothing_open(server: Server, tmp_path: Path, name: str) -> None:
    plain = body(3 * MIB) if ".bin" in name else tar_of(WEIGHTS)[: 5 * MIB]
    packed = gzip.compress(plain, 1)[:-2000] if name.endswith(".gz") else plain
    url = server.add(f"/{name}", Resource(packed))
    opened = []
    for _ in range(3):
        with pytest.raises(TruncatedArchiveError):
            extract(url, tmp_path / "out")
        opened.append(
            {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        )
    assert not any(str(tmp_path) in target for targets in opened for target in targets)
