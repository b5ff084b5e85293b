"""Listings with hostile names, and what is not a listing."""

from __future__ import annotations

from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.objects.listing import BadListingError, ListedObject, listing_query, parse_listing

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(contents: str, more: str = "", space: str = SPACE) -> bytes:
    return f"{HEAD}<ListBucketResult {space}>{more}{contents}</ListBucketResult>".encode()


def item(key: str, size: object = 5, etag: str = '"e"') -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(etag)}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass>"
        "<Owner><ID>x</ID><DisplayName>Key</DisplayName></Owner></Contents>"
    )


@given(keys=st.lists(KEYS), encode=st.sampled_from([quote, quote_plus]))
def test_any_key_comes_back_where_keys_are_encoded(keys: list[str], encode: object) -> None:
    assert callable(encode)
    text = "".join(item(encode(key)) for key in keys)
    found = parse_listing(page(text, "<EncodingType>url</EncodingType>"))
    assert [each.key for each in found.objects] == keys


@pytest.mark.parametrize("space", [SPACE, ""])
def test_keys_are_literal_where_they_are_not_encoded(space: str) -> None:
    keys = ["a b", "a+b", "a%20b", "a&b<c>", "../x", "/abs", "é"]
    found = parse_listing(page("".join(item(escape(key)) for key in keys), space=space))
    assert [each.key for each in found.objects] == keys
    assert found.objects[0] == ListedObject("a b", 5, '"e"')


def test_the_next_page_is_asked_for_by_its_token() -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b==</NextContinuationToken>"
    assert parse_listing(page(item("k"), more)).token == "a&b=="
    assert parse_listing(page(item("k"), "<IsTruncated>false</IsTruncated>")).token == ""
    assert listing_query("a b/", "x=") == (
        "continuation-token=x%3D&encoding-type=url&list-type=2&prefix=a%20b%2F"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "XML"),
        (b"<html><body>hello</body></html>", "<html>"),
        (b"<ListBucketResult><Contents>", "XML"),
        (page("<Contents><Size>5</Size></Contents>"), "without a key"),
        (page(item("k", size=-1)), "without a key or a size"),
        (page(item("k", size="\u0665")), "without a key or a size"),
        (page(item("k", size=1 << 63)), "without a key or a size"),
        (page(item("k", size="9" * 5000)), "without a key or a size"),
        (page("", "<IsTruncated>true</IsTruncated>"), "does not say how"),
        (page("\x00"), "XML"),
        (
            b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ListBucketResult>&b;'
            b"</ListBucketResult>",
            "entities",
        ),
    ],
)
def test_what_is_not_a_listing_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(BadListingError, match=said):
        parse_listing(text)
