"""Stores that answer otherwise than usual, and files that do not keep still."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.errors import (
    ConnectionFailedError,
    ObjectExistsError,
    SourceFileError,
    UnauthorizedError,
)
from pgetpy.settings import Proxies
from tests.integration.uploads.putting import BODY, PART, put, sent_parts, stored
from tests.support.object_store import Asked, ObjectStore
from tests.support.proxy import Proxy

SIZES = pytest.mark.parametrize("size", [0, 10, len(BODY)], ids=["empty", "whole", "in parts"])


@pytest.fixture
def file(tmp_path: Path, size: int) -> Path:
    (tmp_path / "f").write_bytes(BODY[:size])
    return tmp_path / "f"


def makes_the_object(asked: Asked) -> bool:
    return (asked.method == "PUT" and not asked.query) or "<Part>" in asked.body.decode("latin-1")


def test_parts_are_named_as_the_store_names_them(store: ObjectStore, large: Path) -> None:
    """With keys of Amazon's KMS, ETags are no MD5 sums."""
    store.encrypts = True
    store.before[3] = lambda: store.refuse(500, "InternalError", times=50)
    with pytest.raises(Exception, match="500"):
        put(large, "s3://bucket/m", store.environ, concurrency=1, retries=0)
    store.forgive()
    result = put(large, "s3://bucket/m", store.environ)
    assert stored(store, "m") == BODY
    assert result.resumed >= PART
    assert result.etag == store.objects["bucket"]["m"].etag


@SIZES
@pytest.mark.parametrize("if_absent", [False, True])
def test_a_lost_answer_is_no_failure(store: ObjectStore, file: Path, if_absent: bool) -> None:
    """The object is there, and a second request is refused because of that."""
    lost: list[Asked] = []

    def loses(asked: Asked) -> bool:
        if lost or not makes_the_object(asked):
            return False
        lost.append(asked)
        return True

    store.loses = loses
    result = put(file, "s3://bucket/m", store.environ, if_absent=if_absent)
    assert len(lost) == 1
    assert stored(store, "m") == file.read_bytes()
    assert result.etag == store.objects["bucket"]["m"].etag


@pytest.mark.parametrize("size", [10, len(BODY)])
def test_a_lost_answer_hides_nobody_elses_object(store: ObjectStore, file: Path) -> None:
    def loses(asked: Asked) -> bool:
        if "m" in store.objects["bucket"] or not makes_the_object(asked):
            return False
        store.put("bucket", "m", b"theirs")
        return True

    store.loses = loses
    with pytest.raises(ObjectExistsError):
        put(file, "s3://bucket/m", store.environ, if_absent=True)


@SIZES
def test_keys_may_be_allowed_to_write_alone(store: ObjectStore, file: Path) -> None:
    store.write_only = True
    for target in ("s3://bucket/m", "s3://bucket/n"):
        result = put(file, target, store.environ, if_absent=target.endswith("n"))
        assert any("may not read" in remark for remark in result.remarks)
    assert stored(store, "m") == stored(store, "n") == file.read_bytes()
    with pytest.raises(ObjectExistsError):
        put(file, "s3://bucket/m", store.environ, if_absent=True)


@pytest.mark.parametrize("size", [10])
def test_absence_that_was_not_seen_is_not_claimed(store: ObjectStore, file: Path) -> None:
    store.write_only, store.knows_conditions = True, False
    with pytest.raises(Exception, match="501"):
        put(file, "s3://bucket/m", store.environ, if_absent=True)
    assert store.objects["bucket"] == {}


@pytest.mark.parametrize("request_number", [5, 8], ids=["before it is complete", "at once after"])
def test_two_writers_do_not_both_succeed_where_the_store_ignores_the_condition(
    store: ObjectStore, large: Path, request_number: int
) -> None:
    """As Ceph and Swift do for uploads in parts."""
    store.heeds_conditions = False
    # A look, the beginning, four parts, another look, the end, a last look.
    store.before[request_number] = lambda: store.put("bucket", "m", b"theirs")
    with pytest.raises(ObjectExistsError):
        put(large, "s3://bucket/m", store.environ, if_absent=True, concurrency=1)
    assert stored(store, "m") == b"theirs"
    assert store.uploads == {}


def test_a_file_that_changes_between_parts_makes_no_object(
    store: ObjectStore, large: Path, own_state: Path
) -> None:
    store.put("bucket", "m", b"old")

    def change() -> None:
        with large.open("r+b") as file:
            file.write(b"changed")

    store.before[4] = change  # after two parts
    with pytest.raises(SourceFileError, match="changed while it was uploaded"):
        put(large, "s3://bucket/m", store.environ, concurrency=1)
    assert sent_parts(store) == [1, 2, 3, 4]
    assert stored(store, "m") == b"old"
    assert store.uploads == {}
    assert list(own_state.iterdir()) == []


def test_a_file_that_becomes_shorter_is_no_fault_of_the_network(
    store: ObjectStore, large: Path
) -> None:
    store.before[2] = lambda: os.truncate(large, PART + 100)
    with pytest.raises(SourceFileError, match="while it was uploaded"):
        put(large, "s3://bucket/m", store.environ, concurrency=1, retries=5)
    assert store.objects["bucket"] == {}
    assert store.uploads == {}


@pytest.mark.parametrize("size", [10])
def test_what_changes_after_it_was_hashed_is_said_to(store: ObjectStore, file: Path) -> None:
    """The store refuses the hash, but that is not what is wrong."""

    def change() -> None:
        file.write_bytes(b"0123456789")
        store.refuse(400, "XAmzContentSHA256Mismatch")

    store.before[0] = change
    with pytest.raises(SourceFileError, match="changed while"):
        put(file, "s3://bucket/m", store.environ)


def test_only_files_are_uploaded(
    store: ObjectStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A pipe has no size, and would wait for its writer."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        assert main(["put", str(path), "s3://bucket/m"], environ=store.environ) == 1
        assert f"{path} is not a file" in capfd.readouterr().err
    assert store.objects["bucket"] == {}


@pytest.mark.parametrize("size", [10, len(BODY)])
def test_each_byte_is_hashed_once(store: ObjectStore, file: Path) -> None:
    """By what the signature contains, or else by what a store compares without one."""
    put(file, "s3://bucket/m", store.environ)
    bodies = [each for each in store.requests if each.method == "PUT"]
    assert all("content-md5" not in each.headers for each in bodies)
    assert all(len(each.headers["x-amz-content-sha256"]) == 64 for each in bodies)
    store.requests.clear()
    store.bearer = "token"
    environ = {"STORAGE_EMULATOR_HOST": store.url, "GOOGLE_OAUTH_ACCESS_TOKEN": "token"}
    put(file, "gs://bucket/g", environ)
    bodies = [each for each in store.requests if each.method == "PUT"]
    assert all("content-md5" in each.headers for each in bodies)
    assert stored(store, "g") == file.read_bytes()
    with pytest.raises(UnauthorizedError):
        put(file, "gs://bucket/g", {**environ, "GOOGLE_OAUTH_ACCESS_TOKEN": "wrong"})


@pytest.mark.parametrize(
    ("name", "words"),
    [(b"bad\xff", "not UTF-8"), (b"/".join([b"d" * 200] * 6), "key of 1207 bytes")],
)
def test_names_that_no_key_can_have_are_refused_before_anything_is_sent(
    store: ObjectStore, tmp_path: Path, name: bytes, words: str
) -> None:
    odd = tmp_path / "tree" / os.fsdecode(name)
    odd.parent.mkdir(parents=True)
    odd.touch()
    (tmp_path / "tree/a").touch()
    with pytest.raises(SourceFileError, match=words):
        put(tmp_path / "tree", "s3://bucket/m", store.environ)
    assert store.requests == []


@pytest.mark.parametrize("size", [10, len(BODY)])
def test_a_proxy_gets_its_user_and_password(store: ObjectStore, file: Path) -> None:
    with Proxy("me:pass word") as proxy:
        url = f"http://me:pass%20word@127.0.0.1:{proxy.port}"
        put(file, "s3://bucket/m", store.environ, proxies=Proxies(http=url))
        assert proxy.requests != []
        assert proxy.refused == 0
    assert stored(store, "m") == file.read_bytes()
    assert not any("proxy-authorization" in asked.headers for asked in store.requests)


@pytest.mark.parametrize("size", [10])
def test_a_proxy_that_is_away_is_named(store: ObjectStore, file: Path) -> None:
    proxies = Proxies(http="http://me:hunter2@127.0.0.1:1")
    with pytest.raises(ConnectionFailedError, match=r"proxy .* cannot be reached") as found:
        put(file, "s3://bucket/m", store.environ, proxies=proxies, retries=0)
    assert "hunter2" not in f"{found.value}"
    environ = {**store.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    with pytest.raises(ConnectionFailedError, match="nothing listens there"):
        put(file, "s3://bucket/m", environ, retries=0)
