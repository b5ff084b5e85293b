import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgetpy.core.destinations.journal import (
    Journal,
    Subject,
    flushed_line,
    parse_journal,
    published_line,
    subject_line,
    written_line,
)
from pgetpy.core.http.answers import Identity
from pgetpy.core.http.ranges import Span, Spans

SUBJECTS = st.builds(
    Subject,
    key=st.text(max_size=10),
    identity=st.builds(
        Identity,
        total=st.integers(0, 1 << 60),
        etag=st.none() | st.text(max_size=10),
        last_modified=st.none() | st.text(max_size=10),
        strong_date=st.booleans(),
    ),
    boot=st.text(max_size=10),
)
POSITIONS = st.integers(0, 1000)
FACTS = st.lists(
    st.tuples(st.sampled_from("wf"), POSITIONS, POSITIONS) | st.just(("p", 0, 0)), max_size=12
)
Fact = tuple[str, int, int]

SUBJECT = Subject("key", Identity(100, '"v1"', "yesterday"), "boot-1")


def line_of(fact: Fact) -> bytes:
    kind, start, stop = fact
    if kind == "p":
        return published_line()
    return written_line(start, stop) if kind == "w" else flushed_line(start, stop)


def journal_of(subject: Subject | None, facts: list[Fact]) -> Journal:
    """The model: what the facts say by themselves."""
    return Journal(
        subject,
        Spans(Span(start, stop) for kind, start, stop in facts if kind == "w"),
        Spans(Span(start, stop) for kind, start, stop in facts if kind == "f"),
        any(kind == "p" for kind, _, _ in facts),
    )


def said(journal: Journal) -> tuple[Subject | None, list[Span], list[Span], bool]:
    spans = list(journal.written), list(journal.flushed)
    return journal.subject, *spans, journal.published


def framed(text: bytes) -> bytes:
    """A line with a right checksum, whatever it says."""
    return b"%s %08x\n" % (text, zlib.crc32(text))


@given(SUBJECTS, FACTS)
def test_a_journal_is_read_as_it_was_written(subject: Subject, facts: list[Fact]) -> None:
    data = subject_line(subject) + b"".join(map(line_of, facts))
    assert said(parse_journal(data)) == said(journal_of(subject, facts))


@given(SUBJECTS, FACTS, st.data())
def test_a_journal_cut_off_anywhere_says_a_prefix_of_its_facts(
    subject: Subject, facts: list[Fact], data: st.DataObject
) -> None:
    lines = [subject_line(subject), *map(line_of, facts)]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)), label="cut")
    kept = 0
    while kept < len(lines) and sum(map(len, lines[: kept + 1])) <= cut:
        kept += 1
    expected = journal_of(subject, facts[: kept - 1]) if kept else Journal()
    assert said(parse_journal(whole[:cut])) == said(expected)


@settings(max_examples=50)
@given(FACTS, st.data())
def test_a_damaged_byte_ends_what_is_believed(facts: list[Fact], data: st.DataObject) -> None:
    lines = [subject_line(SUBJECT), *map(line_of, facts)]
    whole = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(whole) - 1), label="at")
    whole[at] ^= data.draw(st.integers(1, 255), label="flip")
    found, before = parse_journal(bytes(whole)), journal_of(SUBJECT, facts)
    assert found.subject in (SUBJECT, None)
    assert all(before.written.covers(span.start, span.stop) for span in found.written)
    assert all(before.flushed.covers(span.start, span.stop) for span in found.flushed)
    assert before.published or not found.published


@given(st.binary(max_size=200))
def test_reading_is_total(data: bytes) -> None:
    assert said(parse_journal(data)) == said(Journal())


@pytest.mark.parametrize(
    "first",
    [
        b"pgetpy 1 {}",
        b"pgetpy 1 []",
        b"pgetpy 1 null",
        b"pgetpy 1 {",
        b"pgetpy 1 ",
        b"pgetpy 1 \xff",
        b'pgetpy 1 {"key": "k"}',
        b'pgetpy 1 {"key": "k", "boot": "b"}',
        b'pgetpy 1 {"key": "k", "boot": "b", "total": 5, "added_later": true}',
        b'pgetpy 2 {"key": "k", "boot": "b", "total": 5}',
        b"w 0 100",
        b"",
    ],
)
def test_a_first_line_of_another_kind_means_nothing_is_held(first: bytes) -> None:
    assert said(parse_journal(framed(first) + written_line(0, 100))) == said(Journal())


@pytest.mark.parametrize("line", [b"w", b"w 0", b"w a b", b"w 5 -", b"w -5 5", b"f 1", b"w 0 1 2"])
def test_a_fact_that_makes_no_sense_ends_what_is_believed(line: bytes) -> None:
    data = subject_line(SUBJECT) + written_line(0, 10) + framed(line) + written_line(10, 20)
    assert said(parse_journal(data)) == said(journal_of(SUBJECT, [("w", 0, 10)]))


@pytest.mark.parametrize(
    ("written_at", "seen_from", "expected"),
    [
        ("boot-1", "boot-1", [Span(0, 100)]),
        ("boot-1", "boot-2", [Span(0, 40)]),
        ("", "", [Span(0, 40)]),
        ("boot-1", "", [Span(0, 40)]),
        ("", "boot-1", [Span(0, 40)]),
    ],
)
def test_after_a_power_cut_only_what_was_flushed_is_trusted(
    written_at: str, seen_from: str, expected: list[Span]
) -> None:
    subject = Subject("key", Identity(100), written_at)
    journal = journal_of(subject, [("w", 0, 100), ("f", 0, 40)])
    assert list(journal.trusted(seen_from)) == expected


@given(FACTS, st.binary(max_size=30).filter(lambda tail: b"\n" not in tail))
def test_what_makes_sense_is_counted_so_that_more_can_follow_it(
    facts: list[Fact], torn: bytes
) -> None:
    whole = subject_line(SUBJECT) + b"".join(map(line_of, facts))
    assert parse_journal(whole + torn).size == len(whole)


def test_a_journal_about_nothing_is_trusted_with_nothing() -> None:
    assert list(Journal().trusted("boot-1")) == []
