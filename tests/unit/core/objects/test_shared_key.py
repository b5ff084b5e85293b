"""Azure's signature, held to the official package's on random requests."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.objects.blob_listing import blobs_query
from pgetpy.core.objects.names import ObjectName, object_url
from pgetpy.core.objects.shared_key import authorization, read_key

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
VERSIONS = [("x-ms-date", "Sun, 29 Nov 2026 05:58:49 GMT"), ("x-ms-version", "2021-12-02")]


@pytest.fixture(scope="module")
def official() -> Any:
    """The official package's policy, which takes 0.3 s to import."""
    pytest.importorskip("azure.storage.blob")
    from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy

    return SharedKeyCredentialPolicy


def theirs(official: Any, url: str, headers: list[tuple[str, str]], account: str, key: str) -> str:
    # The package sends ranges in x-ms-range; where `Range` belongs it looks for `byte_range`.
    sent = {"byte_range" if name == "Range" else name: value for name, value in headers}
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    # It decodes values once more than the queries that it is given are encoded.
    query = {name: value.replace("%", "%25") for name, value in query.items()}
    http = SimpleNamespace(method="GET", url=url, headers=sent, query=query)
    request = SimpleNamespace(http_request=http, context=SimpleNamespace(transport=None))
    official(account, key).on_request(request)
    return str(sent["Authorization"])


@given(
    blob=NAMES,
    prefix=st.none() | NAMES,
    endpoint=st.sampled_from(["https://a.blob.core.windows.net", "http://127.0.0.1:10000/acc"]),
    key=st.binary(min_size=1, max_size=64).map(lambda key: base64.b64encode(key).decode()),
    ranged=st.booleans(),
    matched=st.booleans(),
    version=st.sampled_from(["", "2026-11-29T05:58:49.1234567Z"]),
)
def test_requests_are_signed_as_the_official_package_signs_them(
    official: Any, blob: str, prefix: str | None, endpoint: str, key: str, ranged: bool,
    matched: bool, version: str,
) -> None:  # fmt: skip
    named = ObjectName("az", "container", blob, version, version_kind="snapshot")
    url = object_url(named, endpoint=endpoint, addressing="path")
    if prefix is not None:
        url = f"{endpoint}/container?{blobs_query(prefix, prefix[::-1])}"
    headers = [*VERSIONS]
    headers += [("Range", "bytes=5-9")] if ranged else []
    headers += [("If-Match", '"0x8D5"')] if matched else []
    parts = urlsplit(url)
    ours = authorization(
        "GET", parts.path, parts.query, headers, account="acc", key=read_key(key)
    )  # fmt: skip
    assert ours == theirs(official, url, headers, "acc", key)
