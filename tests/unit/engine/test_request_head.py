"""Requests as bytes."""

from __future__ import annotations

import pytest

from pgetpy.core.lazy_dataclass import replace
from pgetpy.engine.transports.base import Request
from pgetpy.engine.transports.request_head import RequestHeads, bytes_of

FIRST = Request("http://h:81/a", (("User-Agent", "x"), ("Range", "bytes=0-")), (), None, None, 1.0)


@pytest.mark.parametrize("url", ["http://h:81/b/c?d=e&f", "http://h:81/", "http://h:81/a"])
def test_the_next_request_is_what_it_would_be_if_made_anew(url: str) -> None:
    assert RequestHeads(FIRST).of(url) == bytes_of(replace(FIRST, url=url))


@pytest.mark.parametrize(
    "url",
    [
        "http://h:82/b",
        "http://h:811/b",
        "https://h:81/b",
        "http://h:81",
        "http://h:81?b",
        "http://h:81/b\r\nX: y",
        "http://h:81/b\0",
        "http://h:81/\u00fc",
    ],
)
def test_other_urls_are_looked_at_anew(url: str) -> None:
    assert RequestHeads(FIRST).of(url) is None
