"""Which words in Content-Encoding are codings."""

from __future__ import annotations

import pytest

from pgetpy.core.http.answers import Answer, judge
from pgetpy.core.http.content_codings import content_codings, names_no_coding
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import Span
from pgetpy.errors import TransferError

URL = "http://store.example/model.json"


def head(value: str, status: int = 200) -> Head:
    headers = {"content-length": "5", "content-encoding": value}
    if status == 206:
        headers["content-range"] = "bytes 0-4/5"
    return Head(status, headers)


@pytest.mark.parametrize(
    ("value", "unclear"),
    [
        ("", False),
        (",", False),
        (", ,", False),
        ("identity", False),
        ("Identity, identity", False),
        ("none", False),
        ("binary", False),
        ("aws-chunked", True),
        ("AWS-Chunked,", True),
        ("utf-8", True),
        ("UTF-8, identity", True),
        ("application/octet-stream", True),
        ("none, utf-8", True),
    ],
)
def test_what_is_no_coding_leaves_the_bytes_as_they_are(value: str, *, unclear: bool) -> None:
    assert content_codings(value) == ()
    assert names_no_coding(value) is unclear
    whole = judge(URL, None, head(value), None)
    assert (whole.stop, whole.decode) == (5, "")
    part = judge(URL, Span(0, 5), head(value, 206), None)
    assert isinstance(part, Answer)
    assert (part.stop, part.ranged, part.decode) == (5, True, "")


@pytest.mark.parametrize(
    ("value", "coding"),
    [
        ("gzip", "gzip"),
        ("aws-chunked, gzip", "gzip"),
        ("X-GZip ,", "x-gzip"),
        (" , deflate, utf-8", "deflate"),
    ],
)
def test_a_coding_among_other_words_is_undone(value: str, coding: str) -> None:
    assert judge(URL, None, head(value), None).decode == coding


@pytest.mark.parametrize("value", ["br", "zstd", "compress", "aws-chunked, br", "gzip, gzip"])
def test_a_coding_that_cannot_be_undone_is_one_right_sentence(value: str) -> None:
    with pytest.raises(TransferError) as caught:
        judge(URL, None, head(value), None)
    assert " for for " not in str(caught.value)
    assert content_codings(value)[-1] in str(caught.value)
