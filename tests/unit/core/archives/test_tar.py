"""The tar reader against Python's tarfile, GNU tar, and bytes that no maker writes."""

import contextlib
import hashlib
import importlib
import io
import os
import shutil
import subprocess
import tarfile
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.archives.members import Extent, Kind, Member
from pgetpy.core.archives.tar import TarReader, is_tar
from pgetpy.core.http.ranges import Span
from pgetpy.errors import ArchiveError, LimitExceededError, TruncatedArchiveError
from tests.support.tars import (
    BLOCK,
    END,
    block,
    described,
    octal,
    old_sparse,
    padded,
    pax,
    sparse_0_1,
)

SECOND = 10**9

KINDS = {
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.CHRTYPE: Kind.CHARACTER_DEVICE,
    tarfile.BLKTYPE: Kind.BLOCK_DEVICE,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.FIFOTYPE: Kind.FIFO,
}


def read(archive: bytes, *, longest_header: int = 1 << 20) -> list[Member]:
    """Feed an archive as a caller would, and check that the reader only ever moves forward."""
    reader = TarReader(longest_header=longest_header)
    members = []
    behind = 0
    while not reader.ended and reader.wanted.stop <= len(archive):
        wanted = reader.wanted
        assert wanted.start >= behind
        assert wanted.stop > wanted.start
        behind = wanted.stop
        member = reader.feed(archive[wanted.start : wanted.stop])
        if member is not None:
            members.append(member)
    reader.finish(len(archive))
    assert reader.ended
    assert reader.wanted.size == 0
    for member in members:
        check(member, len(archive))
    assert read_in_place(archive, longest_header) == (members, reader.remarks.clauses())
    return members


def read_in_place(archive: bytes, longest_header: int) -> tuple[list[Member], tuple[str, ...]]:
    """Read an archive that is in memory as a whole: files by `feed_file`, where it takes them."""
    reader = TarReader(longest_header=longest_header)
    members = []
    while not reader.ended and reader.wanted.stop <= len(archive):
        start, stop = reader.wanted
        member = reader.feed_file(memoryview(archive)[start:], 1 << 20)
        if member is None:
            member = reader.feed(archive[start:stop])
        if member is not None:
            members.append(member)
    reader.finish(len(archive))
    return members, reader.remarks.clauses()


def test_a_plain_file_is_taken_in_place_only_if_it_is_small_and_whole() -> None:
    archive = plain_file(700)
    whole = memoryview(archive)
    assert TarReader().feed_file(whole[: BLOCK + 699], 1 << 20) is None
    assert TarReader().feed_file(whole, 700) is None
    damaged = bytearray(archive)
    damaged[3] ^= 1
    assert TarReader().feed_file(memoryview(damaged), 1 << 20) is None
    reader = TarReader()
    member = reader.feed_file(whole, 701)
    assert member is not None
    assert (member.name, member.size, member.mode) == ("a/b", 700, 0o640)
    assert member.extents == (Extent(BLOCK, BLOCK + 700, 0),)
    assert reader.wanted == Span(3 * BLOCK, 4 * BLOCK)


def plain_file(size: int) -> bytes:
    header = tarfile.TarInfo("a/b")
    header.size, header.mode = size, 0o640
    return header.tobuf(tarfile.GNU_FORMAT) + padded(b"x" * size)


def check(member: Member, total: int) -> None:
    behind = 0
    for extent in member.extents:
        assert extent.size > 0
        assert extent.offset >= behind
        assert extent.stop <= total
        behind = extent.offset + extent.size
    assert behind <= member.size


def content(archive: bytes, member: Member) -> bytes:
    found = bytearray(member.size)
    for extent in member.extents:
        part = archive[extent.start : extent.stop]
        found[extent.offset : extent.offset + extent.size] = part
    return bytes(found)


def only(archive: bytes) -> Member:
    (member,) = read(archive)
    return member


def refusal(archive: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        read(archive)
    return str(caught.value)


# Against Python's tarfile


def cpythons_archive() -> bytes:
    folder = Path(str(importlib.import_module("test").__file__)).parent
    for path in (folder / "testtar.tar", folder / "archivetestdata" / "testtar.tar"):
        if path.exists():
            return path.read_bytes()
    pytest.skip("this Python comes without testtar.tar")


def assert_equal_to_tarfile(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8") as judge:
        expected = judge.getmembers()
        found = read(archive)
        assert [m.name.rstrip("/") for m in found] == [m.name for m in expected]
        for member, info in zip(found, expected, strict=True):
            is_file = info.type not in KINDS
            assert member.kind is KINDS.get(info.type, Kind.FILE)
            assert member.mode == info.mode & 0o7777
            # tarfile keeps fractions as floats.
            assert abs(member.mtime - Fraction(info.mtime) * SECOND) < 1000
            assert member.target == (info.linkname if info.islnk() or info.issym() else "")
            assert member.size == (info.size if is_file else 0)
            assert member.position == info.offset
            if is_file:
                data = judge.extractfile(info)
                assert data is not None
                digest = hashlib.sha256(data.read()).digest()
                assert hashlib.sha256(content(archive, member)).digest() == digest


def test_cpythons_own_archive_reads_as_tarfile_reads_it() -> None:
    archive = cpythons_archive()
    assert is_tar(archive[:BLOCK])
    assert_equal_to_tarfile(archive)


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("/é漢"),
    min_size=1,
    max_size=300,
).filter(lambda name: name.strip("/") and not name.endswith("/"))


@st.composite
def infos(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, *KINDS]))
    info.mode = draw(st.integers(0, 0o7777))
    info.mtime = draw(st.integers(0, 2**40) | st.integers(-(2**52), 2**52))
    data = b""
    if info.isreg():
        data = draw(st.binary(max_size=2000))
        info.size = len(data)
    if info.islnk() or info.issym():
        info.linkname = draw(NAMES)
    return info, data


@given(
    st.lists(infos(), max_size=4),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_tarfile_writes_is_read_as_tarfile_reads_it(
    members: list[tuple[tarfile.TarInfo, bytes]], form: int
) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form, encoding="utf-8") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    assert_equal_to_tarfile(written.getvalue())


@given(
    st.from_regex(r"[a-zé]{1,60}(/[a-zé]{1,12}){0,8}", fullmatch=True).filter(
        lambda name: len(name.encode()) < 150
    ),
    st.binary(max_size=2000),
    st.integers(0, 8**11 - 1),
)
def test_ustar_names_are_joined_from_their_two_parts(name: str, data: bytes, mtime: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), mtime
    try:
        head = info.tobuf(tarfile.USTAR_FORMAT, "utf-8")
    except ValueError:  # it cannot be split
        return
    archive = head + padded(data) + END
    assert_equal_to_tarfile(archive)
    assert only(archive).name == name


# Against GNU tar


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(bytes(range(256)) * 9)
    os.utime(folder / "file", ns=(0, 1_234_567_890_123_456_789))
    (folder / "empty").touch()
    (folder / "sub" / "link").symlink_to("../file")
    (folder / "sub" / "same").hardlink_to(folder / "file")
    return folder


def gnu_tar(folder: Path, *options: str) -> bytes:
    program = shutil.which("gtar") or shutil.which("tar")
    version = subprocess.run([program or "false", "--version"], capture_output=True, check=False)
    if b"GNU tar" not in version.stdout:
        pytest.skip("needs GNU tar")
    command = [str(program), "-c", "-f", "-", "--sort=name", "-C", str(folder), *options, "."]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_every_form_of_gnu_tar_is_read(tree: Path, form: str) -> None:
    if form != "v7":
        long = tree / ("f" * 60) / ("g" * 60)
        long.mkdir(parents=True)
        (long / "é").write_bytes(b"long")
    archive = gnu_tar(tree, f"--format={form}")
    assert_equal_to_tarfile(archive)
    by_name = {member.name: member for member in read(archive)}
    assert content(archive, by_name["./file"]) == (tree / "file").read_bytes()
    assert by_name["./sub/link"].target == "../file"
    assert by_name["./sub/same"].target == "./file"
    fine = 1_234_567_890_123_456_789 if form == "posix" else 1_234_567_890 * SECOND
    assert by_name["./file"].mtime == fine
    if form != "v7":
        deep = by_name[f"./{'f' * 60}/{'g' * 60}/é"]
        assert content(archive, deep) == b"long"


@pytest.mark.parametrize(
    "options",
    [
        ["--format=oldgnu"],
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("parts", [0, 1, 4, 5, 25, 26, 120])
def test_sparse_files_of_gnu_tar_are_read(tmp_path: Path, options: list[str], parts: int) -> None:
    # 4 parts fill an old header, 21 more its extension block; 120 need a second block in 1.0.
    folder = tmp_path / "tree"
    folder.mkdir()
    with (folder / "holes").open("wb") as file:
        for part in range(parts):
            file.seek((1 + 2 * part) * 4096)
            file.write(b"part %4d " % part * 400)
        file.truncate((2 + 2 * parts) * 4096)
    (folder / "next").write_bytes(b"what follows")
    archive = gnu_tar(folder, "--sparse", "--hole-detection=raw", *options)
    by_name = {member.name: member for member in read(archive)}
    holes = by_name["./holes"]
    assert content(archive, holes) == (folder / "holes").read_bytes()
    assert sum(extent.size for extent in holes.extents) <= parts * 4096
    assert content(archive, by_name["./next"]) == b"what follows"


def test_a_sparse_file_that_ends_within_a_block_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    with (folder / "holes").open("wb") as file:
        file.seek(8192)
        file.write(b"odd")
    for options in (["--format=gnu"], ["--format=posix"]):
        archive = gnu_tar(folder, "--sparse", "--hole-detection=raw", *options)
        (holes,) = (member for member in read(archive) if member.name == "./holes")
        assert content(archive, holes) == bytes(8192) + b"odd"


def test_an_incremental_dump_of_gnu_tar_is_read(tree: Path, tmp_path: Path) -> None:
    archive = gnu_tar(tree, "--format=gnu", f"--listed-incremental={tmp_path / 'state'}")
    found = {member.name: member.kind for member in read(archive)}
    assert found["./sub/"] is Kind.FOLDER
    assert found["./file"] is Kind.FILE


def test_a_volume_label_is_no_member(tree: Path) -> None:
    with_label = gnu_tar(tree, "--format=gnu", "--label=volume")
    names = [member.name for member in read(gnu_tar(tree, "--format=gnu"))]
    assert [member.name for member in read(with_label)] == names


# What is wanted


def test_data_is_never_wanted() -> None:
    archive = block(size=octal(513)) + padded(b"x" * 513) + block(b"next") + END
    reader = TarReader()
    assert reader.wanted == Span(0, 512)
    member = reader.feed(archive[:512])
    assert member == Member("member", Kind.FILE, 513, extents=(Extent(512, 1025, 0),))
    assert reader.wanted == Span(1536, 2048)


def test_a_member_larger_than_octal_digits_can_say_is_placed() -> None:
    big = 9 << 30
    reader = TarReader()
    gnu = block(size=b"\x80" + big.to_bytes(11, "big"))
    member = reader.feed(gnu)
    assert member is not None
    assert member.size == big
    assert reader.wanted.start == 512 + big
    reader = TarReader()
    extended = pax((b"size", b"%d" % big))
    assert reader.feed(extended[:512]) is None
    assert reader.wanted == Span(512, 1024)
    assert reader.feed(extended[512:]) is None
    member = reader.feed(block())
    assert member is not None
    assert member.size == big
    assert reader.wanted.start == 1536 + big


def test_a_long_sparse_map_takes_few_steps() -> None:
    pairs = [(1024 * at, 512) for at in range(5000)]
    numbers = [len(pairs), *(number for pair in pairs for number in pair)]
    text = padded(b"".join(b"%d\n" % number for number in numbers))
    size = len(text) + 512 * len(pairs)
    head = pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"holes"),
        (b"GNU.sparse.realsize", b"5120000"), (b"size", b"%d" % size),
    )  # fmt: skip
    archive = head + block() + text
    reader = TarReader()
    steps = 0
    while (member := reader.feed(archive[reader.wanted.start : reader.wanted.stop])) is None:
        steps += 1
    assert steps < 40
    assert member.name == "holes"
    assert len(member.extents) == 5000
    assert member.extents[0] == Extent(len(archive), len(archive) + 512, 0)


# Kinds and names


def test_a_slash_behind_the_name_of_a_regular_member_makes_it_a_folder() -> None:
    assert only(block(b"old/", b"\0", magic=bytes(8)) + END).kind is Kind.FOLDER
    assert only(block(b"old/", b"0") + END).kind is Kind.FOLDER


def test_a_folder_by_name_with_data_is_refused() -> None:
    archive = block(b"old/", b"\0", size=octal(4)) + padded(b"data") + END
    assert "a folder by its name" in refusal(archive)


@pytest.mark.parametrize("flag", [b"2", b"3", b"4", b"5", b"6"])
def test_kinds_without_data_have_none_whatever_their_size(flag: bytes) -> None:
    archive = block(b"first", flag, size=octal(600)) + block(b"second") + END
    assert [member.name for member in read(archive)] == ["first", "second"]


@pytest.mark.parametrize("flag", [b"7", b"Z", b"A", b"N"])
def test_unknown_types_are_files(flag: bytes) -> None:
    archive = block(flag=flag, size=octal(4)) + padded(b"data") + END
    member = only(archive)
    assert member.kind is Kind.FILE
    assert content(archive, member) == b"data"


def test_a_dumped_folder_has_data_that_is_skipped() -> None:
    archive = block(b"sub/", b"D", size=octal(600)) + b"Y" * 1024 + block(b"next") + END
    assert [m.kind for m in read(archive)] == [Kind.FOLDER, Kind.FILE]


def test_a_member_from_another_volume_is_refused() -> None:
    assert "another volume" in refusal(block(b"rest", b"M") + END)


def test_pax_records_go_before_long_names_and_those_before_the_header() -> None:
    long = described(b"long\0", b"L") + described(b"far\0", b"K")
    member = only(long + block(flag=b"2", target=b"near", prefix=b"p") + END)
    assert (member.name, member.target, member.position) == ("long", "far", 0)
    own = pax((b"path", b"own"), (b"linkpath", b"own target"))
    member = only(long + own + block(flag=b"2") + END)
    assert (member.name, member.target) == ("own", "own target")


@pytest.mark.parametrize("flag", [b"x", b"X"])
def test_an_extended_header_holds_for_one_member(flag: bytes) -> None:
    archive = pax((b"path", b"new"), (b"mtime", b"5"), flag=flag) + block() + block() + END
    assert [(m.name, m.mtime) for m in read(archive)] == [("new", 5 * SECOND), ("member", 0)]


def test_a_global_header_holds_until_taken_back() -> None:
    archive = (
        pax((b"mtime", b"7"), (b"comment", b"commit"), flag=b"g")
        + block(b"first")
        + pax((b"mtime", b"8"))
        + block(b"second")
        + pax((b"mtime", b""))
        + block(b"third", mtime=octal(9))
        + block(b"fourth")
        + END
    )
    assert [member.mtime // SECOND for member in read(archive)] == [7, 8, 9, 7]


def test_names_that_are_no_utf8_keep_their_bytes() -> None:
    archive = pax((b"hdrcharset", b"BINARY"), (b"path", b"\xff\xc3\xa9")) + block() + END
    assert os.fsencode(only(archive).name) == b"\xff\xc3\xa9"
    assert os.fsencode(only(block(b"\xe9") + END).name) == b"\xe9"


def test_star_keeps_times_behind_a_shorter_prefix() -> None:
    times = (476, b"12345670123 12345670123 ")
    star = block(prefix=b"p" * 131, times=times, mark=(508, b"tar\0"))
    assert only(star + END).name == "p" * 131 + "/member"
    assert only(block(prefix=b"p" * 155) + END).name == "p" * 155 + "/member"


def test_a_prefix_is_believed_only_in_the_form_of_posix() -> None:
    assert only(block(prefix=b"p", magic=b"ustar  \0") + END).name == "member"
    assert only(block(prefix=b"p", magic=bytes(8)) + END).name == "member"


# Hard links with a size


def test_a_hard_link_whose_size_has_no_data_is_followed_by_a_header() -> None:
    link = block(b"link", b"1", size=octal(600))
    for archive in (
        link + block(b"next") + END,
        pax((b"mtime", b"1")) + link + block(b"next") + END,
    ):
        assert [member.name for member in read(archive)] == ["link", "next"]
    assert only(link + END).extents == ()


def test_the_data_of_a_hard_link_is_skipped() -> None:
    data = padded(b"d" * 600)
    link = block(b"link", b"1", size=octal(600))
    for archive in (link + data + block(b"next") + END, pax((b"size", b"600")) + link + data + END):
        assert read(archive)[0].kind is Kind.HARDLINK


def test_zeros_are_the_data_of_a_hard_link_in_a_pax_archive() -> None:
    link = pax((b"size", b"1024")) + block(b"link", b"1")
    assert [m.name for m in read(link + END + block(b"next") + END)] == ["link", "next"]


@pytest.mark.parametrize("magic", [b"ustar  \0", bytes(8)])
def test_before_posix_hard_links_have_no_data(magic: bytes) -> None:
    link = block(b"link", b"1", size=octal(600), magic=magic)
    assert "not a tar header at byte 512" in refusal(link + padded(b"d" * 600) + END)


# Numbers


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"00000000017\0", 15),
        (b"       17 \0\0", 15),
        (b"17 rubbish\0\0", 15),
        (b"\0        17\0", 15),
        (b"777777777777", 8**12 - 1),
        (b" " * 12, 0),
        (bytes(12), 0),
        (b"\x80" + (1 << 40).to_bytes(11, "big"), 1 << 40),
        (b"\xff" * 12, -1),
    ],
)
def test_numbers_are_octal_or_base_256(field: bytes, seconds: int) -> None:
    assert only(block(mtime=field) + END).mtime == seconds * SECOND


NO_NUMBERS = [b"0000000001x\0", b"-0000000001\0", b"\xfe" * 12, b"9" * 12]


@pytest.mark.parametrize("field", NO_NUMBERS)
def test_what_is_no_size_is_refused_with_its_member(field: bytes) -> None:
    words = refusal(block(b"first") + block(b"second", size=field) + END)
    assert "member 'second' at byte 512" in words
    assert "not a number" in words


@pytest.mark.parametrize(
    "field", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7]
)
def test_impossible_sizes_are_refused(field: bytes) -> None:
    assert "size is impossible" in refusal(block(size=field) + END)


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (b"1.5", 1_500_000_000),
        (b"1234567890.123456789", 1_234_567_890_123_456_789),
        (b"1234567890.1234567899", 1_234_567_890_123_456_789),
        (b"-1.25", -1_250_000_000),
        (b"-0.0000000001", -1),
        (b"7.", 7 * SECOND),
    ],
)
def test_fractions_of_a_second_are_exact(value: bytes, nanoseconds: int) -> None:
    assert only(pax((b"mtime", value)) + block() + END).mtime == nanoseconds


@pytest.mark.parametrize("value", [b"-1", b"0x10", b"1.0", b" 1", b"9" * 19, b"9" * 5000])
def test_what_is_no_size_is_refused(value: bytes) -> None:
    assert "size is not a number" in refusal(pax((b"size", value)) + block() + END)


# Headers that cannot be believed


@pytest.mark.parametrize(
    "body",
    [b"path=x\n", b"99 path=x\n", b"7 path=x\n", b"9 path x\n", b"8 path=x\n" * 2,
     b"0 a=\n", b"999999999999999999999999 a=b\n", b"10 path=xy"],
)  # fmt: skip
def test_broken_records_are_refused(body: bytes) -> None:
    assert "extended header is broken" in refusal(described(body) + block() + END)


def test_a_wrong_checksum_is_no_header() -> None:
    wrong = block(checksum=b"000001\0 ")
    assert not is_tar(wrong)
    assert "not a tar header at byte 512" in refusal(block(b"first") + wrong + END)


def test_checksums_of_signed_bytes_are_right() -> None:
    plain = block(b"\xe9")
    signed = block(b"\xe9", checksum=b"%06o\0 " % (int(plain[148:154], 8) - 256))
    assert is_tar(plain)
    assert is_tar(signed)
    assert os.fsencode(only(signed + END).name) == b"\xe9"


def test_only_whole_headers_and_empty_archives_are_tar() -> None:
    assert is_tar(block())
    assert is_tar(bytes(512))
    assert not is_tar(block()[:-1])
    assert not is_tar(b"")
    assert not is_tar(b"\x1f\x8b" + bytes(510))


@pytest.mark.parametrize("flag", [b"x", b"g", b"L", b"K"])
def test_a_header_longer_than_allowed_is_refused_before_it_is_wanted(flag: bytes) -> None:
    reader = TarReader(longest_header=1000)
    with pytest.raises(LimitExceededError) as caught:
        reader.feed(block(flag=flag, size=octal(1001)))
    assert (caught.value.allowed, caught.value.found) == (1000, 1001)


def test_headers_of_one_member_are_bounded_together() -> None:
    one = described(b"n" * 600, b"L") + block()
    assert len(read(one + one + END, longest_header=1000)) == 2
    with pytest.raises(LimitExceededError):
        read(described(b"n" * 600, b"L") * 2 + block() + END, longest_header=1000)


def test_empty_descriptions_say_nothing() -> None:
    empty = b"".join(block(b"empty", flag) for flag in (b"g", b"x", b"L", b"K"))
    assert only(empty + block() + END).name == "member"


# Sparse maps that cannot be believed


def test_a_right_sparse_map_is_believed() -> None:
    member = only(sparse_0_1(b"512,512,2048,3", size=4000, stored=515))
    assert [(e.offset, e.size) for e in member.extents] == [(512, 512), (2048, 3)]
    assert member.size == 4000
    assert only(sparse_0_1(b"", size=4000, stored=0)).extents == ()


@pytest.mark.parametrize(
    ("numbers", "stored"),
    [
        (b"0,512,256,512", 1024),
        (b"1024,512,0,512", 1024),
        (b"3584,512", 512),
        (b"0,3,512,3", 6),
        (b"0,512", 1024),
        (b"0,1024", 512),
        (b"0", 0),
        (b"0,-1", 0),
        (b"0,x", 0),
        (b"0,9223372036854775807", 512),
    ],
    ids=["overlaps", "goes backwards", "exceeds the size", "part within a block", "too little",
         "too much", "no pair", "negative", "not a number", "absurd"],
)  # fmt: skip
def test_a_wrong_sparse_map_is_refused(numbers: bytes, stored: int) -> None:
    assert "sparse map" in refusal(sparse_0_1(numbers, size=4000, stored=stored))


def test_a_sparse_map_of_another_length_than_stated_is_refused() -> None:
    assert "number of entries" in refusal(sparse_0_1(b"0,512", size=4000, stored=512, count=b"2"))


@pytest.mark.parametrize(
    "text",
    [b"1\n0\n256\n", b"x\n", b"", b"999999999999999999\n", b"2\n0\n512\n", b"1\n0\nx\n", b"-1\n"],
)
def test_a_wrong_sparse_map_in_the_data_is_refused(text: bytes) -> None:
    head = pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"4000")
    )
    archive = head + block(size=octal(1024)) + padded(text or b"\0") + bytes(512) + END
    assert "sparse map" in refusal(archive)


def test_a_sparse_map_longer_than_allowed_is_refused() -> None:
    head = pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"4000")
    )
    archive = head + block(size=octal(1 << 30)) + padded(b"900000\n")
    with pytest.raises(LimitExceededError):
        read(archive)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([(b"GNU.sparse.major", b"2"), (b"GNU.sparse.realsize", b"1")], "unknown version"),
        ([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")], "sparse size is not a number"),
        ([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.offset", b"0")], "not in pairs"),
        ([(b"GNU.sparse.size", b"9"), (b"GNU.sparse.numbytes", b"0")], "not in pairs"),
    ],
)
def test_incomplete_sparse_records_are_refused(
    records: list[tuple[bytes, bytes]], words: str
) -> None:
    assert words in refusal(pax(*records) + block(size=octal(512)) + bytes(512) + END)


def test_sparse_records_on_what_is_no_file_are_refused() -> None:
    records = pax((b"GNU.sparse.size", b"9"))
    assert "sparse and a symbolic link" in refusal(records + block(flag=b"2") + END)
    assert "for all members" in refusal(pax((b"GNU.sparse.size", b"9"), flag=b"g") + END)


def test_an_old_sparse_map_that_goes_on_behind_its_end_is_refused() -> None:
    assert only(old_sparse(0, (1024, 512)) + bytes(512) + END).size == 4096
    assert "continues past its end" in refusal(old_sparse(1, (1024, 512)) + bytes(1024) + END)


def test_an_old_sparse_map_is_believed_only_in_the_form_of_gnu_tar() -> None:
    archive = old_sparse(0, (1024, 512), magic=b"ustar\x0000") + bytes(512) + END
    assert "unknown form" in refusal(archive)


def test_an_endless_chain_of_extension_blocks_is_refused() -> None:
    table = (octal(0) + octal(0)) * 21
    extension = table + b"\1" + bytes(512 - len(table) - 1)
    archive = old_sparse(1, *[(0, 0)] * 4) + extension * 30
    with pytest.raises(LimitExceededError):
        read(archive, longest_header=10_000)


# The end


def test_an_archive_that_ends_within_a_member_names_it() -> None:
    with pytest.raises(TruncatedArchiveError, match="member 'weights' continues up to byte 1536"):
        read(block(b"weights", size=octal(600)) + b"x" * 100)


def test_what_follows_the_end_marker_is_ignored() -> None:
    assert len(read(block() + END + b"anything" * 1000)) == 1


def test_a_total_before_the_end_marker_is_truncated() -> None:
    reader = TarReader()
    reader.feed(bytes(512))
    reader.feed(bytes(512))
    assert reader.ended
    with pytest.raises(TruncatedArchiveError):
        reader.finish(600)


# Bytes that no maker writes


def samples() -> list[bytes]:
    old = old_sparse(1, *[(1024 * at, 0) for at in range(4)])
    extension = padded(octal(8192 - 512) + octal(0))
    return [
        block(size=octal(700)) + padded(b"x" * 700) + block(b"link", b"1", size=octal(9)) + END,
        pax((b"path", b"new"), (b"size", b"600"), (b"mtime", b"1.5")) + block() + bytes(1024) + END,
        described(b"long\0", b"L") + described(b"far\0", b"K") + block(flag=b"2") + END,
        old + extension + bytes(512) + END,
        sparse_0_1(b"512,512,2048,3", size=4000, stored=515),
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"4000"))
        + block(size=octal(1024)) + padded(b"1\n0\n512\n") + bytes(512) + END,
    ]  # fmt: skip


def with_right_checksums(archive: bytearray) -> None:
    """Give every block that looks like a header a right checksum: mutations reach fields."""
    for at in range(0, len(archive) - 511, 512):
        if archive[at + 257 : at + 262] == b"ustar":
            archive[at + 148 : at + 156] = b" " * 8
            archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + 512])


@given(
    st.sampled_from(samples()),
    st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=12)), max_size=5),
    st.none() | st.integers(0, 4096),
    st.booleans(),
)
def test_mutated_archives_are_read_or_refused(
    archive: bytes, changes: list[tuple[int, bytes]], cut: int | None, right: bool
) -> None:
    mutated = bytearray(archive)
    for at, data in changes:
        place = at % len(mutated)
        stop = min(place + len(data), len(mutated))
        mutated[place:stop] = data[: stop - place]
    if right:
        with_right_checksums(mutated)
    # `read` checks that the reader moves forward, and that what it returns fits the archive.
    with contextlib.suppress(ArchiveError):
        read(bytes(mutated[:cut]))
