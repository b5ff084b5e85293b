from __future__ import annotations

import pytest

from pgetpy.core.http.urls import Link, local_link, parse_link
from pgetpy.errors import BadReferenceError


def cache_key(url: str) -> Link:
    """The link that has the key and the signature by which the cache knows `url`."""
    return local_link(url) if url[:5].lower() == "file:" else parse_link(url)


PLAIN = "https://store.example/models/a.safetensors"
SIGNED = {
    "aws": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AK%2F1&X-Amz-Date=1&X-Amz-Expires=9"
    "&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature={}",
    "aws v2": "AWSAccessKeyId=AK&Expires=17&Signature={}",
    "google": "X-Goog-Algorithm=GOOG4&X-Goog-Credential=c&X-Goog-Date=1&X-Goog-Expires=9"
    "&X-Goog-SignedHeaders=host&X-Goog-Signature={}",
    "google v2": "GoogleAccessId=me@x&Expires=17&Signature={}",
    "azure": "sv=2022-11-02&st=1&se=2&sr=b&sp=r&spr=https&sip=1.2.3.4&sig={}",
    "cloudfront": "Expires=17&Signature={}&Key-Pair-Id=K1",
    "azure stored policy": "sv=2022-11-02&sr=b&si=readers&sig={}",
    "cloudfront algorithm": "Expires=17&Hash-Algorithm=SHA256&Signature={}&Key-Pair-Id=K1",
    "cloudfront policy": "Policy=cG9s&Signature={}&Key-Pair-Id=K1",
}


@pytest.mark.parametrize("way", SIGNED)
def test_who_signed_a_url_is_no_part_of_its_key(way: str) -> None:
    plain = cache_key(PLAIN)
    urls = [f"{PLAIN}?{SIGNED[way].format(mark)}" for mark in ("abc", "xyz%3D")]
    one, other = (cache_key(url) for url in urls)
    assert one.key == other.key == plain.key
    assert one.unsigned.signer == way.partition(" ")[0]
    assert one.signature
    assert one.signature != other.signature
    assert (plain.unsigned.signer, plain.signature) == ("", "")


@pytest.mark.parametrize("way", SIGNED)
def test_what_else_a_signed_url_says_is_part_of_its_key(way: str) -> None:
    signed = SIGNED[way].format("abc")
    first, second = (cache_key(f"{PLAIN}?versionId={n}&{signed}&x=1") for n in (1, 2))
    assert first.key == cache_key(f"{PLAIN}?versionId=1&x=1").key
    assert first.key != second.key


@pytest.mark.parametrize(
    "query",
    ["policy={}", "expires={}", "signature={}", "sig={}", "sv={}", "se={}", "x-amz-date={}",
     "x-goog-date={}", "key-pair-id={}", "sp={}&sig=1", "Policy={}&Key-Pair-Id=1"],
)  # fmt: skip
def test_a_part_of_a_signature_without_the_rest_tells_objects_apart(query: str) -> None:
    urls = [f"{PLAIN}?{query.format(n)}" for n in (1, 2)]
    one, other = (cache_key(url) for url in urls)
    assert one.key != other.key
    assert one.unsigned.signer == ""


def test_parameters_of_another_signer_are_part_of_the_key() -> None:
    signed = SIGNED["aws"].format("abc")
    one, other = (cache_key(f"{PLAIN}?sp={n}&{signed}") for n in (1, 2))
    assert one.key != other.key


def test_names_are_read_however_they_are_written() -> None:
    other = PLAIN.replace("https://store", "HTTPS://STORE") + "?x%2Damz-signature=1"
    assert cache_key(other).key == cache_key(PLAIN).key
    assert (
        cache_key(PLAIN.replace(".example", ".example:443") + "#part").key == cache_key(PLAIN).key
    )


def test_a_user_and_password_are_credentials_and_no_part_of_the_key() -> None:
    mine, yours = (cache_key(PLAIN.replace("//", f"//{who}:pw@")) for who in ("me", "you"))
    assert mine.key == yours.key == cache_key(PLAIN).key
    assert mine.signature != yours.signature
    assert "pw" not in repr(mine)


@pytest.mark.parametrize("other", [PLAIN + "?", PLAIN.replace("https", "http"), PLAIN + "x"])
def test_other_urls_are_other_objects(other: str) -> None:
    same = other.endswith("?")
    assert (cache_key(other).key == cache_key(PLAIN).key) is same


def test_a_key_is_sixty_four_hex_digits() -> None:
    assert len(bytes.fromhex(cache_key(PLAIN).key)) == 32


def test_file_urls_agree_where_they_name_one_path() -> None:
    key = cache_key("file:///models/a%20b.safetensors").key
    assert cache_key("FILE://localhost/models/a b.safetensors").key == key
    assert cache_key("file:///models/a%20b.safetensors?x=1").key == key
    assert cache_key("file:///models/%FF").key != cache_key("file:///models/%FE").key


@pytest.mark.parametrize(
    "url", ["file://host/a", "file:a", "s3://bucket/a", "a.safetensors", "http://"]
)
def test_what_is_no_such_url_is_refused(url: str) -> None:
    with pytest.raises(BadReferenceError):
        cache_key(url)
