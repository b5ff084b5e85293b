from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.objects.names import ObjectName, is_aws, object_url, parse_object_name
from pgetpy.errors import BadReferenceError

KEYS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="*"), min_size=1, max_size=200
).filter(lambda key: not key.endswith("/") and "?versionId=" not in key)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("s3://b1/k", ObjectName("s3", "b1", "k")),
        ("S3://b1/a/b.bin", ObjectName("s3", "b1", "a/b.bin")),
        ("s3://b1/a%20b?x#y", ObjectName("s3", "b1", "a%20b?x#y")),
        ("s3://b1//double//slash", ObjectName("s3", "b1", "/double//slash")),
        ("s3://b1/k?versionId=abc.1-_", ObjectName("s3", "b1", "k", "abc.1-_")),
        ("s3://b1/k?versionId=", ObjectName("s3", "b1", "k?versionId=")),
        ("s3://b1/k?versionId=a&x=1", ObjectName("s3", "b1", "k?versionId=a&x=1")),
        ("b2:///k", ObjectName("b2", "default", "k")),
        ("gs://b1/k", ObjectName("gs", "b1", "k")),
        ("gs://b1/k?generation=12", ObjectName("gs", "b1", "k", "12", version_kind="generation")),
        ("gs://b1/k?generation=x", ObjectName("gs", "b1", "k?generation=x")),
        ("gs://b1/k?versionId=12", ObjectName("gs", "b1", "k?versionId=12")),
        ("s3://b1/k?generation=12", ObjectName("s3", "b1", "k?generation=12")),
        ("s3://b1", ObjectName("s3", "b1", "")),
        ("s3://b1/", ObjectName("s3", "b1", "")),
        ("s3://b1/f/", ObjectName("s3", "b1", "f/")),
        ("s3://b1/f/*.json", ObjectName("s3", "b1", "f/", pattern="f/*.json")),
        ("s3://b1/f/a*/x", ObjectName("s3", "b1", "f/", pattern="f/a*/x")),
        ("s3://b1/*", ObjectName("s3", "b1", "", pattern="*")),
    ],
)  # fmt: skip
def test_names_are_read(text: str, named: ObjectName) -> None:
    assert parse_object_name(text, "default") == named


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3:///k", "names no bucket"),
        ("b2:///k", "B2_BUCKET"),
        ("s3://b!/k", "no valid name"),
        ("s3://b/k", "no valid name"),
        ("s3://../k", "no valid name"),
        ("s3://user:secret@bucket/k", "no valid name"),
        ("s3://b1/" + "ü" * 513, "1024 bytes"),
    ],
)
def test_what_no_store_accepts_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadReferenceError, match=said) as found:
        parse_object_name(text)
    assert "secret" not in str(found.value)


@given(key=KEYS)
def test_keys_are_literal_and_come_back(key: str) -> None:
    named = parse_object_name(f"s3://bucket/{key}")
    assert named.key == key
    assert parse_object_name(str(named)) == named


def test_folders_are_told_from_objects() -> None:
    folders = ["s3://b1", "s3://b1/f/", "s3://b1/f/*"]
    assert all(parse_object_name(each).is_folder for each in folders)
    assert not parse_object_name("s3://b1/f").is_folder


def test_patterns_match_whole_keys_and_slashes_too() -> None:
    named = parse_object_name("s3://b1/f/*.json")
    assert named.matches("f/a.json")
    assert named.matches("f/a/b.json")
    assert not named.matches("f/a.json5")
    assert not named.matches("g/a.json")
    assert not parse_object_name("s3://b1/f/*.j[s]on").matches("f/a.json")


@pytest.mark.parametrize(
    ("bucket", "endpoint", "addressing", "url"),
    [
        ("b", "https://s3.eu-west-1.amazonaws.com", "auto",
         "https://b.s3.eu-west-1.amazonaws.com/k%20%2B"),
        ("a.b", "https://s3.eu-west-1.amazonaws.com", "auto",
         "https://s3.eu-west-1.amazonaws.com/a.b/k%20%2B"),
        ("b", "https://s3.cn-north-1.amazonaws.com.cn", "auto",
         "https://b.s3.cn-north-1.amazonaws.com.cn/k%20%2B"),
        ("b", "http://127.0.0.1:9000", "auto", "http://127.0.0.1:9000/b/k%20%2B"),
        ("b", "http://store.test:9000/s3", "virtual", "http://b.store.test:9000/s3/k%20%2B"),
        ("b", "https://s3.eu-west-1.amazonaws.com", "path",
         "https://s3.eu-west-1.amazonaws.com/b/k%20%2B"),
        ("b", "https://amazonaws.com.evil.test", "auto", "https://amazonaws.com.evil.test/b/k%20%2B"),
    ],
)  # fmt: skip
def test_urls_are_as_the_store_wants_them(
    bucket: str, endpoint: str, addressing: str, url: str
) -> None:
    named = ObjectName("s3", bucket, "k +")
    assert object_url(named, endpoint=endpoint, addressing=addressing) == url


def test_only_amazon_is_amazon() -> None:
    assert is_aws("https://s3.us-east-1.amazonaws.com")
    assert not is_aws("https://s3.us-east-1.amazonaws.com.evil.test")
    assert not is_aws("https://evilamazonaws.com")
