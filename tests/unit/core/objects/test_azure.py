"""What Azure's texts mean: connection strings, SAS, listings, names."""

from __future__ import annotations

from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.objects.azure_account import (
    Account,
    BadConnectionStringError,
    parse_connection_string,
    sas_expiry,
)
from pgetpy.core.objects.blob_listing import parse_blobs
from pgetpy.core.objects.listing import BadListingError, ListedObject
from pgetpy.core.objects.names import parse_object_name
from pgetpy.errors import BadReferenceError


def test_connection_strings_name_account_and_endpoint() -> None:
    usual = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a+b/c==;EndpointSuffix="
    found = parse_connection_string(f"{usual}core.chinacloudapi.cn;")
    assert found == Account("acc", "https://acc.blob.core.chinacloudapi.cn", "a+b/c==")
    assert "a+b" not in repr(found)
    assert parse_connection_string(usual).endpoint == "https://acc.blob.core.windows.net"
    sas = parse_connection_string("BlobEndpoint=http://h:1/acc/;SharedAccessSignature=?sv=1&sig=x=")
    assert sas == Account("", "http://h:1/acc", "", "sv=1&sig=x=")
    emulator = parse_connection_string("UseDevelopmentStorage=true")
    assert emulator.endpoint == "http://127.0.0.1:10000/devstoreaccount1"
    with pytest.raises(BadConnectionStringError, match="part 2"):
        parse_connection_string("AccountName=a;secret")


@pytest.mark.parametrize(
    ("se", "seconds"),
    [("2026-01-01T00:00:00Z", 1767225600.0), ("2026-01-01T00:00Z", 1767225600.0),
     ("2026-01-01", 1767225600.0), ("soon", None)],
)  # fmt: skip
def test_a_sas_says_when_it_expires(se: str, seconds: float | None) -> None:
    found = sas_expiry(f"sv=1&se={quote(se)}&sig=x")
    assert found == (None if seconds is None else (se, seconds))


def page(inner: str, marker: str = "") -> bytes:
    return (
        '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>'
        f"{inner}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


def blob(name: str, size: object = 5, *, mark: str = "", more: str = "") -> str:
    return (
        f"<Blob><Name{mark}>{name}</Name><Properties><Etag>0x8D5</Etag>"
        f"<Content-Length>{size}</Content-Length>{more}</Properties>"
        "<Metadata><Name>other</Name></Metadata></Blob>"
    )


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
def test_any_name_comes_back_from_a_listing(names: list[str]) -> None:
    inner = "".join(blob(quote(name), mark=' Encoded="true"') for name in names)
    assert [each.key for each in parse_blobs(page(inner)).objects] == names


def test_a_page_of_blobs_is_read() -> None:
    folder = blob("d", 0, more="<ResourceType>directory</ResourceType>")
    inner = blob(escape("a&b %20"), more="<AccessTier>Archive</AccessTier>") + folder
    found = parse_blobs(page(inner, "next!1"))
    assert found.objects == [ListedObject("a&b %20", 5, '"0x8D5"')]
    assert found.token == "next!1"
    assert parse_blobs(page("")).objects == []


@pytest.mark.parametrize(
    "text",
    [b"", b"<html>", page(blob("", 5)), page(blob("a", "x")), page(blob("a", "9" * 5000)),
     b"<Error><Code>x</Code></Error>",
     b'<!DOCTYPE x [<!ENTITY a "b">]><EnumerationResults/>'],
)  # fmt: skip
def test_what_is_no_listing_is_refused(text: bytes) -> None:
    with pytest.raises(BadListingError):
        parse_blobs(text)


def test_names_of_containers_and_versions_are_azures() -> None:
    named = parse_object_name("az://$web/a?b?snapshot=2026-11-29T05:58:49.1234567Z")
    assert (named.bucket, named.key, named.version_kind) == ("$web", "a?b", "snapshot")
    assert parse_object_name(str(named)) == named
    assert parse_object_name("az://con/k?versionId=x").key == "k?versionId=x"
    assert parse_object_name(f"az://con/{'é' * 1024}").key
    for bad in ("az://c1/k", "az://Con/k", "az://a--b/k", f"az://con/{'é' * 1025}", "az://"):
        with pytest.raises(BadReferenceError):
            parse_object_name(bad)
