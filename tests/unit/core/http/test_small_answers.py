"""Which answers bring all of a small object, so that nothing has to be decided about them."""

from __future__ import annotations

import pytest

from pgetpy.core.http.answers import Redirected, judge
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import EVERYTHING
from pgetpy.core.http.small_answers import judge_small, plain_length, stated_whole

URL = "http://example.com/x"
MOST = 1000
WHOLE = {"content-length": "10"}
RANGE = {"content-length": "10", "content-range": "bytes 0-9/10", "etag": '"1"'}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, WHOLE),
        (206, RANGE),
        (206, {**RANGE, "content-length": "1000", "content-range": "bytes 0-999/1000"}),
    ],
)
def test_all_bytes_as_they_are_are_believed(status: int, headers: dict[str, str]) -> None:
    answer = judge_small(URL, Head(status, headers), verified=False, most=MOST)
    assert answer is not None
    assert (answer.start, answer.stop, answer.skip, answer.decode) == (
        0,
        int(headers["content-length"]),
        0,
        "",
    )


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {}),
        (200, {"content-length": "0"}),
        (200, {"content-length": "1001"}),
        (200, {"content-length": "10, 20"}),
        (200, {"transfer-encoding": "chunked"}),
        (200, {**WHOLE, "content-encoding": "gzip"}),
        (206, {"content-length": "10"}),
        (206, {**RANGE, "content-range": "bytes 0-9/20"}),
        (206, {**RANGE, "content-range": "bytes 0-9/*"}),
        (206, {**RANGE, "content-range": "bytes 1-10/11"}),
        (206, {**RANGE, "content-length": "9"}),
        (206, {**RANGE, "content-type": "multipart/byteranges; boundary=x"}),
        (202, WHOLE),
        (204, {}),
        (304, {}),
        (404, WHOLE),
        (416, {"content-range": "bytes */10"}),
        (416, {"content-range": "bytes */0"}),
        (503, {**WHOLE, "retry-after": "1"}),
    ],
)
def test_whatever_needs_a_decision_is_left(status: int, headers: dict[str, str]) -> None:
    assert judge_small(URL, Head(status, headers), verified=False, most=MOST) is None


def test_a_redirect_is_told() -> None:
    with pytest.raises(Redirected):
        judge_small(URL, Head(302, {"location": "/y"}), verified=False, most=MOST)


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ({"content-length": "12"}, 12),
        ({}, None),
        ({"content-length": "-1"}, None),
        ({"content-length": "12", "content-encoding": "gzip"}, None),
        ({"content-length": "12", "transfer-encoding": "chunked"}, None),
    ],
)
def test_the_length_of_a_plain_body(headers: dict[str, str], length: int | None) -> None:
    assert plain_length(Head(200, headers)) == length


@pytest.mark.parametrize("more", [{}, {"content-type": "text/plain"}, {"connection": "close"}])
def test_the_usual_answer_says_what_the_judge_would_find(more: dict[str, str]) -> None:
    head = Head(206, {**RANGE, **more})
    answer = judge(URL, EVERYTHING, head, None)
    assert stated_whole(head) == answer.stop == answer.identity.total == 10
    assert (answer.start, answer.ranged, answer.whole) == (0, True, False)
    assert (answer.skip, answer.decode) == (0, "")


@pytest.mark.parametrize(
    ("status", "changed"),
    [
        (200, {}),
        (206, {"content-range": "bytes 0-9/20"}),
        (206, {"content-range": "bytes 0-9/*"}),
        (206, {"content-range": "bytes 1-10/11"}),
        (206, {"content-range": ""}),
        (206, {"content-length": ""}),
        (206, {"content-length": "9"}),
        (206, {"content-length": "+10"}),
        (206, {"content-length": "10, 10"}),
        (206, {"content-length": "\u0661\u0660"}),
        (206, {"content-length": "0", "content-range": "bytes 0--1/0"}),
        (206, {"content-length": "1" * 30, "content-range": f"bytes 0-{int('1' * 30) - 1}/*"}),
        (206, {"content-encoding": "gzip"}),
        (206, {"transfer-encoding": "chunked"}),
        (206, {"content-type": "Multipart/ByteRanges; boundary=x"}),
    ],
)
def test_any_other_answer_is_left_to_the_judge(status: int, changed: dict[str, str]) -> None:
    assert stated_whole(Head(status, {**RANGE, **changed})) is None
