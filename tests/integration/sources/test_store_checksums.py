"""The checksums that stores have of their objects are verified, and the result says which."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgetpy.cli import main
from pgetpy.errors import DigestMismatchError, PgetError
from pgetpy.settings import SourceSettings
from tests.support.blob_store import BlobStore
from tests.support.bodies import body
from tests.support.fetching import contents, extract, fetch
from tests.support.object_store import Asked, ObjectStore, Refusal, started_store
from tests.support.tars import file
from tests.support.weights import opened
from tests.support.zips import Member, packed

BODY = body(3_000_000)
URL = "s3://bucket/m"
SHA256 = hashlib.sha256(BODY)
CRC32 = zlib.crc32(BODY).to_bytes(4, "big")


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with started_store() as store:
        yield store


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def get(dest: Path, environ: dict[str, str], url: str = URL, **options: Any) -> Any:
    return fetch(url, dest, sources=SourceSettings(environ=environ), **options)


def test_a_full_checksum_is_verified_without_a_further_request(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.put("bucket", "m", BODY, x_amz_checksum_sha256=text(SHA256.digest()),
              x_amz_checksum_type="FULL_OBJECT")  # fmt: skip
    result = get(tmp_path / "out", store.environ)
    assert result.store_checksum == f"sha256:{SHA256.hexdigest()}"
    assert (result.digest, result.unverified, result.requests) == (None, "", 1)
    assert (result.validator, result.single_stream) == ("strong", False)
    assert store.requests[0].headers["x-amz-checksum-mode"] == "ENABLED"


def test_ranges_beside_the_first_answer_are_verified_too(
    store: ObjectStore, tmp_path: Path
) -> None:
    large = body(40_000_000)
    store.put("bucket", "m", large, x_amz_checksum_crc32=text(zlib.crc32(large).to_bytes(4, "big")))
    result = get(tmp_path / "out", store.environ, concurrency=4)
    assert (tmp_path / "out").read_bytes() == large
    assert result.store_checksum == f"crc32:{zlib.crc32(large):08x}"


@pytest.mark.parametrize("right", [True, False])
def test_what_an_earlier_run_began_is_verified_by_one_more_request(
    store: ObjectStore, tmp_path: Path, right: bool
) -> None:
    store.put("bucket", "m", BODY, x_amz_checksum_crc32=text(CRC32 if right else bytes(4)))
    store.before[3] = lambda: store.refuse(403, "AccessDenied", times=50)
    with pytest.raises(PgetError, match="AccessDenied"):
        get(tmp_path / "out", store.environ, chunk_size=500_000, concurrency=1)
    store.forgive()
    asked = len(store.requests)
    if right:
        result = get(tmp_path / "out", store.environ)
        assert result.resumed > 0
        assert result.store_checksum == f"crc32:{CRC32.hex()}"
        assert len(store.requests) == asked + 2
    else:
        with pytest.raises(DigestMismatchError):
            get(tmp_path / "out", store.environ)
        assert not (tmp_path / "out").exists()


def test_a_checksum_that_the_store_does_not_give_fails_nothing(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.put("bucket", "m", BODY, x_amz_checksum_crc32=text(CRC32))
    check = store.check

    def check_ranges_only(asked: Asked, raw: str) -> Refusal | None:
        return check(asked, raw) if "range" in asked.headers else Refusal(403, "AccessDenied")

    store.check = check_ranges_only  # type: ignore[method-assign]
    result = get(tmp_path / "out", store.environ, chunk_size=350_000, concurrency=1)
    assert (tmp_path / "out").read_bytes() == BODY
    assert result.unverified == "the store did not answer when it was asked for a checksum"


@pytest.mark.parametrize("reached", ["file", "folder", "cache"])
def test_a_mismatch_leaves_nothing(store: ObjectStore, tmp_path: Path, reached: str) -> None:
    store.put("bucket", "f/m", BODY, x_amz_checksum_crc32=text(bytes(4)))
    sources = SourceSettings(environ=store.environ)
    cache = opened(tmp_path / "cache", sources=sources)
    reach = {
        "file": lambda: get(tmp_path / "out", store.environ, "s3://bucket/f/m"),
        "folder": lambda: get(tmp_path / "out", store.environ, "s3://bucket/f/"),
        "cache": lambda: cache.ensure("s3://bucket/f/m"),
    }[reached]
    with pytest.raises(DigestMismatchError, match="crc32:00000000") as found:
        reach()
    assert "the store itself" in found.value.hint
    assert not (tmp_path / "out").is_file()
    assert not (tmp_path / "out").is_dir() or contents(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"x_amz_checksum_crc32": f"{text(CRC32)}-3"},
        {"x_amz_checksum_sha256": text(bytes(32)), "x_amz_checksum_type": "COMPOSITE"},
        {"x_amz_checksum_crc32": "nonsense"},
        {"x_amz_checksum_crc32": text(bytes(4)), "content_encoding": "x"},
    ],
)
def test_checksums_of_something_else_are_left_alone(
    store: ObjectStore, tmp_path: Path, headers: dict[str, str]
) -> None:
    store.put("bucket", "m", BODY, **headers)
    if "content_encoding" in headers:
        # A coding that is undone, or refused, is not what the checksum is of.
        store.put("bucket", "m", BODY, **{**headers, "content_encoding": "identity"})
        with pytest.raises(DigestMismatchError):
            get(tmp_path / "out", store.environ)
        return
    result = get(tmp_path / "out", store.environ)
    assert (result.store_checksum, result.unverified) == ("", "")


@pytest.mark.parametrize(("algorithm", "size"), [("crc64nvme", 8), ("crc32c", 4)])
def test_fast_checksums_take_the_extra(
    store: ObjectStore, tmp_path: Path, algorithm: str, size: int
) -> None:
    try:
        from awscrt import checksums
    except ImportError:
        checksums = None
    value = getattr(checksums, algorithm)(BODY) if checksums else 0
    store.put(
        "bucket", "m", BODY, **{f"x_amz_checksum_{algorithm}": text(value.to_bytes(size, "big"))}
    )
    result = get(tmp_path / "out", store.environ, chunk_size=20_000_000)
    if checksums:
        assert result.store_checksum == f"{algorithm}:{value:0{2 * size}x}"
    else:
        assert result.unverified == f"{algorithm}: install pgetpy[s3] to have it checked"


def test_the_callers_checksum_is_enough(store: ObjectStore, tmp_path: Path) -> None:
    store.put("bucket", "m", BODY, x_amz_checksum_crc32=text(bytes(4)))
    result = get(tmp_path / "out", store.environ, checksum=f"sha256:{SHA256.hexdigest()}")
    assert (result.digest, result.store_checksum) == (f"sha256:{SHA256.hexdigest()}", "")


def test_none_is_asked_for_where_the_operator_says_so(store: ObjectStore, tmp_path: Path) -> None:
    store.put("bucket", "m", BODY)
    get(tmp_path / "out", {**store.environ, "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"})
    assert "x-amz-checksum-mode" not in store.requests[0].headers
    assert store.requests[0].headers["range"] == "bytes=0-"


@pytest.mark.parametrize("asks", [True, False])
def test_an_archive_takes_a_request_for_its_checksum_unless_the_operator_wants_none(
    store: ObjectStore, tmp_path: Path, asks: bool
) -> None:
    crc = zlib.crc32(TAR).to_bytes(4, "big")
    store.put("bucket", "m.tar", TAR, x_amz_checksum_crc32=text(crc))
    said = {} if asks else {"AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}
    sources = SourceSettings(environ={**store.environ, **said})
    result = extract("s3://bucket/m.tar", tmp_path / "out", sources=sources)
    assert contents(tmp_path / "out") == {"a": BODY, "b": BODY[:700]}
    assert result.store_checksum == (f"crc32:{crc.hex()}" if asks else "")
    assert result.unverified == ""
    assert ["range" in each.headers for each in store.requests].count(False) == asks
    assert all(("x-amz-checksum-mode" in each.headers) == asks for each in store.requests)


def test_google_and_azure_give_an_md5(store: ObjectStore, tmp_path: Path) -> None:
    md5 = hashlib.md5(BODY, usedforsecurity=False)
    store.put("bucket", "m", BODY, x_goog_hash=f"md5={text(md5.digest())}")
    environ = {"STORAGE_EMULATOR_HOST": store.url, "GOOGLE_OAUTH_ACCESS_TOKEN": "t"}
    store.bearer = "t"
    result = get(tmp_path / "out", environ, "gs://bucket/m")
    assert result.store_checksum == f"md5:{md5.hexdigest()}"
    with BlobStore() as blobs:
        blobs.put("models", "m", BODY, x_ms_blob_content_md5=text(md5.digest()))
        result = get(tmp_path / "out2", blobs.environ, "az://models/m")
        assert result.store_checksum == f"md5:{md5.hexdigest()}"
        blobs.put("models", "m", BODY, x_ms_blob_content_md5=text(bytes(16)))
        with pytest.raises(DigestMismatchError):
            get(tmp_path / "out3", blobs.environ, "az://models/m", chunk_size=500_000)
        assert not (tmp_path / "out3").exists()


TAR = file(b"a", BODY) + file(b"b", BODY[:700]) + bytes(1024)
ARCHIVES = {
    "m.tar": TAR,
    "m.tar.gz": gzip.compress(TAR, 1),
    "m.zip": packed([Member("a", BODY), Member("b", BODY[:700])]),
}


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("right", [True, False])
def test_what_is_extracted_is_verified(
    store: ObjectStore, tmp_path: Path, name: str, right: bool
) -> None:
    archive = ARCHIVES[name]
    crc = zlib.crc32(archive).to_bytes(4, "big") if right else bytes(4)
    store.put("bucket", name, archive, x_amz_checksum_crc32=text(crc))
    sources = SourceSettings(environ=store.environ)
    if right:
        result = extract(f"s3://bucket/{name}", tmp_path / "out", sources=sources)
        assert (result.store_checksum, result.unverified) == (f"crc32:{crc.hex()}", "")
        assert contents(tmp_path / "out") == {"a": BODY, "b": BODY[:700]}
    else:
        with pytest.raises(DigestMismatchError, match="the store itself gave that checksum"):
            extract(f"s3://bucket/{name}", tmp_path / "out", sources=sources)
        assert not (tmp_path / "out").exists()


def test_an_extraction_is_verified_although_an_earlier_run_began_it(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.put("bucket", "m.tar", TAR, x_amz_checksum_crc32=text(zlib.crc32(TAR).to_bytes(4, "big")))
    store.before[4] = lambda: store.refuse(403, "AccessDenied", times=50)
    sources = SourceSettings(environ=store.environ)
    with pytest.raises(PgetError, match="AccessDenied"):
        extract(
            "s3://bucket/m.tar",
            tmp_path / "out",
            sources=sources,
            chunk_size=300_000,
            concurrency=1,
        )
    store.forgive()
    result = extract("s3://bucket/m.tar", tmp_path / "out", sources=sources)
    assert result.resumed > 0
    assert result.store_checksum == f"crc32:{zlib.crc32(TAR):08x}"
    assert contents(tmp_path / "out") == {"a": BODY, "b": BODY[:700]}


@pytest.mark.parametrize("right", [True, False])
def test_a_stream_is_verified(tmp_path: Path, right: bool) -> None:
    md5 = hashlib.md5(BODY, usedforsecurity=False)
    with BlobStore() as blobs:
        digest = md5.digest() if right else bytes(16)
        blobs.put("models", "m", BODY, x_ms_blob_content_md5=text(digest))
        if right:
            result = get(Path("/dev/null"), blobs.environ, "az://models/m")
            assert result.store_checksum == f"md5:{md5.hexdigest()}"
        else:
            with pytest.raises(DigestMismatchError):
                get(Path("/dev/null"), blobs.environ, "az://models/m")


def test_the_checksum_of_a_version_since_replaced_is_asked_for_again(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.put("bucket", "m.tar", b"old", x_amz_checksum_crc32=text(bytes(4)))
    crc = zlib.crc32(TAR).to_bytes(4, "big")
    store.before[1] = lambda: store.put("bucket", "m.tar", TAR, x_amz_checksum_crc32=text(crc))
    sources = SourceSettings(environ=store.environ)
    result = extract("s3://bucket/m.tar", tmp_path / "out", sources=sources)
    assert result.store_checksum == f"crc32:{crc.hex()}"
    assert contents(tmp_path / "out") == {"a": BODY, "b": BODY[:700]}


def test_an_archive_is_extracted_if_the_store_refuses_its_checksum(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.put("bucket", "m.tar", TAR, x_amz_checksum_crc32=text(bytes(4)))
    check = store.check

    def check_ranges_only(asked: Asked, raw: str) -> Refusal | None:
        return check(asked, raw) if "range" in asked.headers else Refusal(403, "AccessDenied")

    store.check = check_ranges_only  # type: ignore[method-assign]
    sources = SourceSettings(environ=store.environ)
    result = extract("s3://bucket/m.tar", tmp_path / "out", sources=sources)
    assert result.unverified == "the store did not answer when it was asked for a checksum"
    assert contents(tmp_path / "out") == {"a": BODY, "b": BODY[:700]}


def test_json_says_what_was_verified(
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store.put("bucket", "m", BODY, x_amz_checksum_crc32=text(CRC32))
    for name, value in store.environ.items():
        monkeypatch.setenv(name, value)
    assert main([URL, str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["store_checksum"] == f"crc32:{CRC32.hex()}"
