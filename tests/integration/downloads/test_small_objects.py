"""Small files have a lane of their own; what it promises is what a single download promises."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.http.heads import Head
from pgetpy.core.http.urls import Link, parse_link
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Finished, Retrying, Started
from pgetpy.errors import DestinationError, DigestMismatchError, HttpStatusError
from tests.support.authority import Authority
from tests.support.bodies import body, digest
from tests.support.faults import (
    Chunked,
    Close,
    Encoded,
    ExtraBytes,
    Fault,
    FinAfter,
    Garbage,
    Headers,
    Http10,
    IgnoreRange,
    Late,
    NoLength,
    NoValidators,
    Redirect,
    ResetAfter,
    SilenceAfter,
    SilenceBeforeHead,
    Status,
    WeakEtag,
    When,
)
from tests.support.fetching import Events, fetch, impatient, names_in
from tests.support.resources import Resource
from tests.support.server import Server

SIZE = 100_000
BODY = body(SIZE)
LARGE = body(3 << 20)
FIRST = When(request=1)
# Each is met by one of several files, and then by a single download: both must say the same.
FAULTS: dict[str, tuple[Fault, ...]] = {
    "none": (),
    "no range": (IgnoreRange(),),
    "no validators": (NoValidators(),),
    "a weak ETag": (WeakEtag(),),
    "chunks": (Chunked(),),
    "no length": (NoLength(),),
    "HTTP/1.0": (Http10(),),
    "more than was asked for": (ExtraBytes(b"surplus"),),
    "closed afterwards": (Close(),),
    "gzip": (Encoded("gzip"),),
    "cut off": (FinAfter(SIZE // 2, when=FIRST),),
    "reset": (ResetAfter(SIZE // 2, when=FIRST),),
    "closed before the body": (FinAfter(0, when=FIRST),),
    "silent": (SilenceAfter(SIZE // 2, when=FIRST),),
    "503, then the file": (Status(503, when=FIRST),),
}


def jobs(urls: list[str], folder: Path) -> list[Job]:
    return [Job(url, str(folder / f"{number}")) for number, url in enumerate(urls)]


def said(result: pgetpy.DownloadResult | pgetpy.DownloadFailure) -> object:
    """What does not depend on time and place."""
    assert isinstance(result, pgetpy.DownloadResult)
    return replace(result, url="", final_url="", dest="", seconds=0.0, bytes_per_second=0.0)


@pytest.mark.parametrize("name", FAULTS)
def test_one_of_several_files_ends_like_a_single_one(
    server: Server, tmp_path: Path, name: str
) -> None:
    alone = server.add("/alone", Resource(BODY, faults=FAULTS[name]))
    among = server.add("/among", Resource(BODY, faults=FAULTS[name]))
    other = server.add("/other", Resource(BODY))
    # A machine that stutters is silent as well, and each silence is one more try.
    settings = impatient(stall_timeout=4.0 if name == "silent" else 30.0)
    single = pgetpy.download(alone, tmp_path / "single", settings=settings)
    found = pgetpy.download_many(jobs([among, other], tmp_path), settings=settings)
    assert said(found[0]) == said(single)
    assert [(tmp_path / name).read_bytes() for name in ("single", "0", "1")] == [BODY] * 3
    assert names_in(tmp_path) == ["0", "1", "single"]
    assert len(server.seen("/among")) == len(server.seen("/alone"))


def test_an_answer_that_never_begins_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    silent = server.add("/silent", Resource(BODY, faults=(SilenceBeforeHead(when=FIRST),)))
    other = server.add("/other", Resource(BODY))
    settings = impatient(stall_timeout=4.0)
    found = pgetpy.download_many(jobs([silent, other], tmp_path), settings=settings)
    assert all(isinstance(result, pgetpy.DownloadResult) for result in found)
    assert (tmp_path / "0").read_bytes() == BODY
    assert len(server.seen("/silent")) == 2


def test_a_large_file_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    large = server.add("/large", Resource(LARGE))
    small = server.add("/small", Resource(BODY))
    found = pgetpy.download_many(jobs([large, small], tmp_path), settings=impatient(concurrency=1))
    assert (tmp_path / "0").read_bytes() == LARGE
    assert said(found[0]) is not None
    assert server.asked("/large") == [(0, None)]
    assert server.sent("/large") == len(LARGE)


@contextmanager
def closing_server(answers: int) -> Iterator[tuple[str, list[int]]]:
    """Serve BODY; the first connection is closed when it is asked once more than `answers` times.

    Yields the URL, and the numbers of the connections on which requests came.
    """
    asked: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as lines:
            while lines.readline().startswith(b"GET "):
                while lines.readline() != b"\r\n":
                    pass
                asked.append(number)
                if number == 0 and len(asked) > answers:
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY)

    def accept() -> None:
        with suppress(OSError):
            for number in count():
                threading.Thread(target=serve, args=(listener.accept()[0], number)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        accepting.join()


def test_a_reused_connection_that_was_closed_is_no_failure(tmp_path: Path) -> None:
    settings = impatient(max_concurrent_files=1, retries=0)
    with closing_server(answers=1) as (base, asked):
        urls = [f"{base}/{number}" for number in range(3)]
        found = pgetpy.download_many(jobs(urls, tmp_path), settings=settings)
    results = [each for each in found if isinstance(each, pgetpy.DownloadResult)]
    assert [result.retries for result in results] == [0, 0, 0]
    assert asked == [0, 0, 1, 1]
    assert (tmp_path / "1").read_bytes() == BODY


def test_a_refusal_is_asked_for_once_and_says_what_the_server_said(
    server: Server, tmp_path: Path
) -> None:
    gone = server.add("/gone", Resource(BODY, faults=(Status(404, "no such weights"),)))
    small = server.add("/small", Resource(BODY))
    found = pgetpy.download_many(jobs([gone, small], tmp_path), settings=impatient())
    assert isinstance(found[0], pgetpy.DownloadFailure)
    assert isinstance(found[0].error, HttpStatusError)
    assert "no such weights" in str(found[0].error)
    single = server.add("/single", Resource(BODY, faults=(Status(404, "no such weights"),)))
    with pytest.raises(HttpStatusError):
        fetch(single, tmp_path / "single")
    assert len(server.seen("/gone")) == len(server.seen("/single"))
    assert names_in(tmp_path) == ["1"]


def test_a_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    urls = [server.add(f"/{number}", Resource(BODY)) for number in range(2)]
    wrong, right = jobs(urls, tmp_path)
    wrong = replace(wrong, checksum=Checksum.parse(f"sha256:{'0' * 64}"))
    right = replace(right, checksum=Checksum("sha256", digest(BODY)))
    found = pgetpy.download_many([wrong, right], settings=impatient())
    assert isinstance(found[0], pgetpy.DownloadFailure)
    assert isinstance(found[0].error, DigestMismatchError)
    assert isinstance(found[1], pgetpy.DownloadResult)
    assert found[1].digest == f"sha256:{digest(BODY)}"
    assert names_in(tmp_path) == ["1"]
    assert len(server.seen("/0")) == 1


def test_redirects_are_followed_with_their_cookies(server: Server, tmp_path: Path) -> None:
    target = server.add("/target", Resource(BODY))
    cookie = (Redirect(target), Headers(add=(("Set-Cookie", "visit=1"),)))
    urls = [server.add(f"/{number}", Resource(b"", faults=cookie)) for number in range(4)]
    found = pgetpy.download_many(jobs(urls, tmp_path), settings=impatient())
    for result in found:
        assert isinstance(result, pgetpy.DownloadResult)
        assert (result.final_url, result.requests) == (target, 2)
    seen = server.seen("/target")
    assert [each.request.header("cookie") for each in seen] == ["visit=1"] * 4


def test_what_exists_stays_and_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    urls = [server.add(f"/{number}", Resource(BODY)) for number in range(2)]
    (tmp_path / "0").write_bytes(b"mine")
    found = pgetpy.download_many(jobs(urls, tmp_path), settings=impatient())
    assert isinstance(found[0], pgetpy.DownloadFailure)
    assert isinstance(found[0].error, DestinationError)
    assert (tmp_path / "0").read_bytes() == b"mine"
    assert not server.seen("/0")
    assert isinstance(found[1], pgetpy.DownloadResult)


def test_force_replaces_a_file_and_keeps_its_permissions(server: Server, tmp_path: Path) -> None:
    urls = [server.add(f"/{number}", Resource(BODY)) for number in range(2)]
    (tmp_path / "0").write_bytes(b"old")
    (tmp_path / "0").chmod(0o640)
    pgetpy.download_many(jobs(urls, tmp_path), settings=impatient(), force=True)
    assert (tmp_path / "0").read_bytes() == BODY
    assert (tmp_path / "0").stat().st_mode & 0o777 == 0o640


def test_many_files_go_over_few_connections_and_each_is_told_of(
    server: Server, tmp_path: Path
) -> None:
    count = 200
    urls = [server.add(f"/{number}", Resource(body(1000 + number))) for number in range(count)]
    events = Events()
    found = pgetpy.download_many(jobs(urls, tmp_path), settings=impatient(), progress=events)
    assert [result.size for result in found if isinstance(result, pgetpy.DownloadResult)] == [
        1000 + number for number in range(count)
    ]
    assert len(events.of(Started)) == len(events.of(Finished)) == count
    assert not events.of(Retrying)
    events.assert_monotonic()
    connections = {seen.connection for number in range(count) for seen in server.seen(f"/{number}")}
    assert len(connections) <= 64


def test_a_late_answer_is_waited_for_by_who_watches_over_it(server: Server, tmp_path: Path) -> None:
    """The request goes on: it is not made a second time because it was handed over."""

    late = server.add("/late", Resource(BODY, faults=(Late(0.9, when=FIRST),)))
    small = server.add("/small", Resource(BODY))
    settings = impatient(concurrency=1)
    found = pgetpy.download_many(jobs([late, small], tmp_path), settings=settings)
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert found[0].retries == 0
    assert (tmp_path / "0").read_bytes() == BODY


def test_no_garbage_is_taken_for_a_file(server: Server, tmp_path: Path) -> None:
    odd = server.add("/odd", Resource(BODY, faults=(Garbage(),)))
    small = server.add("/small", Resource(BODY))
    found = pgetpy.download_many(jobs([odd, small], tmp_path), settings=impatient(retries=0))
    assert isinstance(found[0], pgetpy.DownloadFailure)
    assert names_in(tmp_path) == ["1"]


class Signing:
    """Signs each request differently, as a clock does."""

    whole_first = False
    asks_checksum = True

    def __init__(self) -> None:
        self.signed = 0

    def headers(self, link: Link, fields: object, now: float) -> list[tuple[str, str]]:
        self.signed += 1
        return [("X-Signature", str(self.signed))]

    def due(self, now: float) -> bool:
        return False

    def refresh(self) -> None:
        raise NotImplementedError

    def sign_again(self, link: Link, headers: object, head: Head, now: float) -> Link | None:
        return None

    def onward(self, before: Link, after: Link) -> Link:
        return after


def test_a_signed_request_that_turns_out_large_is_not_made_twice(
    server: Server, tmp_path: Path
) -> None:
    """The request that is taken over has another signature than a new one would have."""
    large = server.add("/large", Resource(LARGE))
    small = server.add("/small", Resource(BODY))
    signed, other = jobs([large, small], tmp_path)
    signed = replace(signed, link=replace(parse_link(large), signer=Signing()))
    found = pgetpy.download_many([signed, other], settings=impatient(concurrency=1))
    assert isinstance(found[0], pgetpy.DownloadResult)
    assert server.asked("/large") == [(0, None)]


def test_all_this_holds_over_tls(tls_server: Server, ca: Authority, tmp_path: Path) -> None:
    kinds = (Resource(BODY), Resource(LARGE), Resource(BODY, faults=(Late(0.9, when=FIRST),)))
    urls = [tls_server.add(f"/{number}", each) for number, each in enumerate(kinds)]
    settings = impatient(concurrency=1, cacert=str(ca.pem))
    found = pgetpy.download_many(jobs(urls, tmp_path), settings=settings)
    assert [type(each) for each in found] == [pgetpy.DownloadResult] * 3
    assert [(tmp_path / str(number)).read_bytes() for number in range(3)] == [BODY, LARGE, BODY]
    assert [len(tls_server.seen(f"/{number}")) for number in range(3)] == [1, 1, 1]
