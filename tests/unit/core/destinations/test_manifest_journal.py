"""The journal of a manifest: what is said of files, and what of it is believed."""

from __future__ import annotations

import pytest

from pgetpy.core.destinations.manifest_journal import (
    FinishedFile,
    boot_line,
    file_line,
    manifest_digest,
    manifest_journal_name,
    parse_manifest_journal,
    unnamed_line,
)

FILES = [
    FinishedFile(0, "/data/a", 5, 123, 9),
    FinishedFile(0, "", 5, 123, 9, named=False),
    FinishedFile(2, "/data/\udcff", 0, 0, 7, flushed=True),
    FinishedFile(3, "/data/tree", 7, 0, members=("a", "b/\u00e9"), fingerprint="ab"),
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("boot", ["", "0b1e"])
def test_what_is_written_is_read(file: FinishedFile, boot: str) -> None:
    (found,) = parse_manifest_journal(boot_line(boot) + file_line(file)).values()
    assert [each.boot for each in found] == [boot]
    assert [each._replace(boot="") for each in found] == [file]


@pytest.mark.parametrize("flushed", [False, True])
def test_the_note_before_the_name_is_made_of_the_one_after_it(flushed: bool) -> None:
    named = FinishedFile(3, 'a "named": true, b', 10, 20, 30, flushed=flushed)
    noted = unnamed_line(file_line(named))
    assert noted == file_line(named._replace(named=False, flushed=False))


def test_what_was_noted_later_stands_last_and_belongs_to_its_boot() -> None:
    first, second = FILES[1], FILES[0]
    data = boot_line("one") + file_line(first) + boot_line("two") + file_line(second)
    found = parse_manifest_journal(data)[0]
    assert [(each.named, each.boot) for each in found] == [(False, "one"), (True, "two")]


def test_a_line_that_was_cut_off_anywhere_takes_no_other_with_it() -> None:
    head, last = boot_line("one") + file_line(FILES[0]), file_line(FILES[2])
    for cut in range(len(last) - 1):
        data = head + last[:cut] + b"\n" + boot_line("two") + file_line(FILES[3])
        assert parse_manifest_journal(data).keys() == {0, 3}


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"nonsense\n", file_line(FILES[0]), b"pgetpy manifest 1 boot\n[]\n"]
)
def test_nonsense_says_nothing(data: bytes) -> None:
    assert parse_manifest_journal(data) == {}


def test_a_power_cut_takes_certainty_from_what_was_not_flushed() -> None:
    file = FinishedFile(0, "/a", 1, 1, boot="one")
    assert file.is_certain("one")
    assert not file.is_certain("two")
    assert not file.is_certain("")
    assert not FinishedFile(0, "/a", 1, 1).is_certain("")
    assert FinishedFile(0, "/a", 1, 1, flushed=True, boot="one").is_certain("two")


def test_a_manifest_is_named_by_what_it_asks_for() -> None:
    lines = [("a", "/b", "", ""), ("c", "/d", "", "-x")]
    assert manifest_digest(lines) == manifest_digest(iter(lines))
    others = [lines[:1], lines[::-1], [*lines, lines[0]], [("a", "/b", "", "-x"), lines[1]]]
    assert manifest_digest(lines) not in map(manifest_digest, others)
    assert manifest_journal_name(manifest_digest(lines)).startswith(".")
