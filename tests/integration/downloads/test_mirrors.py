"""Mirrors: the same bytes elsewhere, taken over where that is proven and from 0 where it is not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Progressed, StartedOver
from pgetpy.errors import (
    BadReferenceError,
    ConnectionFailedError,
    DigestMismatchError,
    HttpStatusError,
    NotAllowedError,
    StalledError,
)
from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.faults import (
    Fault,
    GateAfter,
    IgnoreRange,
    Replaced,
    ResetAfter,
    SilenceAfter,
    SilenceBeforeHead,
    Status,
    WeakEtag,
    When,
    at_least,
)
from tests.support.fetching import Events, fetch, impatient, names_in
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport")

BODY = body(2_500_001)
OTHER = body(2_500_001, "v2")
CHECKSUM = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
CHUNK = 250_000
# Seconds without a byte: few enough to wait for, more than a busy machine is silent by itself.
STALL = 0.75
# The first server serves so many ranges, then nothing more.
DIES = When(request=at_least(6))


# What a refusal mid-way costs beside, a plain try a second later, is waited for once.
GONE = Status(404, "gone", when=DIES)


def first(server: Server, *faults: Fault, end: Fault | None = None) -> str:
    end = end or ResetAfter(0, when=DIES)
    return server.add("/model", Resource(BODY, faults=[end, *faults]))


def second(server: Server, data: bytes = BODY, etag: str | None = '"v1"', *faults: Fault) -> str:
    return server.add("/copy", Resource(data, etag=etag, faults=faults))


def fetch_by(url: str, mirror: str, dest: Path, **options: object) -> pgetpy.DownloadResult:
    options = {"retries": 0, "chunk_size": CHUNK, "concurrency": 1, **options}
    return fetch(url, dest, mirrors=[mirror], **options)


def test_the_result_says_how_many_bytes_came_from_where(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = first(server)
    mirror = second(other_server)
    events = Events()
    result = fetch_by(url, mirror, tmp_path / "got", progress=events)
    host = other_server.host
    assert set(result.bytes_by_source) == {"origin", host}
    assert sum(result.bytes_by_source.values()) == len(BODY)
    assert result.bytes_by_source["origin"] == server.sent("/model")
    assert events.of(Progressed)[-1].bytes_by_source == result.bytes_by_source


def test_a_mirror_is_not_asked_as_long_as_all_is_well(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY))
    result = fetch_by(url, second(other_server), tmp_path / "got")
    assert result.final_url == url
    assert other_server.requests == []


@pytest.mark.parametrize("status", [403, 404, 410, 503])
def test_a_mirror_takes_over_from_a_first_that_refuses(
    server: Server, other_server: Server, tmp_path: Path, status: int
) -> None:
    url = server.add("/model", Resource(faults=[Status(status)]))
    mirror = second(other_server)
    result = fetch_by(url, mirror, tmp_path / "got", retries=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert (result.url, result.final_url) == (url, mirror)


def test_a_mirror_takes_over_from_a_first_that_is_not_there(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = server.url("/model")
    server.stop()
    fetch_by(url, second(other_server), tmp_path / "got", retries=1)
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_mirror_takes_over_from_a_first_whose_name_is_unknown(
    other_server: Server, tmp_path: Path
) -> None:
    fetch_by("http://no-such.invalid/x", second(other_server), tmp_path / "got", retries=0)
    assert (tmp_path / "got").read_bytes() == BODY


def test_an_equal_strong_etag_lets_a_mirror_go_on_mid_way(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    events = Events()
    mirror = second(other_server)
    result = fetch_by(first(server, end=GONE), mirror, tmp_path / "got", progress=events)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.final_url == mirror
    assert events.of(StartedOver) == []
    events.assert_monotonic()
    assert other_server.asked("/copy")[0] == (5 * CHUNK, 6 * CHUNK)
    assert other_server.seen("/copy")[0].header("If-Range") == '"v1"'
    assert other_server.sent("/copy") == len(BODY) - 5 * CHUNK
    assert result.resumed == 0


@pytest.mark.parametrize("fault", [ResetAfter(1000, when=DIES), SilenceAfter(1000, when=DIES)])
def test_a_connection_that_dies_for_good_mid_way_is_taken_over(
    server: Server, other_server: Server, tmp_path: Path, fault: Fault
) -> None:
    url = server.add("/model", Resource(BODY, faults=[fault]))
    options = {"retries": 0, "stall_timeout": STALL}
    fetch_by(url, second(other_server), tmp_path / "got", **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert other_server.sent("/copy") < len(BODY)


@pytest.mark.parametrize("data", [BODY, OTHER, OTHER[:2_000_000]], ids=["same", "other", "short"])
@pytest.mark.parametrize("etag", ['"v2"', 'W/"v1"', None])
def test_another_or_a_weak_etag_makes_a_mirror_start_over(
    server: Server, other_server: Server, tmp_path: Path, data: bytes, etag: str | None
) -> None:
    events = Events()
    mirror = second(other_server, data, etag)
    fetch_by(first(server), mirror, tmp_path / "got", progress=events)
    # Never a mix.
    assert (tmp_path / "got").read_bytes() == data
    assert len(events.of(StartedOver)) == 1
    events.assert_monotonic()


def test_an_equal_etag_with_another_size_makes_a_mirror_start_over(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    fetch_by(first(server), second(other_server, OTHER[:2_000_000]), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == OTHER[:2_000_000]


def test_equal_weak_etags_prove_nothing(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    mirror = second(other_server, OTHER, '"v1"', WeakEtag())
    fetch_by(first(server, WeakEtag()), mirror, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == OTHER


@pytest.mark.parametrize("etag", ['"v2"', None])
def test_with_a_checksum_a_mirror_goes_on_whatever_its_etag(
    server: Server, other_server: Server, tmp_path: Path, etag: str | None
) -> None:
    events = Events()
    options = {"checksum": CHECKSUM, "progress": events}
    result = fetch_by(first(server), second(other_server, BODY, etag), tmp_path / "got", **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.digest == CHECKSUM
    assert events.of(StartedOver) == []
    assert other_server.sent("/copy") == len(BODY) - 5 * CHUNK


def test_with_a_checksum_a_mirror_of_other_bytes_is_found_out(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    mirror = second(other_server, OTHER, '"v2"')
    with pytest.raises(DigestMismatchError):
        fetch_by(first(server), mirror, tmp_path / "got", checksum=CHECKSUM)
    assert names_in(tmp_path) == []


def test_a_mirror_without_ranges_begins_from_0(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    mirror = second(other_server, BODY, '"v1"', IgnoreRange())
    fetch_by(first(server), mirror, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_first_without_ranges_that_dies_leaves_everything_to_the_mirror(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY, faults=[IgnoreRange(), ResetAfter(1_000_000)]))
    fetch_by(url, second(other_server), tmp_path / "got", retries=1)
    assert (tmp_path / "got").read_bytes() == BODY


def test_when_all_fail_the_error_is_that_of_the_first(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(faults=[Status(403, "first")]))
    mirrors = [
        other_server.add("/a", Resource(faults=[Status(404, "second")])),
        other_server.add("/b", Resource(BODY, faults=[SilenceBeforeHead()])),
    ]
    with pytest.raises(HttpStatusError, match="first") as caught:
        fetch(url, tmp_path / "got", mirrors=mirrors, stall_timeout=STALL, retries=0)
    assert caught.value.url == url
    assert list(dict.fromkeys(seen.path for seen in other_server.requests)) == ["/a", "/b"]
    assert names_in(tmp_path) == []


def test_mirrors_are_asked_in_their_order(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    dead = [server.url("/dead"), server.url("/deader")]
    result = fetch(
        server.url("/deadest"), tmp_path / "got", mirrors=[*dead, second(other_server)], retries=0
    )
    asked = dict.fromkeys(seen.path for seen in server.requests)
    assert list(asked) == ["/deadest", "/dead", "/deader"]
    assert result.size == len(BODY)


def test_the_last_of_several_goes_on_from_what_all_before_it_left(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    middle = other_server.add(
        "/middle", Resource(BODY, faults=[ResetAfter(0, when=When(request=at_least(3)))])
    )
    url = first(server)
    last = second(other_server)
    fetch(url, tmp_path / "got", mirrors=[middle, last], chunk_size=CHUNK, concurrency=1, retries=0)
    assert (tmp_path / "got").read_bytes() == BODY
    parts = [seen.sent for seen in server.requests + other_server.requests if seen.status == 206]
    assert sum(parts) == len(BODY)


def test_a_mirror_goes_on_in_a_pipe_too(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    # Thrown away, but hashed in order as any stream is.
    job = Job(first(server), None, Checksum.parse(CHECKSUM), (second(other_server),))
    [found] = pgetpy.download_many(
        [job], settings=impatient(chunk_size=CHUNK, concurrency=1, retries=0)
    )
    assert isinstance(found, pgetpy.DownloadResult)
    assert found.digest == CHECKSUM
    assert other_server.sent("/copy") == len(BODY) - 5 * CHUNK


def test_an_object_that_is_too_large_is_not_looked_for_elsewhere(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY))
    with pytest.raises(NotAllowedError):
        fetch_by(url, second(other_server), tmp_path / "got", max_size=1000)
    assert other_server.requests == []


def test_an_object_that_keeps_changing_is_not_completed_from_elsewhere(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    faults = [Replaced(OTHER, f'"v{n}"', when=When(request=at_least(3 * n))) for n in range(9)]
    url = server.add("/model", Resource(BODY, faults=faults))
    assert fetch_by(url, second(other_server), tmp_path / "got").single_stream
    assert (tmp_path / "got").read_bytes() == OTHER
    assert not other_server.requests


@pytest.mark.parametrize("mirror", ["ftp://host/x", "host/x", ""])
def test_a_mirror_that_is_no_url_is_refused_before_anything_is_asked(
    server: Server, tmp_path: Path, mirror: str
) -> None:
    url = server.add("/model", Resource(BODY))
    with pytest.raises(BadReferenceError):
        fetch(url, tmp_path / "got", mirrors=[mirror])
    assert server.requests == []
    assert names_in(tmp_path) == []


def test_a_failure_at_the_first_keeps_its_own_kind(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY, faults=[SilenceAfter(0)]))
    mirror = other_server.url("/nothing")
    other_server.stop()
    with pytest.raises(StalledError):
        fetch(url, tmp_path / "got", mirrors=[mirror], stall_timeout=STALL, retries=0)
    with pytest.raises(ConnectionFailedError):
        fetch(mirror, tmp_path / "got", mirrors=[url], stall_timeout=STALL, retries=0)


# ----------------------------------------------------------------- silence, and what a probe says


def stopped(server: Server, *faults: Fault) -> str:
    """A URL of a server that has been stopped: it accepts connections, and answers nothing."""
    server.add("*", Resource(faults=[SilenceBeforeHead()]))
    return server.add("/model", Resource(BODY, faults=faults))


def test_a_mirror_takes_over_from_a_server_that_is_silent_and_answers_no_probe(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    """The stall timeout is longer than this test may take."""
    url = stopped(server, SilenceAfter(0, when=When(request=at_least(3))))
    result = fetch_by(url, second(other_server), tmp_path / "got", stall_timeout=600.0)
    assert (tmp_path / "got").read_bytes() == BODY
    assert set(result.bytes_by_source) == {"origin", other_server.host}
    assert sum(result.bytes_by_source.values()) == len(BODY)


def test_a_server_that_answers_probes_is_not_left_for_its_silence(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = server.add("/model", Resource(BODY, faults=[GateAfter(100_000, gate)]))

    def opens(_: object) -> None:
        if server.seen("*"):
            gate.open()

    mirror = second(other_server)
    fetch_by(url, mirror, tmp_path / "got", stall_timeout=600.0, progress=opens)
    assert (tmp_path / "got").read_bytes() == BODY
    assert other_server.requests == []


def test_a_server_that_was_left_for_its_silence_is_asked_again_where_no_mirror_works(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = stopped(server, SilenceBeforeHead(when=When(request=1)))
    mirror = other_server.add("/copy", Resource(BODY, faults=[Status(404)]))
    result = fetch_by(url, mirror, tmp_path / "got", stall_timeout=600.0)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.bytes_by_source == {"origin": len(BODY)}
