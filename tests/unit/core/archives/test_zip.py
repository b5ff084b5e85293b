"""The zip reader against zipfile, Info-ZIP's zip and unzip, and hostile archives."""

import io
import os
import stat
import struct
import subprocess
import zipfile
import zlib
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.archives.members import Kind
from pgetpy.core.archives.zip import local_data_start, read_directory
from pgetpy.core.archives.zip_directory import END_SEARCH, Directory, find_directory
from pgetpy.core.archives.zip_entries import DEFLATE, STORED, ZipMember
from pgetpy.core.http.ranges import Span
from pgetpy.errors import ArchiveError, TruncatedArchiveError
from tests.support.zips import NTFS, UNIX, Entry, by_zipfile, end, end64, field, made, parts, zipped

U32 = 0xFFFFFFFF

needs_zip = pytest.mark.judge("zip")
needs_unzip = pytest.mark.judge("unzip")


# ----------------------------------------------------------------------------- a caller, and makers


def directory_of(data: bytes, tail: int = END_SEARCH) -> Directory:
    """Ask as a caller does that has the last `tail` bytes, fetching what is asked for."""
    start = max(0, len(data) - tail)
    while isinstance(found := find_directory(data[start:], len(data)), Span):
        assert 0 <= found.start < found.stop == start
        start = found.start
    return found


def members_of(data: bytes, tail: int = END_SEARCH) -> tuple[ZipMember, ...]:
    directory = directory_of(data, tail)
    return read_directory(data[directory.offset : directory.offset + directory.size], directory)


def start_of(data: bytes, zip_member: ZipMember, known: int = 0) -> int:
    """Ask where the data starts with `known` bytes of the header in hand."""
    position = zip_member.member.position
    stop = position + known
    while isinstance(start := local_data_start(data[position:stop], zip_member), Span):
        assert start.start == stop < start.stop <= zip_member.stop
        stop = start.stop
    return start


def content_of(data: bytes, zip_member: ZipMember) -> bytes:
    start = start_of(data, zip_member)
    raw = data[start : start + zip_member.compressed_size]
    content = raw if zip_member.method == STORED else zlib.decompress(raw, -15)
    assert (len(content), zlib.crc32(content)) == (zip_member.size, zip_member.crc32)
    return content


def only(entry: Entry) -> ZipMember:
    (zip_member,) = members_of(made(entry))
    return zip_member


# ------------------------------------------------------------------------------ zipfile's judgement


NAMES = st.text(st.characters(exclude_characters="\0\\", codec="utf-8"), min_size=1, max_size=20)
FILES = st.dictionaries(NAMES, st.binary(max_size=200), max_size=6)
# zipfile believes the last magic number it sees, whatever follows it.
COMMENTS = st.binary(max_size=40).filter(lambda comment: b"PK\5\6" not in comment)


def agree_with_zipfile(data: bytes) -> tuple[ZipMember, ...]:
    members = members_of(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        assert [m.member.position for m in members] == [i.header_offset for i in infos]
        for zip_member, info in zip(members, infos, strict=True):
            assert zip_member.method == info.compress_type
            assert (zip_member.member.kind is Kind.FOLDER) == info.is_dir()
            assert content_of(data, zip_member) == archive.read(info)
    return members


def descriptors(data: bytes) -> list[bool]:
    """Which members state sizes and CRC behind their data."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [bool(info.flag_bits & 8) for info in archive.infolist()]


@given(FILES, st.sampled_from([STORED, DEFLATE]), COMMENTS, st.binary(max_size=40))
def test_an_archive_of_zipfile_is_read_as_zipfile_reads_it(
    files: dict[str, bytes], method: int, comment: bytes, junk: bytes
) -> None:
    files = {name: b"" if name.endswith("/") else content for name, content in files.items()}
    data = by_zipfile(files, method, comment)
    # In front of nothing there is nothing to find.
    members = agree_with_zipfile(junk + data if files else data)
    assert {m.member.name: content_of(junk + data, m) for m in members} == files


def test_a_streamed_archive_with_data_descriptors_is_read() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", DEFLATE) as archive:
        archive.writestr("a", b"a" * 1000)
        with archive.open("b", "w", force_zip64=True) as large:
            large.write(b"b" * 1000)
    agree_with_zipfile(pipe.written)
    assert descriptors(pipe.written) == [True, True]


def test_more_entries_than_the_end_record_can_count_are_read() -> None:
    count = 65_600
    entry = parts(Entry(b"12345", b""))
    body = b"".join(entry[0].replace(b"12345", b"%05d" % n) for n in range(count))
    directory = b"".join(
        entry[1][:42] + struct.pack("<I5s", n * 35, b"%05d" % n) for n in range(count)
    )
    position = len(body) + len(directory)
    wide = end64(position, count, len(directory), len(body))
    data = body + directory + wide + end(0xFFFF, len(directory), len(body))
    assert directory_of(data).count == count
    assert [int(m.member.name) for m in members_of(data)] == list(range(count))


def test_an_empty_archive_has_no_members() -> None:
    assert members_of(by_zipfile({})) == ()
    assert members_of(end64(0, 0, 0, 0) + end(0xFFFF, U32, U32)) == ()


# ----------------------------------------------------------------------------- Info-ZIP's judgement


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tree with a file of every kind that zip takes."""
    tree = tmp_path / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "plain.txt").write_bytes(b"plain")
    (tree / "grüße.txt").write_bytes(b"gr\xc3\xbc\xc3\x9fe" * 100)
    (tree / "sub" / "run").write_bytes(bytes(5000))
    (tree / "sub" / "run").chmod(0o750)
    (tree / "link").symlink_to("sub/run")
    for name in ("plain.txt", "sub/run", "sub"):
        os.utime(tree / name, (1_600_000_000, 1_600_000_001))
    return tree


def tree_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Name, kind, mode, time and content of all in a folder; a link's mode and time are its own."""
    tree: dict[str, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        name, status = str(path.relative_to(folder)), path.lstat()
        mode, seconds = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        if path.is_symlink():
            tree[name] = (Kind.SYMLINK, os.readlink(path).encode())
        elif path.is_dir():
            tree[name] = (Kind.FOLDER, mode, seconds)
        else:
            tree[name] = (Kind.FILE, mode, seconds, path.read_bytes())
    return tree


def read_tree(data: bytes) -> dict[str, tuple[object, ...]]:
    """The same of an archive, by the reader."""
    tree: dict[str, tuple[object, ...]] = {}
    for zip_member in members_of(data):
        member, content = zip_member.member, content_of(data, zip_member)
        seconds = member.mtime // 10**9
        if member.kind is Kind.SYMLINK:
            tree[member.name] = (member.kind, content)
        elif member.kind is Kind.FOLDER:
            tree[member.name.rstrip("/")] = (member.kind, member.mode & ~0o022, seconds)
        else:
            tree[member.name] = (member.kind, member.mode & ~0o022, seconds, content)
    return tree


def unzipped(data: bytes, tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """What unzip makes of an archive under umask 022, where the clock shows UTC."""
    source, target = tmp_path / "judged.zip", tmp_path / "judged"
    source.write_bytes(data)
    command = ["sh", "-c", 'umask 022; exec "$0" "$@"', "unzip", "-qo"]
    subprocess.run(
        [*command, str(source), "-d", str(target)],
        env=os.environ | {"TZ": "UTC", "LC_ALL": "C.UTF-8"},
        stderr=subprocess.PIPE,
        check=False,  # 1 is a warning
    )
    return tree_of(target)


@needs_zip
@needs_unzip
@pytest.mark.parametrize(
    "arguments", [["-y"], ["-y0"], ["-y9"], ["-yX"], ["-y", "-UN=UTF8"]], ids=" ".join
)
def test_an_archive_of_zip_is_read_as_unzip_reads_it(folder: Path, arguments: list[str]) -> None:
    data = zipped(folder, *arguments)
    agree_with_zipfile(data)
    assert read_tree(data) == unzipped(data, folder.parent)


@needs_zip
@needs_unzip
@pytest.mark.parametrize("arguments", [["-1"], ["-9"], ["-X"]], ids=" ".join)
def test_what_zip_streams_is_read_as_unzip_reads_it(folder: Path, arguments: list[str]) -> None:
    # It cannot stream what it stores, and links it stores.
    (folder / "link").unlink()
    data = zipped(folder, *arguments, stream=True)
    agree_with_zipfile(data)
    assert any(descriptors(data))
    assert read_tree(data) == unzipped(data, folder.parent)


@needs_zip
@needs_unzip
def test_an_archive_that_is_forced_to_zip64_is_read(folder: Path) -> None:
    data = zipped(folder, "-y", "-fz")
    assert b"PK\6\6" in data
    agree_with_zipfile(data)
    assert read_tree(data) == unzipped(data, folder.parent)


@needs_zip
@needs_unzip
@pytest.mark.parametrize("arguments", [["-y"], ["-y", "-fz"]], ids=["plain", "zip64"])
def test_data_before_an_archive_moves_all_of_it(folder: Path, arguments: list[str]) -> None:
    data = b"#!/bin/sh\nexit 0\n" + zipped(folder, *arguments)
    assert directory_of(data).prefix == 17
    assert agree_with_zipfile(data)[0].member.position == 17
    assert read_tree(data) == unzipped(data, folder.parent)


@needs_zip
def test_data_before_an_archive_may_be_counted_by_its_offsets(folder: Path) -> None:
    path = folder.parent / "adjusted.zip"
    path.write_bytes(b"#!/bin/sh\nexit 0\n" + zipped(folder, "-y"))
    subprocess.run(["zip", "-qA", str(path)], check=True)
    data = path.read_bytes()
    assert directory_of(data).prefix == 0
    assert agree_with_zipfile(data)[0].member.position == 17


@needs_zip
def test_what_zip_read_from_a_pipe_is_a_file(tmp_path: Path) -> None:
    command = ["zip", "-q", "-", "-"]
    data = subprocess.run(command, input=b"piped" * 9, stdout=subprocess.PIPE, check=True).stdout
    (zip_member,) = agree_with_zipfile(data)
    assert stat.S_ISFIFO(zipfile.ZipFile(io.BytesIO(data)).infolist()[0].external_attr >> 16)
    assert (zip_member.member.name, zip_member.member.kind) == ("-", Kind.FILE)


TIMESTAMP = field(0x5455, struct.pack("<BI", 1, 1_500_000_001))
LATE = field(0x5455, struct.pack("<BI", 1, 2_210_000_000))


@needs_unzip
@pytest.mark.parametrize(
    "entry",
    [
        Entry(),
        Entry(external=1),
        Entry(b"folder/", b"", external=0x10),
        Entry(b"folder/", b""),
        Entry(b"folder/", b"", external=0x11),
        Entry(external=0o100640 << 16),
        Entry(external=0o100755 << 16),
        Entry(external=0o100440 << 16),
        Entry(external=0o120777 << 16),
        Entry(host=UNIX, external=0o600 << 16),
        Entry(host=UNIX, external=0o100751 << 16),
        Entry(host=UNIX, external=0o120777 << 16),
        Entry(host=UNIX, external=0o010600 << 16),
        Entry(b"folder/", b"", host=UNIX, external=0o100755 << 16),
        Entry(b"folder/", b"", host=UNIX, external=0o040711 << 16),
        Entry(b"back\\slash"),
        Entry(b"mixed/back\\slash"),
        Entry(b"back\\slash", host=UNIX, external=0o100644 << 16),
        Entry("rohe ü".encode(), host=UNIX, external=0o100644 << 16),
        Entry("markiertes ü".encode(), host=UNIX, external=0o100644 << 16, flags=0x800),
        Entry(extra=TIMESTAMP, local_extra=TIMESTAMP),
        Entry(extra=LATE, local_extra=LATE),
        Entry(extra=LATE, local_extra=LATE, date=60 << 9 | 1 << 5 | 11),
        Entry(date=0),
        Entry(date=(40 << 9) | (2 << 5) | 31, time=(31 << 11) | (63 << 5) | 31),
    ],
    ids=str,
)
def test_name_kind_mode_and_time_are_those_of_unzip(entry: Entry, tmp_path: Path) -> None:
    data = made(entry)
    expected = unzipped(data, tmp_path)
    name = members_of(data)[0].member.name
    # Folders that no entry names are not read but made.
    ours = {parent: value for parent, value in expected.items() if parent == name.rstrip("/")}
    assert read_tree(data) == ours


# ----------------------------------------------------------------------------------- the end record


def test_a_short_tail_asks_for_what_can_hold_the_end_record() -> None:
    data = by_zipfile({"a": bytes(END_SEARCH)})
    total = len(data)
    assert find_directory(b"", total) == Span(total - END_SEARCH, total)
    assert find_directory(data[-100:], total) == Span(total - END_SEARCH, total - 100)
    assert find_directory(b"", 100) == Span(0, 100)


def test_a_directory_beyond_the_tail_is_found_unseen() -> None:
    data = by_zipfile({f"{number:0100}": b"" for number in range(1000)})
    directory = find_directory(data[-END_SEARCH:], len(data))
    assert isinstance(directory, Directory)
    assert directory.offset + directory.size + 22 == len(data)
    assert directory.offset < len(data) - END_SEARCH


@given(st.integers(0, 200))
def test_any_tail_that_is_long_enough_finds_the_same(more: int) -> None:
    data = by_zipfile({"a": bytes(END_SEARCH)}, comment=b"c" * 65_535)
    assert members_of(data, END_SEARCH + more) == members_of(data, len(data))


def test_an_end_record_within_the_comment_is_passed_over() -> None:
    fake = end(1, 60, 3, b"x" * 7)
    data = by_zipfile({"a": b"1"}, comment=b"so far so good " + fake)
    assert [m.member.name for m in members_of(data)] == ["a"]


def test_an_empty_end_record_within_the_comment_hides_nothing() -> None:
    for offset in (0, 50):
        data = by_zipfile({"a": b"1"}, comment=end(0, 0, offset))
        assert [m.member.name for m in members_of(data)] == ["a"]


def test_a_fake_end_record_whose_directory_is_out_of_sight_is_looked_into() -> None:
    files = {"a": bytes(END_SEARCH)}
    fake_size = END_SEARCH + 20
    data = by_zipfile(files, comment=end(1, fake_size, 0))
    asked = find_directory(data[-END_SEARCH:], len(data))
    assert asked == Span(len(data) - 22 - fake_size, len(data) - END_SEARCH)
    assert [m.member.name for m in members_of(data)] == ["a"]


def test_a_whole_archive_within_the_comment_is_the_one_that_is_read() -> None:
    inner = by_zipfile({"inner": b"1"})
    data = by_zipfile({"outer": b"2"}, comment=inner)
    assert [m.member.name for m in agree_with_zipfile(data)] == ["inner"]


def test_a_comment_full_of_end_records_is_refused() -> None:
    comment = b""
    for _ in range(2000):
        comment = end(1, 46, 0, comment)
    with pytest.raises(ArchiveError, match="1999 more end records"):
        members_of(made(Entry())[:-22] + comment)


def test_an_archive_without_its_end_is_cut_off() -> None:
    data = by_zipfile({"a": b"1"}, comment=b"comment")
    for size in range(len(data)):
        with pytest.raises(TruncatedArchiveError) as caught:
            members_of(data[:size])
        assert caught.value.position == size


@pytest.mark.parametrize("surplus", [b"\n", bytes(512), b"PK\5\6", b"z" * 65_000])
@pytest.mark.parametrize("comment", [b"", b"words"])
def test_bytes_behind_the_end_are_left_out(surplus: bytes, comment: bytes) -> None:
    data = by_zipfile({"a": b"1", "b/c": b"22"}, comment=comment)
    assert directory_of(data + surplus).surplus == len(surplus)
    assert members_of(data + surplus) == members_of(data)
    wide = data[:-22]  # nothing of an end record
    with pytest.raises(TruncatedArchiveError):
        members_of(wide[: 30 + 3])


def test_the_end_of_an_archive_within_is_not_that_of_the_whole() -> None:
    inner = by_zipfile({"inner": b"1"})
    outer = by_zipfile({"first": b"1", "inner.zip": inner, "last": b"x" * 100})
    assert [each.member.name for each in members_of(outer)] == ["first", "inner.zip", "last"]
    cut = outer[: outer.index(b"x" * 100) + 50]
    with pytest.raises(ArchiveError, match="that do not belong to it follow its end record"):
        members_of(cut)


@pytest.mark.parametrize(
    "count", [65_536, *(pytest.param(n, marks=pytest.mark.soak) for n in (65_537, 131_073))]
)
def test_entries_that_the_end_record_cannot_count_are_read_all_the_same(count: int) -> None:
    """Old writers know nothing of zip64: the number begins at 0 again."""
    body, directory = parts(Entry(b"a", b""))
    size = count * len(directory)
    entries = b"".join(
        directory[:42] + (number * len(body)).to_bytes(4, "little") + directory[46:]
        for number in range(count)
    )
    data = body * count + entries + end(count % 65_536, size, count * len(body))
    assert len(members_of(data)) == count


def test_an_archive_without_its_beginning_is_refused() -> None:
    with pytest.raises(ArchiveError, match="its first 2 bytes are missing"):
        members_of(by_zipfile({"a": b"1"})[2:])


@pytest.mark.parametrize("fields", [{"disk": 1}, {"here": 0}])
def test_one_of_several_disks_is_refused(fields: dict[str, int]) -> None:
    body, directory = parts(Entry())
    data = body + directory + end(1, len(directory), len(body), **fields)  # type: ignore[arg-type]
    with pytest.raises(ArchiveError, match="several parts"):
        members_of(data)
    with pytest.raises(ArchiveError, match="another part"):
        only(Entry(disk=1))


@pytest.mark.parametrize("count", [3, 65_534])
def test_more_entries_than_the_directory_has_room_for_are_refused(count: int) -> None:
    body, directory = parts(Entry(), Entry(b"b"))
    with pytest.raises(ArchiveError, match=f"no room for {count} entries"):
        members_of(body + directory + end(count, len(directory), len(body)))


def test_more_entries_than_any_memory_holds_are_refused_by_zip64_too() -> None:
    body, directory = parts(Entry())
    where = len(body) + len(directory)
    records = end64(where, 2**60, len(directory), len(body)) + end(0xFFFF, U32, U32)
    with pytest.raises(ArchiveError, match=f"no room for {2**60} entries"):
        members_of(body + directory + records)


def test_fewer_entries_than_the_directory_holds_are_refused() -> None:
    body, directory = parts(Entry(), Entry(b"b"))
    with pytest.raises(ArchiveError, match="follow its last entry"):
        members_of(body + directory + end(1, len(directory), len(body)))


def test_a_signed_directory_is_read() -> None:
    body, directory = parts(Entry())
    directory += b"PK\5\5\3\0sig"
    assert len(members_of(body + directory + end(1, len(directory), len(body)))) == 1


def test_a_directory_that_comes_short_is_cut_off() -> None:
    data = made(Entry())
    directory = directory_of(data)
    with pytest.raises(TruncatedArchiveError):
        read_directory(data[directory.offset : -23], directory)


def with_zip64(narrow: bytes, **other: int) -> bytes:
    body, directory = parts(Entry())
    position = len(body) + len(directory)
    wide = end64(position, 1, len(directory), len(body), **other)
    return body + directory + wide + narrow


FULL = end(0xFFFF, U32, U32)


@pytest.mark.parametrize("prefix", [b"", b"prefix"])
def test_a_zip64_end_record_says_where_the_directory_is(prefix: bytes) -> None:
    assert len(members_of(prefix + with_zip64(FULL))) == 1


def test_a_zip64_end_record_may_hold_more_than_is_known() -> None:
    assert len(members_of(with_zip64(FULL, more=100_000))) == 1


@pytest.mark.parametrize(
    ("narrow", "other", "reason"),
    [
        (FULL, {"stated": 3}, "locator points to byte 3"),
        (FULL, {"more": 1 << 20}, "not where the locator says"),
        (FULL, {"disks": 2}, "several parts"),
        (FULL, {"needed": 62, "more": 40}, "directory is encrypted"),
        (end(2, U32, U32), {}, "disagree"),
        (end(1, 5, U32), {}, "disagree"),
    ],
)
def test_a_zip64_end_record_that_makes_no_sense_is_refused(
    narrow: bytes, other: dict[str, int], reason: str
) -> None:
    with pytest.raises(ArchiveError, match=reason):
        members_of(with_zip64(narrow, **other))


def test_four_bytes_that_look_like_a_locator_do_no_harm() -> None:
    name = b"PK\6\7" + b"x" * 16
    assert only(Entry(name, host=UNIX)).raw_name == name


# ------------------------------------------------------------------------------------------ entries


def test_numbers_that_do_not_fit_stand_in_the_zip64_field() -> None:
    data = made(
        Entry(b"a", b"12345", size=U32, extra=field(1, struct.pack("<Q", 5)), compressed_size=5),
        Entry(b"b", size=U32, compressed_size=U32, position=U32, disk=0xFFFF,
              extra=field(1, struct.pack("<QQQI", 4, 4, 36, 0))),
    )  # fmt: skip
    first, second = members_of(data)
    assert (first.size, first.compressed_size) == (5, 5)
    assert (second.size, second.compressed_size, second.member.position) == (4, 4, 36)
    assert content_of(data, second) == b"data"


@pytest.mark.parametrize("extra", [b"", field(1, b"1234567"), field(2, bytes(8))])
def test_a_number_that_stands_nowhere_is_refused(extra: bytes) -> None:
    with pytest.raises(ArchiveError, match="zip64 field of member 'name' is missing or cut off"):
        only(Entry(size=U32, extra=extra))


@pytest.mark.parametrize("flags", [0x0001, 0x0041, 0x2000])
def test_an_encrypted_entry_is_refused_by_name(flags: int) -> None:
    with pytest.raises(ArchiveError, match="'secret' is encrypted"):
        only(Entry(b"secret", flags=flags))


@pytest.mark.parametrize(
    ("method", "name"),
    [(9, "Deflate64"), (93, "zstd"), (98, "PPMd"), (99, "AES encryption"), (77, "77")],
)
def test_another_method_is_refused_by_its_name(method: int, name: str) -> None:
    with pytest.raises(ArchiveError, match=f"'name' is compressed by (method )?{name}"):
        only(Entry(method=method))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(size=5),
        Entry(method=DEFLATE, size=4 * 1032 + 1),
        Entry(b"folder/", b"data"),
        Entry(host=UNIX, external=0o040755 << 16),
        Entry(flags=0x20),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(entry: Entry) -> None:
    with pytest.raises(ArchiveError, match=r"name|folder"):
        only(entry)


def unicode_path(raw: bytes, name: str, version: int = 1) -> bytes:
    return field(0x7075, struct.pack("<BI", version, zlib.crc32(raw)) + name.encode())


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Entry(b"caf\x82"), "café"),
        (Entry("café".encode(), flags=0x800), "café"),
        (Entry("café".encode(), host=UNIX), "café"),
        (Entry(b"caf\xe9", host=UNIX), "caf\udce9"),
        (Entry(b"caf\xe9", flags=0x800), "caf\udce9"),
        (Entry(b"caf?", extra=unicode_path(b"caf?", "café")), "café"),
        (Entry(b"caf?", extra=unicode_path(b"cat?", "café")), "caf?"),
        (Entry(b"caf?", extra=unicode_path(b"caf?", "café", 2)), "caf?"),
        (Entry(b"caf?", extra=unicode_path(b"caf?", "")), "caf?"),
        (Entry("é".encode(), flags=0x800, extra=unicode_path("é".encode(), "a")), "é"),
        (Entry(b"a\\b", host=NTFS), "a/b"),
        (Entry(b"a\\b", host=UNIX), "a\\b"),
    ],
)
def test_a_name_is_decoded_by_what_states_its_encoding(entry: Entry, name: str) -> None:
    assert only(entry).member.name == name


@pytest.mark.parametrize(
    ("entry", "kind", "mode"),
    [
        (Entry(host=UNIX, external=0o104755 << 16), Kind.FILE, 0o4755),
        (Entry(host=19 << 8, external=0o120777 << 16), Kind.SYMLINK, 0o777),
        (Entry(host=UNIX, external=0o020600 << 16), Kind.CHARACTER_DEVICE, 0o600),
        (Entry(host=UNIX, external=0o060600 << 16), Kind.BLOCK_DEVICE, 0o600),
        (Entry(host=UNIX), Kind.FILE, 0o666),
        (Entry(data=b"", host=UNIX, external=0o040750 << 16), Kind.FOLDER, 0o750),
        (Entry(data=b"", external=0x10), Kind.FOLDER, 0o777),
        (Entry(b"a/", b"", external=0x01), Kind.FOLDER, 0o555),
    ],
)
def test_kind_and_mode_come_from_the_host_s_attributes(entry: Entry, kind: Kind, mode: int) -> None:
    member = only(entry).member
    assert (member.kind, member.mode) == (kind, mode)
    assert member.size == (4 if kind is Kind.FILE else 0)


NTFS_TIMES = field(0x000A, struct.pack("<IHHQQQ", 0, 1, 24, 132_444_736_000_000_123, 0, 0))
UNIX_TIMES = field(0x5855, struct.pack("<ii", 5, -7))


@pytest.mark.parametrize(
    ("extra", "mtime"),
    [
        (TIMESTAMP + NTFS_TIMES, 1_500_000_001 * 10**9),
        (NTFS_TIMES, 1_600_000_000 * 10**9 + 12_300),
        (NTFS_TIMES + UNIX_TIMES, -7 * 10**9),
        (TIMESTAMP + field(0x5455, struct.pack("<BI", 1, 9)), 1_500_000_001 * 10**9),
        (field(0x5455, struct.pack("<BI", 2, 9)) + UNIX_TIMES, -7 * 10**9),
        (field(0x5455, b"\1abc") + field(0x000A, b"abc") + UNIX_TIMES, -7 * 10**9),
    ],
)
def test_an_exact_time_goes_before_the_dos_time(extra: bytes, mtime: int) -> None:
    zip_member = only(Entry(extra=extra))
    assert (zip_member.member.mtime, zip_member.local_time) == (mtime, False)


def test_a_dos_time_is_marked_as_local() -> None:
    zip_member = only(Entry(date=45 << 9 | 12 << 5 | 31, time=23 << 11 | 59 << 5 | 29))
    moment = datetime(2025, 12, 31, 23, 59, 58, tzinfo=timezone.utc)
    assert zip_member.member.mtime == moment.timestamp() * 10**9
    assert zip_member.local_time


# -------------------------------------------------------------------------- overlaps, local headers


@pytest.mark.parametrize(
    "entries",
    [
        (Entry(b"a"), Entry(b"b", position=0)),
        (Entry(b"a"), Entry(b"b", position=34)),
        (Entry(b"a", compressed_size=5, size=5), Entry(b"b")),
        (Entry(b"b", position=35), Entry(b"a", position=0, compressed_size=5, size=5)),
        (Entry(b"a", compressed_size=5, size=5),),
        (Entry(b"a", position=1),),
        (Entry(b"a", position=10**6),),
        (Entry(b"a", compressed_size=U32 - 1, size=U32 - 1),),
    ],
)
def test_members_that_overlap_are_refused(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(ArchiveError, match="overlaps what follows"):
        members_of(made(*entries))


def test_a_member_stops_where_the_next_begins_whatever_the_order_of_the_directory() -> None:
    body, directory = parts(Entry(b"a", position=35), Entry(b"b", position=0))
    data = body + directory + end(2, len(directory), len(body))
    assert [(m.member.position, m.stop) for m in members_of(data)] == [(35, 70), (0, 35)]


@given(st.integers(0, 60))
def test_a_header_of_any_length_leads_to_the_data(known: int) -> None:
    data = made(Entry(local_extra=field(9, b"more")), Entry(b"b" * 99))
    first, second = members_of(data)
    assert start_of(data, first, known) == 30 + 4 + 8
    assert start_of(data, second, known) == 46 + 30 + 99


@pytest.mark.parametrize(
    ("entry", "how"),
    [
        (Entry(local_name=b"nome"), "another name"),
        (Entry(local_name=b"names"), "another name"),
        (Entry(local_method=DEFLATE), "another method"),
        (Entry(local_flags=1), "another method"),
        (Entry(local_size=3), "another size or CRC"),
        (Entry(size=4, local_size=5), "another size or CRC"),
        (Entry(compressed_size=4, size=4, data=b"12345678", local_size=9), "another size or CRC"),
    ],
)
def test_a_local_header_that_contradicts_the_directory_is_refused(entry: Entry, how: str) -> None:
    data = made(entry)
    with pytest.raises(ArchiveError, match=how):
        start_of(data, members_of(data)[0])


@pytest.mark.parametrize("extra", [b"UT\x09\0\1", b"\1\0\5\0abc", b"XY\xff\xff", b"\xff" * 9])
def test_an_extra_field_that_is_cut_off_is_passed_over(extra: bytes) -> None:
    time = field(0x5455, b"\1" + (1_700_000_000).to_bytes(4, "little"))
    assert only(Entry(extra=time + extra)).member.mtime == 1_700_000_000 * 10**9
    assert only(Entry(extra=extra)).size == 4


def test_a_local_header_that_is_none_is_refused() -> None:
    data = made(Entry())
    with pytest.raises(ArchiveError, match=r"'name' at byte 0 .*: there is none"):
        start_of(b"PK\7\10" + data[4:], members_of(data)[0])


def test_extra_fields_that_push_the_data_into_what_follows_are_refused() -> None:
    data = bytearray(made(Entry(), Entry(b"b")))
    data[28:30] = b"\1\0"
    with pytest.raises(ArchiveError, match="would overlap what follows"):
        start_of(bytes(data), members_of(bytes(data))[0])


# ---------------------------------------------------------------------------------------- mutations


SEEDS = (
    by_zipfile({"a": b"1", "folder/": b"", "grüße": b"2" * 100}, DEFLATE, b"comment"),
    made(Entry(extra=TIMESTAMP + NTFS_TIMES), Entry(b"caf?", extra=unicode_path(b"caf?", "café"))),
    b"prefix" + with_zip64(FULL),
    made(Entry(b"b", size=U32, compressed_size=U32, position=U32,
               extra=field(1, struct.pack("<QQQ", 4, 4, 0)))),
)  # fmt: skip
EDGES = st.sampled_from([b"\0", b"\xff", b"\xff\xff", b"\xff" * 4, b"\0" * 4, b"PK\5\6", b"PK\1\2"])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(EDGES | st.binary(max_size=3))
        replaced = draw(st.sampled_from([0, len(piece), len(piece), len(piece), 9]))
        data[at : at + replaced] = piece
    return bytes(data)


@given(mutated() | st.binary(max_size=200))
def test_mutated_bytes_give_members_that_fit_the_archive_or_an_archive_error(data: bytes) -> None:
    try:
        members = members_of(data)
        starts = [start_of(data, zip_member) for zip_member in members]
    except ArchiveError:
        return
    taken = sorted(
        (m.member.position, start, start + m.compressed_size, m.stop)
        for m, start in zip(members, starts, strict=True)
    )
    edges = [edge for edges in taken for edge in edges]
    assert edges == sorted(edges)
    assert not edges or edges[-1] <= len(data)


@given(st.data())
def test_a_changed_byte_in_a_directory_never_gives_another_exception(data: st.DataObject) -> None:
    archive = data.draw(st.sampled_from(SEEDS))
    directory = directory_of(archive)
    raw = bytearray(archive[directory.offset : directory.offset + directory.size])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        members = read_directory(bytes(raw), directory)
    except ArchiveError:
        return
    assert len(members) == directory.count
