import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.ranges import (
    ContentRange,
    Span,
    Spans,
    format_range,
    parse_content_range,
    whole_units,
)

SMALL = st.integers(0, 60)
PAIRS = st.lists(st.tuples(SMALL, SMALL), max_size=20)
POSITIONS = st.integers(0, 10**18)


def spans_of(members: set[int]) -> list[Span]:
    """The model's own answer: the runs of a set of numbers."""
    starts = sorted(n for n in members if n - 1 not in members)
    stops = sorted(n + 1 for n in members if n + 1 not in members)
    return [Span(*pair) for pair in zip(starts, stops, strict=True)]


def model_of(pairs: list[tuple[int, int]]) -> set[int]:
    return {n for start, stop in pairs for n in range(start, stop)}


# ------------------------------------------------------------------------------- a set of bytes


@given(PAIRS)
def test_spans_added_in_any_order_are_the_set_of_their_bytes(pairs: list[tuple[int, int]]) -> None:
    spans = Spans()
    members: set[int] = set()
    for start, stop in pairs:
        spans.add(start, stop)
        members |= set(range(start, stop))
        assert list(spans) == spans_of(members)
        assert spans.size == len(members)
        assert bool(spans) == bool(members)
    assert spans == Spans(Span(*pair) for pair in reversed(pairs))


@given(PAIRS, SMALL, SMALL)
def test_what_is_missing_is_what_the_set_lacks(
    pairs: list[tuple[int, int]], start: int, stop: int
) -> None:
    spans = Spans(Span(*pair) for pair in pairs)
    lacking = set(range(start, stop)) - model_of(pairs)
    assert list(spans.missing(start, stop)) == spans_of(lacking)
    assert spans.covers(start, stop) == (not lacking)


@given(PAIRS)
def test_the_frontier_is_the_first_byte_that_is_not_there(pairs: list[tuple[int, int]]) -> None:
    members = model_of(pairs)
    expected = next(n for n in range(62) if n not in members)
    assert Spans(Span(*pair) for pair in pairs).frontier == expected


@given(st.permutations(range(12)))
def test_any_order_of_arrival_gives_the_whole(order: list[int]) -> None:
    spans = Spans()
    for piece in order:
        spans.add(piece * 7, piece * 7 + 7)
    assert list(spans) == [Span(0, 84)]


@given(PAIRS)
def test_a_copy_lives_on_its_own(pairs: list[tuple[int, int]]) -> None:
    spans = Spans(Span(*pair) for pair in pairs)
    copy = Spans(spans)
    copy.add(100, 200)
    assert copy.size == spans.size + 100


def test_spans_are_no_equal_of_other_things() -> None:
    assert Spans([Span(0, 1)]) != [Span(0, 1)]
    assert repr(Spans([Span(0, 1)])) == "Spans([Span(start=0, stop=1)])"


# ------------------------------------------------------------------------------------ the headers


@given(POSITIONS, st.integers(1, 10**9), st.integers(0, 10**9) | st.none())
def test_a_content_range_is_read_as_it_was_written(
    start: int, size: int, beyond: int | None
) -> None:
    span = Span(start, start + size)
    total = None if beyond is None else span.stop + beyond
    text = f"bytes {start}-{span.stop - 1}/{'*' if total is None else total}"
    assert parse_content_range(text) == ContentRange(span, total)


@given(POSITIONS, st.integers(1, 10**9))
def test_what_is_asked_for_is_what_an_exact_answer_says(start: int, size: int) -> None:
    span = Span(start, start + size)
    answered = format_range(span).replace("bytes=", "bytes ") + f"/{span.stop}"
    assert parse_content_range(answered) == ContentRange(span, span.stop)


def test_the_range_of_one_byte_names_it_twice() -> None:
    assert format_range(Span(5, 6)) == "bytes=5-5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", ContentRange(Span(0, 10), 10)),
        ("BYTES 0-9/10", ContentRange(Span(0, 10), 10)),
        ("bytes \t 0-9/10", ContentRange(Span(0, 10), 10)),
        ("  bytes 0-9/10 ", ContentRange(Span(0, 10), 10)),
        ("bytes 0-9/*", ContentRange(Span(0, 10), None)),
        ("bytes */10", ContentRange(None, 10)),
        ("bytes */0", ContentRange(None, 0)),
        ("bytes 007-009/0010", ContentRange(Span(7, 10), 10)),
    ],
)
def test_a_content_range_that_makes_sense_is_read(text: str, expected: ContentRange) -> None:
    assert parse_content_range(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes",
        "bytes */*",
        "bytes 9-0/10",
        "bytes 0-10/10",
        "bytes 0-9/0",
        "bytes 0-9",
        "bytes 0-/10",
        "bytes -9/10",
        "bytes=0-9/10",
        "bytes 0 - 9 / 10",
        "bytes 0-9/10, bytes 10-19/20",
        "bytes 0-9/10 extra",
        "bytes +0-9/10",
        "bytes 0x0-9/10",
        "bytes 0-99999999999999999999/*",
        "bytes \u0660-\u0669/10",
        "items 0-9/10",
        "none",
    ],
)
def test_a_content_range_that_makes_no_sense_is_none(text: str) -> None:
    assert parse_content_range(text) is None


@given(st.text())
def test_reading_a_content_range_is_total(text: str) -> None:
    parse_content_range(text)
    parse_content_range(f"bytes {text}")


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6),
    st.integers(1, 9),
    st.integers(0, 60),
)
def test_whole_units_are_those_of_which_every_byte_is_there(
    pairs: list[tuple[int, int]], unit: int, total: int
) -> None:
    spans = Spans(Span(start, min(stop, total)) for start, stop in pairs)
    found = whole_units(spans, unit, total)
    for start in range(0, total, unit):
        stop = min(start + unit, total)
        assert found.covers(start, stop) == spans.covers(start, stop)
        assert found.overlaps(start, stop) == found.covers(start, stop)
    assert all(span.stop <= total for span in found)
