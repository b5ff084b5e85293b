"""Which answers are believed: every oddity of RFC 9110 that a server has been seen with."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.answers import (
    Answer,
    Identity,
    Redirected,
    RetryWithoutRange,
    judge,
    may_continue,
)
from pgetpy.core.http.heads import Head, parse_retry_after, status_error, words_of
from pgetpy.core.http.ranges import Span
from pgetpy.errors import (
    HttpStatusError,
    ObjectChangedError,
    RangeNotHonouredError,
    TransferError,
)

URL = "https://store.example/model.safetensors"
ASKED = Span(100, 200)
OLD = "Tue, 14 Nov 2023 22:13:20 GMT"
LATER = "Tue, 14 Nov 2023 22:14:20 GMT"
TOO_SOON = "Tue, 14 Nov 2023 22:14:19 GMT"

STRONG = Identity(1000, '"v1"', OLD)
WEAK = Identity(1000, 'W/"v1"', OLD)
DATED = Identity(1000, None, OLD, strong_date=True)
BARE = Identity(1000)


def head(status: int = 206, /, **headers: str) -> Head:
    """A head; names are written with underscores."""
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Head.of(status, "", fields, (1, 1))


def part(start: int, stop: int, total: int | str = 1000, **headers: str) -> Head:
    """An honest 206 of STRONG, changed by `headers`; an empty value takes one away."""
    honest = {
        "Content_Range": f"bytes {start}-{stop - 1}/{total}",
        "Content_Length": str(stop - start),
        "ETag": '"v1"',
        "Last_Modified": OLD,
    }
    return head(206, **{name: text for name, text in (honest | headers).items() if text})


def whole(total: int = 1000, **headers: str) -> Head:
    honest = {"Content_Length": str(total), "ETag": '"v1"', "Last_Modified": OLD}
    return head(200, **{name: text for name, text in (honest | headers).items() if text})


# ------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Case:
    """An answer, what was asked and known, and what becomes of it."""

    head: Head
    expected: Answer | type[BaseException]
    asked: Span | None = ASKED
    known: Identity | None = None
    url: str = URL


BELIEVED = {
    "what was asked for": Case(part(100, 200), Answer(100, 200, STRONG, ranged=True)),
    "what was asked for, once more": Case(
        part(100, 200), Answer(100, 200, STRONG, ranged=True), known=STRONG
    ),
    "a shorter piece that starts where asked": Case(
        part(100, 150), Answer(100, 150, STRONG, ranged=True)
    ),
    "a piece that is shorter because the object ends": Case(
        part(900, 1000), Answer(900, 1000, STRONG, ranged=True), asked=Span(900, 2000)
    ),
    "the piece with status 200 and a Content-Range": Case(
        head(200, Content_Range="bytes 100-199/1000", Content_Length="100", ETag='"v1"'),
        Answer(100, 200, Identity(1000, '"v1"'), ranged=True),
    ),
    "the whole object although a range was asked for": Case(
        whole(), Answer(0, 1000, STRONG, ranged=False), asked=Span(0, 100)
    ),
    "the whole object although a later range was asked for": Case(
        whole(), Answer(0, 1000, STRONG, ranged=False)
    ),
    "the whole object when nothing else was asked for": Case(
        whole(), Answer(0, 1000, STRONG, ranged=False), asked=None
    ),
    "a whole object that states its own range": Case(
        whole(Content_Range="bytes 0-999/1000"),
        Answer(0, 1000, STRONG, ranged=False),
        asked=None,
    ),
    "a whole object of unknown length, chunked": Case(
        whole(Content_Length="", Transfer_Encoding="chunked"),
        Answer(0, None, Identity(None, '"v1"', OLD), ranged=False),
    ),
    "a whole object with a length that chunking makes void": Case(
        whole(Transfer_Encoding="chunked"),
        Answer(0, None, Identity(None, '"v1"', OLD), ranged=False),
    ),
    "a body that only the end of the connection ends": Case(
        whole(Content_Length=""),
        Answer(0, None, Identity(None, '"v1"', OLD), ranged=False, delimited=False),
    ),
    "a piece without Content-Length, chunked": Case(
        part(100, 200, Content_Length="", Transfer_Encoding="chunked"),
        Answer(100, 200, STRONG, ranged=True),
    ),
    "a piece without any mark of its end": Case(
        part(100, 200, Content_Length=""),
        Answer(100, 200, STRONG, ranged=True),
    ),
    "a Content-Length said twice the same": Case(
        part(100, 200, Content_Length="100, 100"), Answer(100, 200, STRONG, ranged=True)
    ),
    "a whole Content-Length said twice the same": Case(
        whole(Content_Length="1000, 1000"), Answer(0, 1000, STRONG, ranged=False), asked=None
    ),
    "the same weak ETag, date and size": Case(
        part(100, 200, ETag='W/"v1"'), Answer(100, 200, WEAK, ranged=True), known=WEAK
    ),
    "no validator at all, the same size": Case(
        part(100, 200, ETag="", Last_Modified=""),
        Answer(100, 200, BARE, ranged=True),
        known=BARE,
    ),
    "a strong ETag with another date": Case(
        part(100, 200, Last_Modified=LATER),
        Answer(100, 200, Identity(1000, '"v1"', LATER), ranged=True),
        known=STRONG,
    ),
    "a date that is old enough to be strong": Case(
        part(100, 200, ETag="", Date=LATER), Answer(100, 200, DATED, ranged=True)
    ),
    "a date too young to be strong": Case(
        part(100, 200, ETag="", Date=TOO_SOON),
        Answer(100, 200, Identity(1000, None, OLD), ranged=True),
    ),
    "a date from a server without a clock": Case(
        part(100, 200, ETag=""), Answer(100, 200, Identity(1000, None, OLD), ranged=True)
    ),
    "a date that was strong and now is younger than its distance": Case(
        part(100, 200, ETag="", Date=TOO_SOON),
        Answer(100, 200, Identity(1000, None, OLD), ranged=True),
        known=DATED,
    ),
    "416 of an empty object": Case(
        head(416, Content_Range="bytes */0", ETag='"e"'),
        Answer(0, 0, Identity(0, '"e"'), ranged=False),
        asked=Span(0, 100),
    ),
    "an empty object": Case(
        whole(0), Answer(0, 0, Identity(0, '"v1"', OLD), ranged=False), asked=Span(0, 100)
    ),
    "Content-Encoding: gzip on a file that is gzip by its name": Case(
        part(100, 200, Content_Encoding="gzip"),
        Answer(100, 200, STRONG, ranged=True),
        url="https://store.example/weights.tar.gz?download=1",
    ),
    "Content-Encoding: x-gzip on a file that is gzip by its type": Case(
        part(100, 200, Content_Encoding="x-gzip", Content_Type="application/gzip; q=1"),
        Answer(100, 200, STRONG, ranged=True),
    ),
    "Content-Encoding: identity": Case(
        part(100, 200, Content_Encoding="Identity"), Answer(100, 200, STRONG, ranged=True)
    ),
    "a coded whole object, to be decoded": Case(
        whole(Content_Encoding="gzip"),
        Answer(0, None, Identity(None, '"v1"', OLD), ranged=False, decode="gzip"),
        asked=None,
        url="https://store.example/config.json",
    ),
    "a coded whole object although a range was asked for": Case(
        whole(Content_Encoding="deflate"),
        Answer(0, None, Identity(None, '"v1"', OLD), ranged=False, decode="deflate"),
        url="https://store.example/config.json",
    ),
}

REFUSED = {
    "a piece that starts later": Case(part(101, 200), RangeNotHonouredError),
    "a piece that starts earlier": Case(part(99, 200), RangeNotHonouredError),
    "a piece from elsewhere": Case(part(500, 600), RangeNotHonouredError),
    "a longer piece": Case(part(100, 201), RangeNotHonouredError),
    "everything, as a piece": Case(part(0, 1000), RangeNotHonouredError),
    "a piece without Content-Range": Case(part(100, 200, Content_Range=""), RangeNotHonouredError),
    "a piece with a Content-Range that is none": Case(
        part(100, 200, Content_Range="bytes 100-200"), RangeNotHonouredError
    ),
    "a piece with the Content-Range of a 416": Case(
        part(100, 200, Content_Range="bytes */1000"), RangeNotHonouredError
    ),
    "a Content-Range that ends after the total": Case(
        part(100, 200, total=150), RangeNotHonouredError
    ),
    "a Content-Length smaller than the range": Case(
        part(100, 200, Content_Length="99"), RangeNotHonouredError
    ),
    "a Content-Length larger than the range": Case(
        part(100, 200, Content_Length="101"), RangeNotHonouredError
    ),
    "two Content-Lengths that differ": Case(
        part(100, 200, Content_Length="100, 99"), RangeNotHonouredError
    ),
    "a whole object with two Content-Lengths that differ": Case(
        whole(Content_Length="1000, 999"), TransferError, asked=None
    ),
    "a whole object with a negative Content-Length": Case(
        whole(Content_Length="-1000"), TransferError, asked=None
    ),
    "a whole object with a Content-Length of no number": Case(
        whole(Content_Length="many"), TransferError, asked=None
    ),
    "a piece when the whole was asked for": Case(
        part(0, 900), RangeNotHonouredError, asked=None
    ),
    "a piece with status 200 when the whole was asked for": Case(
        whole(100, Content_Range="bytes 0-99/1000"), RangeNotHonouredError, asked=None
    ),
    "the end of it with status 200 when the whole was asked for": Case(
        whole(Content_Length="", Content_Range="bytes 100-999/1000"),
        RangeNotHonouredError,
        asked=None,
    ),
    "a piece as multipart": Case(
        part(100, 200, Content_Range="", Content_Type="multipart/byteranges; boundary=X"),
        RangeNotHonouredError,
    ),
    "a piece as multipart that states a range all the same": Case(
        part(100, 200, Content_Length="", Content_Type="Multipart/Byteranges; boundary=X"),
        RangeNotHonouredError,
    ),
    "a piece of an object of unknown size": Case(part(100, 200, total="*"), RetryWithoutRange),
    "a piece of an object whose size was known": Case(
        part(100, 200, total="*"), RangeNotHonouredError, known=STRONG
    ),
    "a coded piece": Case(part(100, 200, Content_Encoding="gzip"), RetryWithoutRange),
    "a coded piece after others that were not": Case(
        part(100, 200, Content_Encoding="gzip"), RangeNotHonouredError, known=STRONG
    ),
    "a coding that was not asked for and cannot be undone": Case(
        whole(Content_Encoding="br"), TransferError
    ),
    "two codings": Case(whole(Content_Encoding="deflate, gzip"), TransferError),
    "another strong ETag": Case(
        part(100, 200, ETag='"v2"'), ObjectChangedError, known=STRONG
    ),
    "another total under the same ETag": Case(
        part(100, 200, total=1001), RangeNotHonouredError, known=STRONG
    ),
    "another weak ETag": Case(part(100, 200, ETag='W/"v2"'), ObjectChangedError, known=WEAK),
    "the ETag grown weak": Case(part(100, 200, ETag='W/"v1"'), ObjectChangedError, known=STRONG),
    "the ETag gone": Case(part(100, 200, ETag=""), RangeNotHonouredError, known=STRONG),
    "the weak ETag gone": Case(part(100, 200, ETag=""), ObjectChangedError, known=WEAK),
    "an ETag where there was none": Case(part(100, 200), ObjectChangedError, known=BARE),
    "another date under the same weak ETag": Case(
        part(100, 200, ETag='W/"v1"', Last_Modified=LATER), ObjectChangedError, known=WEAK
    ),
    "another date without ETag": Case(
        part(100, 200, ETag="", Last_Modified=LATER), ObjectChangedError, known=DATED
    ),
    "another size without any validator": Case(
        part(100, 200, total=999, ETag="", Last_Modified=""), ObjectChangedError, known=BARE
    ),
    "the whole of another version": Case(
        whole(ETag='"v2"'), ObjectChangedError, known=STRONG
    ),
    "the whole of the same version": Case(whole(), RangeNotHonouredError, known=STRONG),
    "the whole of the same version, of unknown length": Case(
        whole(Content_Length=""), RangeNotHonouredError, known=STRONG
    ),
    "the whole of another version, of unknown length": Case(
        whole(Content_Length="", ETag='"v2"'), ObjectChangedError, known=STRONG
    ),
    "another version that starts elsewhere": Case(
        part(0, 100, ETag='"v2"'), ObjectChangedError, known=STRONG
    ),
    "416 of an object that shrank": Case(
        head(416, Content_Range="bytes */150"), ObjectChangedError, known=STRONG
    ),
    "416 of an object that is now empty": Case(
        head(416, Content_Range="bytes */0"), ObjectChangedError, known=STRONG
    ),
    "416 for no reason": Case(
        head(416, Content_Range="bytes */1000"), HttpStatusError, known=STRONG
    ),
    "416 without a word to the first bytes": Case(head(416), RetryWithoutRange, asked=Span(0, 100)),
    "416 without a word to later bytes": Case(head(416), HttpStatusError),
    "416 to a request without a range": Case(head(416), HttpStatusError, asked=None),
    "a redirect": Case(head(302, Location="/elsewhere"), Redirected),
    "a redirect to nowhere": Case(head(302), HttpStatusError),
    "300 with choices": Case(head(300), HttpStatusError),
    "202, still being made": Case(head(202), HttpStatusError),
    "304 that nobody asked for": Case(head(304, ETag='"v1"'), HttpStatusError),
    "204": Case(head(204), HttpStatusError),
    "412": Case(head(412), HttpStatusError),
    "404": Case(head(404), HttpStatusError),
    "500": Case(head(500), HttpStatusError),
    "599": Case(head(599), HttpStatusError),
}  # fmt: skip


@pytest.mark.parametrize("case", BELIEVED.values(), ids=BELIEVED.keys())
def test_an_answer_is_believed_as_far_as_it_is_right(case: Case) -> None:
    assert judge(case.url, case.asked, case.head, case.known) == case.expected


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_an_answer_is_refused(case: Case) -> None:
    assert isinstance(case.expected, type)
    with pytest.raises(case.expected) as caught:
        judge(case.url, case.asked, case.head, case.known)
    assert caught.type is case.expected


# --------------------------------------------------------------------------------- its properties

TOTALS = st.integers(1, 500)


@st.composite
def spans(draw: st.DrawFn, most: int = 600) -> Span:
    start = draw(st.integers(0, most))
    return Span(start, draw(st.integers(start + 1, most + 1)))


@given(asked=spans(), got=spans(), total=TOTALS, length=st.integers(0, 600) | st.none())
def test_whatever_a_server_claims_only_bytes_that_were_asked_for_are_believed(
    asked: Span, got: Span, total: int, length: int | None
) -> None:
    claimed = part(got.start, got.stop, total, Content_Length="" if length is None else str(length))
    try:
        answer = judge(URL, asked, claimed, None)
    except RangeNotHonouredError:
        return
    assert answer.stop is not None
    assert asked.start == answer.start < answer.stop <= asked.stop
    assert answer.stop <= total
    assert length in (None, answer.stop - answer.start)


@given(asked=spans(), total=TOTALS)
def test_the_answer_that_the_rfc_asks_for_is_always_believed(asked: Span, total: int) -> None:
    if asked.start >= total:
        return
    stop = min(asked.stop, total)
    answer = judge(URL, asked, part(asked.start, stop, total), Identity(total, '"v1"'))
    assert (answer.start, answer.stop, answer.ranged) == (asked.start, stop, True)


HEADERS = st.dictionaries(
    st.sampled_from(
        ["content-range", "content-length", "etag", "last-modified", "date", "content-encoding",
         "transfer-encoding", "content-type", "retry-after", "location"]
    ),
    st.text(max_size=20)
    | st.sampled_from(
        ["bytes 0-9/10", "bytes */0", "10", '"v1"', 'W/"v1"', OLD, "gzip", "chunked"]
    ),
)  # fmt: skip


@given(st.integers(100, 599), HEADERS, spans(20) | st.none(), st.sampled_from([None, STRONG, WEAK]))
def test_no_head_can_surprise_the_judge(
    status: int, headers: dict[str, str], asked: Span | None, known: Identity | None
) -> None:
    try:
        answer = judge(URL, asked, Head(status, headers), known)
    except (TransferError, Redirected, RetryWithoutRange):
        return
    assert status == 416 or (200 <= status <= 299 and status not in (202, 204, 205))
    assert known is None or answer.stop is not None


# ------------------------------------------------------------------------------------ identities


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (STRONG, '"v1"'),
        (WEAK, None),
        (Identity(1, 'W/"v1"', OLD, strong_date=True), None),
        (DATED, OLD),
        (Identity(1, None, OLD), None),
        (BARE, None),
    ],
)
def test_if_range_carries_strong_validators_only(identity: Identity, expected: str | None) -> None:
    assert identity.if_range == expected


@pytest.mark.parametrize(
    ("before", "now", "verified", "expected"),
    [
        (STRONG, STRONG, False, True),
        (STRONG, Identity(1000, '"v2"', OLD), False, False),
        (STRONG, Identity(1000, '"v2"', OLD), True, True),
        (STRONG, Identity(999, '"v1"', OLD), True, False),
        (STRONG, Identity(None, '"v1"', OLD), True, False),
        (Identity(None, '"v1"'), Identity(None, '"v1"'), True, False),
        (WEAK, WEAK, False, False),
        (WEAK, WEAK, True, True),
        (DATED, DATED, False, False),
        (BARE, BARE, True, True),
    ],
)
def test_bytes_are_gone_on_from_only_where_equal_bytes_are_promised(
    before: Identity, now: Identity, verified: bool, expected: bool
) -> None:
    assert may_continue(before, now, verified=verified) is expected


def test_an_identity_is_said_in_words() -> None:
    assert str(STRONG) == '1000 bytes, "v1"'
    assert str(DATED) == f"1000 bytes, {OLD}"
    assert str(Identity(None)) == "unknown size, no validator"


# ------------------------------------------------------------------------------------- the rest


def test_fields_are_joined_and_their_names_lower_case() -> None:
    built = Head.of(200, "OK", [("Via", "a"), ("ETag", '"x"'), ("VIA", "b")], (1, 1))
    assert built.headers == {"via": "a, b", "etag": '"x"'}


def test_a_redirect_gives_the_location_as_it_was_sent() -> None:
    with pytest.raises(Redirected) as caught:
        judge(URL, ASKED, head(307, Location="../x?a=b"), STRONG)
    assert (caught.value.location, caught.value.head.status) == ("../x?a=b", 307)


def test_the_name_that_a_server_gives_is_kept() -> None:
    named = part(100, 200, Content_Disposition='attachment; filename="a.bin"')
    assert judge(URL, ASKED, named, None).name == 'attachment; filename="a.bin"'


def test_what_was_asked_for_and_what_came_is_said() -> None:
    with pytest.raises(RangeNotHonouredError) as caught:
        judge(f"{URL}?token=hunter2", ASKED, part(100, 200, Content_Length="5"), None)
    said = str(caught.value)
    assert "bytes=100-199" in said
    assert "bytes 100-199/1000 in 5 bytes" in said
    assert "hunter2" not in said


def test_both_versions_are_named_when_an_object_changes() -> None:
    with pytest.raises(ObjectChangedError, match=r'was 1000 bytes, "v1", is 1000 bytes, "v2"'):
        judge(URL, ASKED, part(100, 200, ETag='"v2"'), STRONG)


@pytest.mark.parametrize(
    ("value", "date", "expected"),
    [
        ("120", "", 120.0),
        ("0", "", 0.0),
        (" 7 ", "", 7.0),
        ("99999999999999999999", "", 999999999.0),
        (LATER, OLD, 60.0),
        (OLD, LATER, 0.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", OLD, 60.0),
        ("Tue Nov 14 22:14:20 2023", OLD, 60.0),
        ("Tue Nov 14 22:14:20 2023", "Tuesday, 14-Nov-23 22:13:20 GMT", 60.0),
        (LATER, "", None),
        (LATER, "yesterday", None),
        ("", OLD, None),
        ("soon", OLD, None),
        ("-5", "", None),
        ("1.5", "", None),
        ("\u0661", "", None),
        ("Tue, 14 Nov 99999 22:14:20 GMT", OLD, None),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(
    value: str, date: str, expected: float | None
) -> None:
    assert parse_retry_after({"retry-after": value, "date": date}) == expected


def test_dates_mean_greenwich_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "ELSEWHERE+5")
    time.tzset()
    try:
        headers = {"retry-after": "Tue Nov 14 22:14:20 2023", "date": OLD}
        assert parse_retry_after(headers) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(), st.text())
def test_reading_retry_after_is_total(value: str, date: str) -> None:
    parse_retry_after({"retry-after": value, "date": date})


def test_an_error_page_is_told_in_its_own_words() -> None:
    page = b"<html><head><title>x</title></head><body><h1>Access\n Denied</h1>\x00<p>no</body>"
    error = status_error(URL, words_of(Head(403, {}, "Forbidden"), page))
    assert error.words == "Forbidden: Access Denied no"


def test_a_long_error_page_is_cut_off() -> None:
    error = status_error(URL, words_of(Head(500, {}, "Oh"), b"x" * 10_000))
    assert len(error.words) == 200


def test_what_a_field_says_is_told_before_the_body() -> None:
    fields = {"x-error-message": "Access is\x1b restricted ", "x-error-code": "GatedRepo"}
    head = words_of(Head(403, fields, "Forbidden"), b'{"error": "no"}')
    error = status_error(URL, head)
    assert (error.words, error.code) == ("Forbidden: Access is restricted", "GatedRepo")
    assert status_error(URL, Head(403, {"x-error-message": " "}, "No")).words == "No"


def test_the_credentials_in_a_servers_words_are_not_repeated() -> None:
    page = b"expired: https://me:hunter2@store.example/x?X-Amz-Signature=hunter2"
    assert "hunter2" not in str(status_error(URL, words_of(Head(403, {}), page)))


@given(st.binary(max_size=300))
def test_any_error_page_has_words(page: bytes) -> None:
    words = words_of(Head(500, {}), page).words
    assert "\n" not in words
    assert len(words) <= 200
