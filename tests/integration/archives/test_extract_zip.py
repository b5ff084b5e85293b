"""Zip archives that become folders: what is in them, and what is wrong with them."""

from __future__ import annotations

import asyncio
import bz2
import io
import json
import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

import pgetpy
from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.sink import ArchiveSink
from pgetpy.archives.spool import Spool
from pgetpy.core.archives.limits import Limits
from pgetpy.errors import (
    ArchiveError,
    LimitExceededError,
    TruncatedArchiveError,
    UnsafeMemberError,
)
from tests.support.attacks import ATTACKS, FILE, FOLDER, SECRET, SYMLINK, Attack
from tests.support.bodies import body, digest
from tests.support.children import last_line, result_of
from tests.support.delivery import Gate
from tests.support.faults import Fault, GateAfter, IgnoreRange, When
from tests.support.fetching import contents, extract, impatient, names_in
from tests.support.lzma_literals import unmarked_lzma
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.trees import bare, plain_tree, tree, umask
from tests.support.waiting import eventually
from tests.support.zips import (
    DOS,
    UNIX,
    Entry,
    Member,
    by_zipfile,
    deflated,
    deflated_entry,
    end,
    field,
    link,
    made,
    packed,
    parts,
    spans_of,
    zipped,
)

pytestmark = pytest.mark.usefixtures("forked_runs")

MIB = 1 << 20
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
BZIP2, LZMA = zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA
UTF8 = 0x0800
TEXT = b"the weights of the model, layer after layer; " * 3000

with_and_without_ranges = pytest.mark.parametrize(
    "faults", [(), (IgnoreRange(),)], ids=["ranges", "no ranges"]
)


def serve(server: Server, archive: bytes, *faults: Fault, path: str = "/weights.zip") -> str:
    return server.add(path, Resource(archive, faults=faults))


def extracted(server: Server, folder: Path, archive: bytes, *faults: Fault) -> dict[str, bytes]:
    """The files of the folder that an archive becomes."""
    extract(serve(server, archive, *faults), folder)
    assert names_in(folder.parent) == [folder.name]
    return contents(folder)


# ---------------------------------------------------------------------------- what is in them


WEIGHTS = {
    "model/config.json": b'{"a": 1}',
    "model/weights-1.safetensors": body(5 * MIB),
    **{f"small/{n}": body(1000 + n) for n in range(50)},
    "model/weights-2.safetensors": body(3 * MIB + 17),
    "model/vocabulary.txt": TEXT,
    "empty": b"",
}


@with_and_without_ranges
@pytest.mark.parametrize("method", [STORED, DEFLATED], ids=["stored", "deflated"])
def test_a_zip_becomes_a_folder(
    server: Server, tmp_path: Path, method: int, faults: tuple[Fault, ...]
) -> None:
    url = serve(server, by_zipfile(WEIGHTS, method), *faults)
    result = extract(url, tmp_path / "out")
    assert contents(tmp_path / "out") == WEIGHTS
    assert result.members == tuple(WEIGHTS)
    assert names_in(tmp_path) == ["out"]


VARIED = {
    "config.json": b'{"a": 1}',
    "weights": body(900_000) + bytes(800_000),
    **{f"small/{n}": body(100 + n) for n in range(20)},
    "text": TEXT,
    "empty": b"",
}


@lru_cache
def varied(method: int) -> bytes:
    """An archive of VARIED, and of a link that `method` compresses as well."""
    members = [Member(name, data, method=method) for name, data in VARIED.items()]
    return packed([*members, Member("link", b"text", stat.S_IFLNK | 0o777, method)])


@pytest.mark.parametrize(
    "options",
    [{}, {"concurrency": 1}, {"chunk_size": 200_000, "concurrency": 4}],
    ids=["usual", "one connection", "small ranges"],
)
@with_and_without_ranges
@pytest.mark.parametrize("method", [BZIP2, LZMA], ids=["bzip2", "LZMA"])
def test_other_methods_are_undone(
    server: Server, tmp_path: Path, method: int, faults: tuple[Fault, ...], options: dict[str, int]
) -> None:
    archive = varied(method)
    checksum = f"sha256:{digest(archive)}"
    extract(serve(server, archive, *faults), tmp_path / "out", checksum=checksum, **options)
    assert contents(tmp_path / "out") == {**VARIED, "link": TEXT}
    assert (tmp_path / "out" / "link").readlink() == Path("text")
    assert names_in(tmp_path) == ["out"]


@with_and_without_ranges
def test_lzma_may_end_without_a_marker(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    """As 7-Zip writes it."""
    files = {"large": body(250_000), "small": TEXT[:5000], "empty": b""}
    entries = [unmarked_entry(name.encode(), data) for name, data in files.items()]
    entries.append(unmarked_entry(b"link", b"small", external=(stat.S_IFLNK | 0o777) << 16))
    assert extracted(server, tmp_path / "out", made(*entries), *faults) == {
        **files, "link": files["small"],
    }  # fmt: skip


def unmarked_entry(name: bytes, content: bytes, **changes: int) -> Entry:
    size, crc32 = len(content), zlib.crc32(content)
    right = Entry(name, unmarked_lzma(content), UNIX, method=LZMA, size=size, crc32=crc32)
    return replace(right, **changes)


def test_the_coroutine_does_the_same(server: Server, tmp_path: Path) -> None:
    url = serve(server, by_zipfile(WEIGHTS))
    extraction = pgetpy.extract_async(url, tmp_path / "out", settings=impatient())
    result = asyncio.run(extraction)
    assert contents(tmp_path / "out") == WEIGHTS
    assert result.members == tuple(WEIGHTS)


def test_the_command_line_tells_the_members(server: Server, tmp_path: Path) -> None:
    url = serve(server, by_zipfile(WEIGHTS, DEFLATED))
    result = result_of(run("-x", url, tmp_path / "out", "--json"))
    assert result["members"] == list(WEIGHTS)
    assert contents(tmp_path / "out") == WEIGHTS


def test_a_zip_is_known_by_its_bytes_and_not_by_its_name(server: Server, tmp_path: Path) -> None:
    url = serve(server, by_zipfile({"a": b"a"}), path="/download")
    extract(url, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a": b"a"}


def test_members_of_both_methods_stand_side_by_side(server: Server, tmp_path: Path) -> None:
    members = [
        Member("stored", TEXT),
        Member("deflated", TEXT, method=DEFLATED),
        Member("nothing stored"),
        Member("nothing deflated", method=DEFLATED),
        Member("noise", body(300_000), method=DEFLATED),
    ]
    expected = {member.name: member.data for member in members}
    assert extracted(server, tmp_path / "out", packed(members)) == expected


def test_folders_have_the_modes_and_times_that_are_stated(server: Server, tmp_path: Path) -> None:
    members = [
        Member("open/", mode=stat.S_IFDIR | 0o755),
        Member("open/closed/", mode=stat.S_IFDIR | 0o500),
        Member("open/closed/file", b"1", mode=stat.S_IFREG | 0o640),
        Member("open/run", b"2", mode=stat.S_IFREG | 0o6755),
        Member("empty/", mode=stat.S_IFDIR | 0o700),
        Member("implied/file", b"3", mode=stat.S_IFREG | 0o666),
    ]
    with umask(0o022):
        result = extract(serve(server, packed(members)), tmp_path / "out")
    found = {
        str(path.relative_to(tmp_path / "out")): f"{stat.S_IMODE(path.stat().st_mode):o}"
        for path in (tmp_path / "out").rglob("*")
    }
    assert found == {
        "open": "755",
        "open/closed": "500",
        "open/closed/file": "640",
        "open/run": "755",
        "empty": "700",
        "implied": "755",
        "implied/file": "644",
    }
    assert result.members == ("open/closed/file", "open/run", "implied/file")
    times = {(tmp_path / "out" / member.name).stat().st_mtime for member in members}
    assert times == {time.mktime((2023, 11, 14, 22, 13, 20, 0, 0, -1))}


@with_and_without_ranges
def test_symbolic_links_lead_to_what_is_inside(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    members = [
        link("latest", "model/2.bin"),
        link("model/up", "../latest"),
        link("model/itself", "."),
        link("dangling", "not/there"),
        Member("model/2.bin", b"2"),
        # Its target is deflated, which nobody needs and everybody may do.
        Member("deflated", b"model/2.bin", stat.S_IFLNK | 0o777, DEFLATED),
    ]
    result = extract(serve(server, packed(members), *faults), tmp_path / "out")
    assert plain_tree(tmp_path / "out") == {
        "latest": "-> model/2.bin",
        "model": None,
        "model/up": "-> ../latest",
        "model/itself": "-> .",
        "dangling": "-> not/there",
        "model/2.bin": b"2",
        "deflated": "-> model/2.bin",
    }
    assert set(result.members) == {member.name for member in members}


def test_names_are_in_the_encoding_that_the_archive_says(server: Server, tmp_path: Path) -> None:
    archive = made(
        Entry("grün/日本".encode(), b"1", DOS, flags=UTF8),
        Entry("Grüße".encode(), b"2", UNIX, external=(stat.S_IFREG | 0o644) << 16),
        Entry("straße".encode("cp437"), b"3", DOS),
        # zipfile sets the flag by itself.
        Entry("é".encode(), b"4", UNIX, flags=UTF8, external=(stat.S_IFREG | 0o644) << 16),
    )
    expected = {"grün/日本": b"1", "Grüße": b"2", "straße": b"3", "é": b"4"}
    assert extracted(server, tmp_path / "out", archive) == expected


def test_names_that_differ_by_case_alone_are_two(server: Server, tmp_path: Path) -> None:
    (tmp_path / "case").touch()
    if (tmp_path / "CASE").exists():
        pytest.skip("the file system takes them for one")
    (tmp_path / "case").unlink()
    files = {"readme": b"1", "README": b"2", "d/a": b"3", "D/a": b"4"}
    assert extracted(server, tmp_path / "out", by_zipfile(files)) == files


@with_and_without_ranges
def test_of_several_members_of_one_name_the_last_wins(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    members = [
        Member("a", body(2 * MIB)),
        Member("b", b"b"),
        Member("a", TEXT, method=DEFLATED),
        Member("c", b"short"),
        Member("a", b"last", mode=stat.S_IFREG | 0o755),
        Member("c", body(MIB)),
    ]
    expected = {"a": b"last", "b": b"b", "c": body(MIB)}
    assert extracted(server, tmp_path / "out", packed(members), *faults) == expected
    assert (tmp_path / "out" / "a").stat().st_mode & 0o100


def test_the_directory_may_name_the_members_in_another_order(
    server: Server, tmp_path: Path
) -> None:
    files = {str(n): body(1000 * n) for n in range(20)}
    data = by_zipfile(files)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.start_dir
        lengths = [46 + len(info.filename) + len(info.extra) for info in archive.infolist()]
    entries = []
    for length in lengths:
        at = start + sum(map(len, entries))
        entries.append(data[at : at + length])
    directory = b"".join(reversed(entries))
    turned = data[:start] + directory + data[start + len(directory) :]
    result = extract(serve(server, turned), tmp_path / "out")
    assert contents(tmp_path / "out") == files
    assert set(result.members) == set(files)


def test_an_archive_of_nothing_becomes_an_empty_folder(server: Server, tmp_path: Path) -> None:
    result = extract(serve(server, by_zipfile({})), tmp_path / "out")
    assert names_in(tmp_path / "out") == []
    assert result.members == ()
    assert names_in(tmp_path) == ["out"]


# ---------------------------------------------------------------------------- forms of archives


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something for `zip` to pack."""
    home = tmp_path_factory.mktemp("packed")
    (home / "tree" / "d").mkdir(parents=True)
    for name, data in PACKED.items():
        (home / "tree" / name).write_bytes(data)
    return home / "tree"


PACKED = {"noise": body(700_000), "d/text": TEXT, "d/empty": b"", "small": b"small"}


# Zip64 through a pipe is left out: zip 3.0 forgets its end record there, and nothing can read it.
@pytest.mark.judge("zip")
@pytest.mark.parametrize(
    ("options", "stream"),
    [
        *(([option], False) for option in ("-0", "-9", "-fz", "-X", "-D")),
        *(([option], True) for option in ("-0", "-9", "-X")),
    ],
)
def test_what_zip_writes_to_a_file_or_a_pipe_is_extracted(
    server: Server, folder: Path, tmp_path: Path, options: list[str], stream: bool
) -> None:
    archive = zipped(folder, *options, stream=stream)
    assert extracted(server, tmp_path / "out", archive) == PACKED


@pytest.mark.judge("zip")
def test_what_comes_through_a_pipe_needs_no_ranges(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    archive = zipped(folder, stream=True)
    assert extracted(server, tmp_path / "out", archive, IgnoreRange()) == PACKED


def test_members_in_zip64_are_extracted(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in PACKED.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = DEFLATED if name == "d/text" else STORED
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(data)
    assert extracted(server, tmp_path / "out", buffer.getvalue()) == PACKED


@with_and_without_ranges
@pytest.mark.parametrize("adjusted", [True, False], ids=["adjusted", "not adjusted"])
@pytest.mark.parametrize("size", [40, 3 * MIB])
def test_a_program_before_the_archive_does_no_harm(
    server: Server, tmp_path: Path, size: int, adjusted: bool, faults: tuple[Fault, ...]
) -> None:
    program = b"#!/bin/sh\nexec unzip $0\n".ljust(size, b"#")
    members = [Member(name, data) for name, data in PACKED.items()]
    archive = packed(members, program) if adjusted else program + packed(members)
    assert extracted(server, tmp_path / "out", archive, *faults) == PACKED


@with_and_without_ranges
@pytest.mark.parametrize("size", [1, 65_535])
def test_a_comment_does_no_harm(
    server: Server, tmp_path: Path, size: int, faults: tuple[Fault, ...]
) -> None:
    comment = body(size).replace(b"PK", b"__")
    archive = by_zipfile(PACKED, comment=comment)
    assert extracted(server, tmp_path / "out", archive, *faults) == PACKED


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets what zone the clock shows."""

    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("name", "winter", "summer"),
    [("UTC0", 0, 0), ("XST-9", -9, -9), ("EST5EDT,M3.2.0,M11.1.0", 5, 4)],
)
def test_times_without_a_zone_are_those_of_the_local_clock(
    server: Server,
    tmp_path: Path,
    zone: Callable[[str], None],
    name: str,
    winter: int,
    summer: int,
) -> None:
    zone(name)
    exact = field(0x5455, struct.pack("<BI", 1, 1_000_000_000))
    members = [
        Member("winter", date_time=(2023, 1, 15, 12, 30, 2)),
        Member("summer", date_time=(2023, 7, 15, 12, 30, 2)),
        Member("exact", date_time=(2023, 7, 15, 12, 30, 2), extra=exact),
    ]
    extract(serve(server, packed(members)), tmp_path / "out")
    found = {path.name: path.stat().st_mtime for path in (tmp_path / "out").iterdir()}
    assert found == {
        "winter": 1_673_785_802 + 3600 * winter,
        "summer": 1_689_424_202 + 3600 * summer,
        "exact": 1_000_000_000,
    }


# ---------------------------------------------------------------------------- how they are fetched


@pytest.mark.parametrize(
    ("count", "method", "options"),
    [
        (2000, STORED, {}),
        (500, DEFLATED, {"concurrency": 8}),
        (500, STORED, {"concurrency": 1}),
        pytest.param(2000, DEFLATED, {"concurrency": 8}, marks=pytest.mark.soak),
        pytest.param(2000, STORED, {"concurrency": 1}, marks=pytest.mark.soak),
    ],
)
def test_many_small_members_take_few_requests(
    server: Server, tmp_path: Path, count: int, method: int, options: dict[str, int]
) -> None:
    files = {f"{n % 50}/{n}": body(40 + n % 100) for n in range(count)}
    url = serve(server, by_zipfile(files, method))
    result = extract(url, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == files
    assert len(result.members) == count
    assert len(server.requests) < 40


def test_links_close_to_one_another_take_few_requests(server: Server, tmp_path: Path) -> None:
    files = {f"file {n}": body(3000 + n) for n in range(400)}
    members = [m for name in files for m in (link(f"to {name}", name), Member(name, files[name]))]
    extract(serve(server, packed(members)), tmp_path / "out")
    assert (tmp_path / "out" / "to file 399").readlink() == Path("file 399")
    assert len(server.asked("/weights.zip")) < 40


def test_nothing_is_asked_for_twice(server: Server, tmp_path: Path) -> None:
    archive = by_zipfile(WEIGHTS)
    extract(serve(server, archive), tmp_path / "out", concurrency=1)
    # The archive's end, and what came while it was not yet known that it is a zip, may be.
    assert server.sent("/weights.zip") < 1.25 * len(archive) + MIB


def test_the_ranges_of_one_large_member_come_side_by_side(server: Server, tmp_path: Path) -> None:
    archive = packed([Member("large", body(12 * MIB))])
    gate = Gate()
    held = GateAfter(0, gate, when=When(covers=5 * MIB, times=1))
    url = serve(server, archive, held)
    with ThreadPoolExecutor(1) as pool:
        options = {"concurrency": 4, "chunk_size": MIB}
        extraction = pool.submit(extract, url, tmp_path / "out", **options)
        try:
            gate.wait_reached()
            # All the rest arrives while one range is held up.
            server.wait_until(lambda: server.sent("/weights.zip") > 10 * MIB)
        finally:
            gate.open()
        extraction.result(30)
    assert contents(tmp_path / "out") == {"large": body(12 * MIB)}


@lru_cache(maxsize=1)
def large_deflated() -> bytes:
    return deflated(body(18 * MIB), 1)


@pytest.mark.parametrize(
    ("stated", "faults"),
    [(True, ()), (False, (IgnoreRange(),))],
    ids=["sizes stated", "descriptor, no ranges"],
)
def test_a_deflated_member_larger_than_what_may_wait_is_extracted(
    server: Server, tmp_path: Path, stated: bool, faults: tuple[Fault, ...]
) -> None:
    data = body(18 * MIB)
    entry = deflated_entry(b"large", data, data=large_deflated())
    if not stated:
        descriptor = struct.pack("<4s3I", b"PK\7\x08", zlib.crc32(data), len(entry.data), len(data))
        size = len(entry.data)
        entry = deflated_entry(
            b"large", data, data=entry.data + descriptor, compressed_size=size, flags=8
        )
    small = Entry(b"small", b"small", UNIX)
    url = serve(server, made(entry, small), *faults)
    extract(url, tmp_path / "out", concurrency=4, chunk_size=2 * MIB)
    assert contents(tmp_path / "out") == {"large": data, "small": b"small"}


@with_and_without_ranges
def test_the_checksum_is_of_the_archive_as_it_was_sent(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    members = [Member(name, data, method=DEFLATED) for name, data in WEIGHTS.items()]
    archive = packed([*members, link("l", "empty"), Member("f/", mode=stat.S_IFDIR | 0o555)])
    checksum = f"sha256:{digest(archive)}"
    result = extract(serve(server, archive, *faults), tmp_path / "out", checksum=checksum)
    assert result.digest == checksum
    assert contents(tmp_path / "out") == {**WEIGHTS, "l": b""}
    assert names_in(tmp_path) == ["out"]


# ---------------------------------------------------------------------------- what is wrong


SMALL = b"smaller than most and larger than some"
RIGHT = Entry(b"fine", SMALL, UNIX)


def compressed(data: bytes, method: int, **changes: int) -> Entry:
    """A member whose content is SMALL, compressed to `data`."""
    size, crc32 = len(SMALL), zlib.crc32(SMALL)
    right = Entry(b"wrong", data, UNIX, method=method, size=size, crc32=crc32)
    return replace(right, **changes)


TWO_DISKS = b"PK\5\6" + struct.pack("<4H2IH", 1, 1, 0, 0, 0, 0, 0)


def with_directory(change: Callable[[bytes], bytes]) -> bytes:
    """An archive of two members whose directory is changed."""
    members, directory = parts(RIGHT, Entry(b"wrong", SMALL, UNIX))
    directory = change(directory)
    return members + directory + end(2, len(directory), len(members))


# The archive, and words that tell what is wrong; where a member is, its name is "wrong".
WRONG: dict[str, tuple[bytes, str]] = {
    "encrypted": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, flags=1)), "encrypted"),
    "Deflate64": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, method=9)), "Deflate64"),
    "PPMd": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, method=98)), "PPMd"),
    "AES": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, method=99)), "AES encryption"),
    "bzip2 that is none": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, method=BZIP2)), "bzip2"),
    "LZMA that is none": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, method=LZMA)), "LZMA"),
    "CRC of bzip2": (made(RIGHT, compressed(bz2.compress(SMALL), BZIP2, crc32=1)), "CRC"),
    "CRC of LZMA": (made(RIGHT, unmarked_entry(b"wrong", SMALL, crc32=1)), "CRC"),
    "bzip2 of more than is stated": (
        made(RIGHT, compressed(bz2.compress(bytes(5 * MIB)), BZIP2)), "more than the 38 bytes",
    ),
    "bzip2 that is cut": (
        made(RIGHT, compressed(bz2.compress(SMALL)[:-9], BZIP2)), "incomplete",
    ),
    "bzip2 and something behind it": (
        made(RIGHT, compressed(bz2.compress(SMALL) + b"junk", BZIP2)), "unknown data follows",
    ),
    "LZMA that is cut": (
        made(RIGHT, compressed(unmarked_lzma(SMALL)[:30], LZMA)), "incomplete",
    ),
    "LZMA with less than is stated": (
        made(RIGHT, compressed(unmarked_lzma(SMALL), LZMA, size=4000)), "wrong",
    ),
    "a link of a wrong CRC, by LZMA": (
        made(RIGHT, unmarked_entry(b"wrong", b"fine", crc32=1,
                                   external=(stat.S_IFLNK | 0o777) << 16)), "CRC",
    ),
    "a link that is a bomb, by bzip2": (
        made(RIGHT, compressed(bz2.compress(bytes(5 * MIB)), BZIP2,
                               external=(stat.S_IFLNK | 0o777) << 16)), "wrong size",
    ),
    "method 77": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, method=77)), "77"),
    "CRC of a stored member": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, crc32=1)), "wrong"),
    "CRC of a large stored member": (
        made(RIGHT, Entry(b"wrong", body(2 * MIB), UNIX, crc32=1), RIGHT),
        "wrong",
    ),
    "CRC of a deflated member": (made(RIGHT, deflated_entry(b"wrong", TEXT, crc32=1)), "wrong"),
    "CRC of nothing": (made(RIGHT, Entry(b"wrong", b"", UNIX, crc32=1)), "wrong"),
    "deflate stream cut off": (
        made(RIGHT, deflated_entry(b"wrong", TEXT, data=deflated(TEXT)[:-9])),
        "wrong",
    ),
    "deflate stream that is none": (
        made(RIGHT, deflated_entry(b"wrong", TEXT, data=b"\xff" * 900)),
        "wrong",
    ),
    "more than stated": (
        made(RIGHT, deflated_entry(b"wrong", TEXT, size=len(TEXT) - 1)),
        "wrong",
    ),
    "much more than stated": (
        made(RIGHT, deflated_entry(b"wrong", bytes(8 * MIB), size=10)),
        "wrong",
    ),
    "less than stated": (
        made(RIGHT, deflated_entry(b"wrong", TEXT, size=len(TEXT) + 1)),
        "wrong",
    ),
    "another local name": (
        made(RIGHT, Entry(b"wrong", SMALL, UNIX, local_name=b"other")),
        "wrong",
    ),
    "another local method": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, local_method=8)), "wrong"),
    "another local size": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, local_size=1)), "wrong"),
    "no local header": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, position=20)), "overlap"),
    "overlapping": (
        made(Entry(b"fine", SMALL, UNIX), Entry(b"other", SMALL, UNIX, position=0)),
        "overlap",
    ),
    "beyond the end": (made(RIGHT, Entry(b"wrong", SMALL, UNIX, position=10**6)), "wrong"),
    "no directory": (made(RIGHT)[: 30 + 4 + len(SMALL)], "cut off"),
    "end cut off": (made(RIGHT)[:-5], "cut off"),
    "comment cut off": (made(RIGHT, comment=b"comment")[:-1], "cut off"),
    "beginning cut off": (made(RIGHT, RIGHT)[40:], ""),
    "first half only": (by_zipfile(WEIGHTS)[: 4 * MIB], "cut off"),
    "bytes in the directory": (with_directory(lambda data: data + b"more"), "directory"),
    "directory of noise": (with_directory(lambda data: body(len(data))), "directory"),
    "half a directory": (with_directory(lambda data: data[:60]), "directory"),
    "several parts": (made(RIGHT)[:-22] + TWO_DISKS, "parts"),
    "a web page": (b"<html><body>Please log in</body></html>" * 30, "<html>"),
    "nothing": (b"", ""),
}  # fmt: skip


@with_and_without_ranges
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_an_archive_is_one_sentence_and_nothing_is_left(
    server: Server, tmp_path: Path, what: str, faults: tuple[Fault, ...]
) -> None:
    archive, words = WRONG[what]
    with pytest.raises(ArchiveError) as caught:
        extract(serve(server, archive, *faults), tmp_path / "out")
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    if b"wrong" in archive:
        assert "'wrong'" in said or words != "wrong"
    assert words != "cut off" or isinstance(caught.value, TruncatedArchiveError)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("what", ["encrypted", "CRC of a large stored member", "no directory"])
def test_an_archive_that_is_wrong_is_one_line_of_the_command_line(
    server: Server, tmp_path: Path, what: str
) -> None:
    archive, words = WRONG[what]
    ended = run("-x", serve(server, archive), tmp_path / "out", "--json")
    assert ended.code == 1
    assert words in last_line(ended)
    assert json.loads(ended.out.splitlines()[-1])["error_type"].endswith("ArchiveError")
    assert names_in(tmp_path) == []


@with_and_without_ranges
def test_a_cut_anywhere_in_the_archive_is_an_error(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    files = {"stored": SMALL, "d/a": b"a", "empty": b""}
    archive = packed(
        [*(Member(name, data) for name, data in files.items()), Member("z", TEXT, method=DEFLATED)]
    )
    for size in {*range(1, len(archive), 37), len(archive) - 1, len(archive) - 22}:
        with pytest.raises(ArchiveError):
            extract(serve(server, archive[:size], *faults), tmp_path / "out")
        assert names_in(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_an_error_leaves_an_existing_folder_as_it_was(
    server: Server, tmp_path: Path, existing: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if existing:
        (out / "fine").write_text("old")
    before = bare(tree(tmp_path, 0))
    for what in ("CRC of a stored member", "another local name", "first half only", "encrypted"):
        with pytest.raises(ArchiveError):
            extract(serve(server, WRONG[what][0]), out, force=existing)
        assert bare(tree(tmp_path, 0)) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells what is open")
@with_and_without_ranges
def test_a_failed_extraction_leaves_nothing_open(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    for what in ("CRC of a large stored member", "first half only", "deflate stream cut off"):
        with pytest.raises(ArchiveError):
            extract(serve(server, WRONG[what][0], *faults), tmp_path / "out")
        opened = [
            os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
        ]
        assert [target for target in opened if str(tmp_path) in target] == []


# ---------------------------------------------------------------------------- limits


BOMB = made(RIGHT, deflated_entry(b"wrong", bytes(4 * MIB)))
LIMITS: dict[str, tuple[bytes, Limits]] = {
    "total_bytes": (by_zipfile({"fine": SMALL, "wrong": TEXT}), Limits(total_bytes=len(TEXT))),
    "members": (by_zipfile({"a": b"", "b": b"", "c": b""}), Limits(members=2)),
    "ratio": (BOMB, Limits(ratio=100, ratio_floor=MIB)),
    "name_bytes": (by_zipfile({"fine": b"", "d/" * 20 + "wrong": b""}), Limits(name_bytes=40)),
    "depth": (by_zipfile({"fine": b"", "a/b/c/wrong": b""}), Limits(depth=3)),
}


@with_and_without_ranges
@pytest.mark.parametrize("limit", LIMITS)
def test_what_exceeds_a_limit_is_refused(
    server: Server, tmp_path: Path, limit: str, faults: tuple[Fault, ...]
) -> None:
    archive, limits = LIMITS[limit]
    with pytest.raises(LimitExceededError) as caught:
        extract(serve(server, archive, *faults), tmp_path / "out", limits=limits)
    assert caught.value.limit == limit
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "limits", [Limits(total_bytes=9 * MIB), Limits(members=2)], ids=["bytes", "members"]
)
def test_limits_are_held_against_the_directory_before_members_are_fetched(
    server: Server, tmp_path: Path, limits: Limits
) -> None:
    files = {str(n): body(5 * MIB) for n in range(3)}
    url = serve(server, by_zipfile(files))
    with pytest.raises(LimitExceededError):
        extract(url, tmp_path / "out", limits=limits, chunk_size=MIB)
    assert server.sent("/weights.zip") < 7 * MIB


# ---------------------------------------------------------------------------- attacks


ZIP_KINDS = (FILE, FOLDER, SYMLINK)
ZIP_ATTACKS = {
    name: attack
    for name, attack in ATTACKS.items()
    if all(kind in ZIP_KINDS for _, kind, _ in attack.members)
}


def hostile(attack: Attack) -> bytes:
    """A zip with the members of an attack amid harmless ones."""
    modes = {
        FILE: stat.S_IFREG | 0o644,
        FOLDER: stat.S_IFDIR | 0o755,
        SYMLINK: stat.S_IFLNK | 0o777,
    }
    entries = [Entry(b"fine/large", body(600_000), UNIX), Entry(b"fine/small", b"small", UNIX)]
    for name, kind, target in attack.members:
        data = {FILE: b"12345", SYMLINK: target.encode()}.get(kind, b"")
        stated = f"{name}/" if kind == FOLDER else name
        entries.append(Entry(stated.encode(), data, UNIX, (modes[kind] | 0o755) << 16))
    return made(*entries, Entry(b"fine/after", body(2000), UNIX))


@pytest.mark.parametrize(
    ("faults", "existing"), [((), False), ((IgnoreRange(),), True)], ids=["new", "existing"]
)
@pytest.mark.parametrize("kind", ZIP_ATTACKS)
def test_an_attack_is_refused_by_name_and_leaves_nothing(
    shelf: Server, tmp_path: Path, kind: str, faults: tuple[Fault, ...], existing: bool
) -> None:
    attack = ZIP_ATTACKS[kind]
    (tmp_path / SECRET).write_text("kept")
    if existing:
        (tmp_path / "out" / "mine").mkdir(parents=True)
    before = bare(tree(tmp_path, 0))
    with pytest.raises(attack.error) as caught:
        extract(serve(shelf, hostile(attack), *faults), tmp_path / "out", force=existing)
    assert isinstance(caught.value, (UnsafeMemberError, LimitExceededError))
    assert caught.value.member.rstrip("/") == attack.members[attack.refused][0].rstrip("/")
    assert bare(tree(tmp_path, 0)) == before
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_are_refused(server: Server, tmp_path: Path, mode: int) -> None:
    archive = packed([Member("fine", b"1"), Member("device", mode=mode | 0o644)])
    with pytest.raises(UnsafeMemberError, match="device"):
        extract(serve(server, archive), tmp_path / "out")
    assert names_in(tmp_path) == []


def test_an_attack_is_refused_before_anything_else_is_fetched(
    server: Server, tmp_path: Path
) -> None:
    large = [Member(str(n), body(5 * MIB)) for n in range(3)]
    url = serve(server, packed([*large, Member("../evil", b"1"), link("out", "/etc")]))
    with pytest.raises(UnsafeMemberError, match=r"\.\./evil"):
        extract(url, tmp_path / "out", chunk_size=MIB)
    assert server.sent("/weights.zip") < 7 * MIB


def test_the_target_of_a_link_is_no_longer_than_a_name_may_be(
    server: Server, tmp_path: Path
) -> None:
    bomb = deflated_entry(b"wrong", b"a" * (8 * MIB), external=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(ArchiveError, match="wrong"):
        extract(serve(server, made(RIGHT, bomb)), tmp_path / "out")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("end_records", [1, 2])
def test_a_directory_that_no_archive_needs_is_not_fetched(
    server: Server, tmp_path: Path, end_records: int
) -> None:
    size = 160 * MIB
    ends = end(4000, size, 0)
    if end_records == 2:
        # The second is the comment of the first.
        ends = end(4000, size, 0, ends)
    archive = b"PK\3\4".ljust(size, b"\0") + ends
    with pytest.raises(ArchiveError, match="central directory"):
        extract(serve(server, archive), tmp_path / "out", chunk_size=MIB)
    assert server.sent("/weights.zip") < 16 * MIB


@contextmanager
def sink_for(archive: bytes, home: Path) -> Iterator[ArchiveSink]:
    (home / "root").mkdir()
    layout = ArchiveLayout(home / "layout", Spool(home / "spool"), indexed=False)
    sink = ArchiveSink(
        home / "root",
        layout,
        "a.zip",
        limits=Limits(),
        fold=str,
        new_digest=None,
        noted=lambda start, stop: None,
    )
    sink.total = len(archive)
    try:
        yield sink
    finally:
        sink.close()
        layout.close()


def test_all_who_bring_bytes_are_told_the_same_of_a_wrong_archive(tmp_path: Path) -> None:
    archive = bytearray(packed([Member("a", body(700_000))]))
    archive[8] ^= 1
    view = memoryview(bytes(archive))
    with sink_for(bytes(archive), tmp_path) as sink:
        sink.write(0, view[:1000])
        for start, stop in ((len(archive) - 66_000, len(archive)), (1000, 2000)):
            with pytest.raises(ArchiveError, match="disagrees with the directory"):
                sink.write(start, view[start:stop])


def test_inflating_ends_midway_when_it_is_not_wanted_any_more(tmp_path: Path) -> None:
    # So many times the same: to deflate them all would take longer than the rest of this.
    size, part = 1 << 30, 1 << 20
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    once = deflater.compress(bytes(part)) + deflater.flush(zlib.Z_FULL_FLUSH)
    data = once * (size // part) + deflater.flush()
    archive = made(deflated_entry(b"zeros", b"", data=data, size=size))
    with sink_for(archive, tmp_path) as sink:
        for start, stop in ((0, 1000), (len(archive) - 66_000, len(archive)), (0, len(archive))):
            sink.write(start, memoryview(archive)[start:stop])
        sink.mark(0, len(archive))
        eventually(lambda: any((tmp_path / "root").iterdir()), what="the file")
    (half,) = (tmp_path / "root").iterdir()
    assert half.stat().st_size < size


def test_every_member_has_a_span_of_its_own() -> None:
    """Of the archives above: what the tests of resuming rely on."""
    spans = list(spans_of(by_zipfile(WEIGHTS)).values())
    assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]]
