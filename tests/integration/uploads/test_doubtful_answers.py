"""Answers that a store, or something in front of it, cuts off or makes up; and damaged journals."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pgetpy.core.report.events import Progressed
from pgetpy.core.report.uploads import UploadResult
from pgetpy.errors import BadSettingError, TransferError
from tests.integration.uploads.putting import BODY, PART, put, sent_parts, stored
from tests.support.fetching import Events
from tests.support.object_store import Asked, ObjectStore, started_store

_HEAD = b'HTTP/1.1 200 OK\r\nETag: "x"\r\n'


def completes(asked: Asked) -> bool:
    return asked.method == "POST" and "uploadId" in asked.query


@pytest.mark.parametrize(
    "answer",
    [
        _HEAD + b"Content-Length: 500\r\n\r\n<?xml version='1.0'?>\n",
        _HEAD + b"Connection: close\r\n\r\n<?xml version='1.0'?>\n   ",
        _HEAD + b"Content-Length: 0\r\n\r\n",
        _HEAD + b"Content-Length: 13\r\n\r\n<html></html>",
    ],
    ids=["cut off", "cut off, without a length", "empty", "a page"],
)
def test_an_upload_is_complete_when_the_store_says_so(
    store: ObjectStore, large: Path, answer: bytes
) -> None:
    """An object of the same size that was there before is no sign of it."""
    store.put("bucket", "m", bytes(len(BODY)))
    store.instead = lambda asked: answer if completes(asked) else None
    with pytest.raises(TransferError):
        put(large, "s3://bucket/m", store.environ, retries=1)
    assert stored(store, "m") == bytes(len(BODY))
    store.instead = lambda _: None
    assert put(large, "s3://bucket/m", store.environ).resumed == len(BODY)
    assert stored(store, "m") == BODY


def test_the_end_that_was_cut_off_is_asked_for_again(store: ObjectStore, large: Path) -> None:
    cut = [_HEAD + b"Content-Length: 500\r\n\r\n<?xml"]
    store.instead = lambda asked: cut.pop() if cut and completes(asked) else None
    put(large, "s3://bucket/m", store.environ)
    assert cut == []
    assert stored(store, "m") == BODY


def test_a_length_that_is_no_number_is_none(store: ObjectStore, large: Path) -> None:
    """`²` is a digit, and `int` does not take it."""
    answer = _HEAD + b"Content-Length: \xb2\r\n\r\n"
    store.instead = lambda asked: answer if asked.method == "HEAD" else None
    put(large, "s3://bucket/m", store.environ)
    assert stored(store, "m") == BODY


@pytest.mark.parametrize(
    "page",
    [
        "<Part><PartNumber>\u00b2</PartNumber><Size>5</Size><ETag>x</ETag></Part>",
        f"<Part><PartNumber>{'9' * 5000}</PartNumber><Size>5</Size></Part>",
        "<IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker>",
    ],
    ids=["not a number", "too long a number", "without end"],
)
def test_a_list_of_parts_without_sense_has_them_sent_again(
    store: ObjectStore, large: Path, page: str
) -> None:
    interrupt(store, large)
    body = f"<ListPartsResult>{page}</ListPartsResult>".encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    asked_for: list[Asked] = []

    def instead(asked: Asked) -> bytes | None:
        if asked.method != "GET" or "uploadId" not in asked.query:
            return None
        asked_for.append(asked)
        return answer if len(asked_for) < 5 else b""

    store.instead = instead
    assert put(large, "s3://bucket/m", store.environ, retries=0).resumed == 0
    assert stored(store, "m") == BODY


@pytest.mark.parametrize(
    "change",
    [
        {"part_size": -5},
        {"part_size": 0},
        {"part_size": float("inf")},
        {"version": None},
    ],
    ids=["negative", "zero", "infinite", "no version"],
)
def test_a_damaged_journal_is_not_believed(
    store: ObjectStore, large: Path, own_state: Path, change: dict[str, object]
) -> None:
    """With parts of a negative size, an upload of no parts replaced the object."""
    interrupt(store, large)
    (journal,) = own_state.iterdir()
    head, *parts = journal.read_text().splitlines()
    damaged = json.dumps({**json.loads(head), **change})
    journal.write_text("\n".join([damaged, *parts, '{"number": Infinity, "etag": ""}', "[" * 9999]))
    put(large, "s3://bucket/m", store.environ)
    assert stored(store, "m") == BODY


def test_two_that_upload_a_file_at_once_do_not_end_one_another(
    store: ObjectStore, large: Path
) -> None:
    results: list[UploadResult] = []

    def upload() -> None:
        results.append(put(large, "s3://bucket/m", store.environ, concurrency=1))

    other = threading.Thread(target=upload)

    def begin_another() -> None:
        """While the first has sent two of four parts, another does the whole of it."""
        store.before.clear()
        store.paused = lambda: None
        other.start()
        other.join()

    store.pause_at = lambda asked: (
        other.ident is None and asked.method == "PUT" and asked.query["partNumber"] == "3"
    )
    store.paused = begin_another
    upload()
    assert len(results) == 2
    assert stored(store, "m") == BODY
    assert store.uploads == {}


def test_a_bucket_in_another_region_is_reached_over_another_connection(
    store: ObjectStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the host's own connections serve it, though that of the other region stays open."""
    here, there = "bucket.s3.us-east-1.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com"
    connect = socket.create_connection
    with started_store() as other:
        ports = {here: urlsplit(store.url).port, there: urlsplit(other.url).port}
        monkeypatch.setattr(
            "socket.create_connection",
            lambda address, *args, **options: connect(
                ("127.0.0.1", ports.get(address[0], address[1])), *args, **options
            ),
        )
        store.moved_to = "eu-west-1"
        environ = {**store.environ, "AWS_ENDPOINT_URL": "http://s3.us-east-1.amazonaws.com"}
        put(large, "s3://bucket/m", environ, retries=0)
        assert stored(other, "m") == BODY
    assert {asked.host for asked in store.requests} == {here}
    assert {asked.host for asked in other.requests} == {there}


def test_what_is_sent_again_is_counted_once(store: ObjectStore, large: Path) -> None:
    """Of a body that broke off, nothing is at the store."""
    broken: list[Asked] = []

    def instead(asked: Asked) -> bytes | None:
        if asked.query.get("partNumber") != "2" or broken:
            return None
        broken.append(asked)
        return b""

    store.instead = instead
    events = Events()
    put(large, "s3://bucket/m", store.environ, concurrency=1, progress=events)
    done = [event.done for event in events.of(Progressed)]
    assert max(done) == done[-1] == len(BODY)
    assert sent_parts(store) == [1, 2, 2, 3, 4]


@pytest.mark.parametrize("option", ["content_type", "cache_control"])
def test_what_no_header_can_have_is_a_bad_setting(
    store: ObjectStore, large: Path, option: str
) -> None:
    with pytest.raises(BadSettingError, match=option):
        put(large, "s3://bucket/m", store.environ, **{option: "a\nX: y"})
    assert store.requests == []


def test_a_header_beyond_latin_1_is_no_failure(store: ObjectStore, large: Path) -> None:
    put(large, "s3://bucket/m", store.environ, content_type="\u0442\u0435\u043a\u0441\u0442")
    assert stored(store, "m") == BODY


def interrupt(store: ObjectStore, large: Path) -> None:
    """Upload two of four parts."""
    store.before[3] = lambda: store.refuse(500, "InternalError", times=50)
    with pytest.raises(TransferError):
        put(large, "s3://bucket/m", store.environ, concurrency=1, retries=0)
    store.forgive()
    assert [len(each.parts[1]) for each in store.uploads.values()] == [PART]
