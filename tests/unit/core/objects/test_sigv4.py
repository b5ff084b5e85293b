"""The signer, held to botocore's on random requests and to the example of the documentation."""

from __future__ import annotations

import datetime
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.objects.names import ObjectName, object_url
from pgetpy.core.objects.sigv4 import Credentials, encode_query, sign

botocore_auth = pytest.importorskip("botocore.auth")
from botocore.awsrequest import AWSRequest  # noqa: E402
from botocore.credentials import Credentials as TheirCredentials  # noqa: E402

AT = "20261129T055849Z"
MOMENT = datetime.datetime(2026, 11, 29, 5, 58, 49)
# Whatever a key may hold that can be sent: no NUL, and no half of a surrogate pair.
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
WORDS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/+=", min_size=16, max_size=40)
ENDPOINTS = ["https://s3.eu-west-1.amazonaws.com", "http://127.0.0.1:9000", "https://store.test/s3"]


def theirs(url: str, headers: dict[str, str], credentials: Credentials, region: str) -> str:
    """Return the Authorization header that botocore makes for a GET."""
    request = AWSRequest("GET", url, headers=dict(headers))
    keys = TheirCredentials(
        credentials.access_key, credentials.secret_key, credentials.session_token or None
    )
    with patch("botocore.auth.get_current_datetime", return_value=MOMENT):
        botocore_auth.S3SigV4Auth(keys, "s3", region).add_auth(request)
    return str(request.headers["Authorization"])


def ours(url: str, headers: dict[str, str], credentials: Credentials, region: str) -> str:
    parts = urlsplit(url)
    found = sign(
        "GET", parts.netloc, parts.path, parts.query, headers.items(),
        credentials=credentials, region=region, at=AT,
    )  # fmt: skip
    return dict(found)["Authorization"]


@given(
    key=KEYS,
    endpoint=st.sampled_from(ENDPOINTS),
    addressing=st.sampled_from(["path", "virtual", "auto"]),
    version=st.sampled_from(["", "3HL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40"]),
    secrets=st.tuples(WORDS, WORDS),
    token=st.sampled_from(["", "FwoGZXIvYXdzEBYa/+=="]),
    region=st.sampled_from(["us-east-1", "auto", "cn-north-1"]),
    payer=st.booleans(),
)
def test_requests_are_signed_as_botocore_signs_them(
    key: str, endpoint: str, addressing: str, version: str,
    secrets: tuple[str, str], token: str, region: str, payer: bool,
) -> None:  # fmt: skip
    credentials = Credentials(*secrets, token)
    headers = {"x-amz-request-payer": "requester"} if payer else {}
    named = ObjectName("s3", "bucket", key, version)
    url = object_url(named, endpoint=endpoint, addressing=addressing)
    assert ours(url, headers, credentials, region) == theirs(url, headers, credentials, region)


@given(pairs=st.lists(st.tuples(KEYS, st.text(st.characters(exclude_categories=["Cs"])))))
def test_queries_are_signed_as_botocore_signs_them(pairs: list[tuple[str, str]]) -> None:
    credentials = Credentials("AKID", "secret")
    url = f"https://h.test/b/?{encode_query(pairs)}"
    assert ours(url, {}, credentials, "us-east-1") == theirs(url, {}, credentials, "us-east-1")


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(Credentials("AKID", "hidden", "hidden-too"))
