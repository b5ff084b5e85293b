"""Tar archives that are odd, yet clear: GNU tar takes them, and what is odd is remarked."""

from __future__ import annotations

import pytest

from pgetpy.core.archives.members import Member
from pgetpy.core.archives.tar import TarReader
from pgetpy.errors import ArchiveError, TruncatedArchiveError
from tests.support.tars import END, base_256, block, described, file, octal, padded, pax

SECOND = 10**9
TWO = file(b"one") + file(b"two", b"x" * 600)


def read(archive: bytes, *, delimited: bool = True) -> tuple[list[Member], tuple[str, ...]]:
    """The members of an archive, and what is remarked on it."""
    reader = TarReader(delimited=delimited)
    members = []
    while not reader.ended and reader.wanted.stop <= len(archive):
        member = reader.feed(archive[reader.wanted.start : reader.wanted.stop])
        if member is not None:
            members.append(member)
    rest = b"" if reader.ended else archive[reader.wanted.start :]
    reader.finish(len(archive), rest)
    assert reader.ended
    return members, reader.remarks.clauses()


def names(archive: bytes, **options: bool) -> list[str]:
    return [member.name for member in read(archive, **options)[0]]


def remark(archive: bytes) -> str:
    (clause,) = read(archive)[1]
    return clause


# The end


@pytest.mark.parametrize("rest", [b"", bytes(100), b"\n", b"\r\n", b" " * 511], ids=repr)
def test_the_end_marker_may_be_missing_where_it_is_known_that_all_has_come(rest: bytes) -> None:
    assert names(TWO + rest) == ["one", "two"]
    assert "no end marker" in remark(TWO + rest)
    with pytest.raises(TruncatedArchiveError, match="the end marker is missing"):
        read(TWO + rest, delimited=False)


def test_what_may_end_without_a_marker_is_a_member_not_its_description() -> None:
    link = block(b"link", b"1", target=b"one", size=octal(10))
    for archive in (TWO + block(b"empty"), TWO + link, TWO + pax((b"a", b"b"), flag=b"g")):
        assert "no end marker" in remark(archive)
    long = described(b"long\0", b"L")
    for archive in (TWO + long, TWO + pax((b"path", b"a")), TWO + long + block(b"x")[:9]):
        with pytest.raises(TruncatedArchiveError, match="described at byte 2560 is missing"):
            read(archive)
    for archive in (TWO + block(b"three")[:300], TWO + block(b"x", b"L", size=octal(9)) + b"x"):
        with pytest.raises(TruncatedArchiveError, match="is incomplete"):
            read(archive)
    for size in (513, 1024 + 512, 1024 + 512 + 599, 1024 + 512 + 600, len(TWO) - 1):
        with pytest.raises(TruncatedArchiveError):
            read(TWO[:size])


@pytest.mark.parametrize("rest", [b"", bytes(600), bytes(1)], ids=len)
def test_one_zero_block_at_the_end_is_an_end_marker(rest: bytes) -> None:
    for delimited in (True, False):
        assert names(TWO + bytes(512) + rest, delimited=delimited) == ["one", "two"]
    assert read(TWO + bytes(512) + rest)[1] == ()
    assert read(bytes(512)) == ([], ())


@pytest.mark.parametrize("rest", [file(b"late") + END, b"g" * 512, b"g" * 100, b"\n"], ids=len)
def test_what_follows_a_lone_zero_block_is_left_out_with_a_remark(rest: bytes) -> None:
    archive = TWO + bytes(512) + rest
    assert names(archive) == ["one", "two"]
    assert "single zero block at byte 2560" in remark(archive)


def test_a_description_of_no_member_is_remarked() -> None:
    archive = TWO + pax((b"path", b"new")) + END
    assert names(archive) == ["one", "two"]
    assert remark(archive) == "the header at byte 2560 belongs to no member"


# Extended headers


@pytest.mark.parametrize("flags", [(b"x", b"x"), (b"x", b"X"), (b"X", b"x")])
def test_of_several_extended_headers_the_last_holds_alone(flags: tuple[bytes, bytes]) -> None:
    first = pax((b"path", b"a"), (b"mtime", b"9"), flag=flags[0])
    second = pax((b"path", b"b"), flag=flags[1])
    members, remarks = read(first + second + TWO + END)
    assert [(each.name, each.mtime) for each in members] == [("b", 0), ("two", 0)]
    assert remarks == (
        "member 'b' at byte 2048: it has several extended headers; the last one was used",
    )
    # Even the map of a sparse file is gone.
    sparse = pax((b"GNU.sparse.size", b"4000"), (b"GNU.sparse.map", b"512,10"))
    members, _ = read(sparse + pax((b"mtime", b"7")) + file(b"one") + END)
    assert [(each.size, each.mtime) for each in members] == [(10, 7 * SECOND)]


BAD_TIMES = [b"now", b"nan", b"-", b".5", b"+1", b" 1", b"9" * 19, b"9" * 5000, b"x" * 5000]


@pytest.mark.parametrize("value", BAD_TIMES, ids=lambda value: repr(value[:20]))
@pytest.mark.parametrize("flag", [b"x", b"g"])
def test_the_header_has_the_time_where_the_extended_one_has_none(value: bytes, flag: bytes) -> None:
    archive = pax((b"mtime", value), flag=flag) + file(b"one", mtime=octal(5)) + END
    ((member,), (clause,)) = read(archive)
    assert member.mtime == 5 * SECOND
    assert clause.startswith("member 'one' at byte ")
    assert "the plain header's was used" in clause


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (b"1e9", SECOND),
        (b"1,5", SECOND),
        (b"1.5x", 1_500_000_000),
        (b"0" * 30 + b"1", SECOND),
        (b"-" + b"0" * 30 + b"1.5", -1_500_000_000),
        (b"0" * 6000, 0),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_time_is_what_gnu_tar_reads(value: bytes, nanoseconds: int) -> None:
    ((member,), remarks) = read(pax((b"mtime", value)) + file(b"one", mtime=octal(5)) + END)
    assert (member.mtime, remarks) == (nanoseconds, ())


@pytest.mark.parametrize("zeros", [1, 19, 30, 6000])
def test_a_size_may_have_leading_zeros(zeros: int) -> None:
    archive = pax((b"size", b"0" * zeros + b"600")) + block(b"one") + padded(b"y" * 600) + TWO + END
    members, remarks = read(archive)
    assert [each.size for each in members] == [600, 10, 600]
    assert remarks == ()


@pytest.mark.parametrize("value", [b"0" * 30, b"-0", b"0"])
def test_zero_is_a_size_however_it_is_written(value: bytes) -> None:
    assert names(pax((b"size", value)) + block(b"one") + TWO + END) == ["one", "one", "two"]


@pytest.mark.parametrize(
    "body",
    [b"9\tpath=a\n", b"11  path=a\n", b" 11 path=a\n", b"0012 path=a\n", b"4 =\n9 path=a\n"],
    ids=repr,
)
def test_records_may_have_other_blanks_zeros_and_no_keyword(body: bytes) -> None:
    assert names(described(body) + TWO + END)[0] == "a"


# Fields of the plain header


@pytest.mark.parametrize(
    "field", [b"0000000001x\0", b"-0000000001\0", b"\xfe" * 12, b"9" * 12, base_256(1 << 80)]
)
def test_members_do_without_a_time_that_cannot_be_read(field: bytes) -> None:
    members, remarks = read(file(b"one", mtime=field) + file(b"two", mtime=octal(5)) + END)
    assert [each.mtime for each in members] == [0, 5 * SECOND]
    assert "time cannot be read" in remarks[0]
    # An extended header may have it.
    members, remarks = read(pax((b"mtime", b"7")) + file(b"one", mtime=field) + END)
    assert ([each.mtime for each in members], remarks) == ([7 * SECOND], ())


@pytest.mark.parametrize("field", [b"00006x4\0", b" " * 8, b"rw-r--r-"])
def test_members_do_without_a_mode_that_cannot_be_read(field: bytes) -> None:
    ((member,), (clause,)) = read(file(b"one", mode=field) + END)
    assert member.mode == 0o644
    assert "mode cannot be read" in clause


def test_of_each_kind_of_oddity_one_is_told_and_the_others_counted() -> None:
    many = b"".join(file(b"%d" % n, mtime=b"9" * 12, mode=b"8" * 8) for n in range(50))
    _, remarks = read(many + END)
    assert len(remarks) == 2
    assert all(each.startswith("member '0' at byte 0: ") for each in remarks)
    assert all(each.endswith(" (and 49 more such)") for each in remarks)


def test_what_is_in_the_middle_of_members_is_refused_as_ever() -> None:
    with pytest.raises(ArchiveError, match="not a tar header at byte 1024"):
        read(file(b"one") + b"g" * 512 + file(b"two") + END)
    with pytest.raises(ArchiveError, match="not a tar header at byte 2560"):
        read(TWO + b"g" * 512)
