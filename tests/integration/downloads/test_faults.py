"""Whole downloads from a server that misbehaves: the right bytes, or an error and no DEST."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.report.events import Event, Remarked, Retrying, StartedOver
from pgetpy.errors import (
    ConnectionFailedError,
    DigestMismatchError,
    HttpStatusError,
    PgetError,
    RangeNotHonouredError,
    StalledError,
    TransferError,
)
from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.faults import (
    Busy,
    Chunked,
    Close,
    Crawl,
    Encoded,
    EnormousHead,
    EtagPerRequest,
    Exchange,
    ExtraBytes,
    Fault,
    FinAfter,
    Garbage,
    GateAfter,
    Headers,
    Http10,
    IdleClose,
    IgnoreIfRange,
    IgnoreRange,
    Late,
    LengthConflict,
    NoLength,
    NoValidators,
    OtherRange,
    Pace,
    Replaced,
    ResetAfter,
    ResetAt,
    ShorterRange,
    SilenceAfter,
    SilenceBeforeHead,
    StatedTotal,
    Status,
    WeakEtag,
    When,
    at_least,
)
from tests.support.fetching import Events, fetch, impatient, names_in
from tests.support.resources import Answer, Resource, whole
from tests.support.server import Server

# Over either transport, where both have a part in it; all else here is what the engine makes of
# answers, whichever transport has carried them (tests/contracts hold each transport to the same).
BOTH = pytest.mark.usefixtures("transport")

BODY = body(3_500_001)
OTHER = body(3_500_001, "v2")
LONGER = body(3_600_000, "v2")
SMALL, LARGE = 200_000, 700_000
# Seconds without a byte: few enough to wait for, more than a busy machine is silent by itself.
STALL = 0.75
# Both ways of the direct transport: bodies received on the loop, and those that a thread moves.
CHUNKS = pytest.mark.parametrize("chunk_size", [SMALL, LARGE])


def serve(server: Server, *faults: Fault, data: bytes = BODY, path: str = "/model") -> str:
    return server.add(path, Resource(data, faults=faults))


# ------------------------------------------------------------------- what is no fault


@BOTH
@CHUNKS
def test_ranges_are_asked_for_and_put_together(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    result = fetch(serve(server), tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]
    assert result.size == len(BODY)
    assert result.validator == "strong"
    assert result.length_known
    assert (result.retries, result.resumed, result.shared) == (0, 0, False)
    asked = server.asked("/model")
    assert all(span is not None and span[1] - span[0] <= chunk_size for span in asked)
    # Each byte is sent once, but for what is asked for again at the end of it all.
    assert server.sent("/model") < 2 * len(BODY)


def test_the_first_request_is_a_ranged_get_from_the_first_byte(
    server: Server, tmp_path: Path
) -> None:
    fetch(serve(server), tmp_path / "got")
    first = server.seen("/model")[0]
    assert first.method == "GET"
    assert first.asked is not None
    assert first.asked[0] == 0
    assert {seen.method for seen in server.requests} == {"GET"}


def test_every_later_range_is_tied_to_the_version_of_the_first(
    server: Server, tmp_path: Path
) -> None:
    fetch(serve(server), tmp_path / "got", chunk_size=SMALL)
    first, *later = server.seen("/model")
    assert first.header("If-Range") is None
    assert len(later) > 5
    assert {seen.header("If-Range") for seen in later} == {'"v1"'}


@BOTH
@CHUNKS
def test_connections_that_end_while_they_are_taken_again_cost_nothing(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    fetch(serve(server, IdleClose(0.01)), tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY


# ------------------------------------------------------------------- no ranges, no lengths


@BOTH
@CHUNKS
def test_a_server_that_ignores_range_is_read_in_one_answer(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    url = serve(server, IgnoreRange())
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "none"
    assert result.length_known
    assert server.asked("/model") == [(0, chunk_size)]


def test_a_server_that_announces_ranges_and_sends_the_whole_is_asked_for_one_at_a_time(
    server: Server, tmp_path: Path
) -> None:
    """Each answer is the whole, which somebody may have to pay for."""
    faults = (Late(0.2), IgnoreRange(), Pace(4_000_000))
    url = serve(server, *faults, data=body(6 << 20))
    fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body(6 << 20)
    # One with If-Range, and one without it.
    assert len([each for each in server.asked("/model") if each != (0, None)]) <= 2


def test_a_small_object_of_a_server_without_ranges(server: Server, tmp_path: Path) -> None:
    result = fetch(serve(server, IgnoreRange(), data=BODY[:1000]), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY[:1000]
    assert result.validator == "none"


@pytest.mark.parametrize("data", [BODY, BODY[:1000], b""], ids=len)
def test_a_chunked_body_without_ranges(server: Server, tmp_path: Path, data: bytes) -> None:
    result = fetch(serve(server, IgnoreRange(), Chunked(), data=data), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data
    assert result.size == len(data)
    # The last chunk marks the end.
    assert result.length_known
    assert result.validator == "none"


def test_chunked_ranges(server: Server, tmp_path: Path) -> None:
    result = fetch(serve(server, Chunked()), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "strong"


def test_a_chunked_body_that_is_cut_off_is_no_whole_one(server: Server, tmp_path: Path) -> None:
    url = serve(server, IgnoreRange(), Chunked(), FinAfter(100_000))
    with pytest.raises(ConnectionFailedError):
        fetch(url, tmp_path / "got", retries=1)
    assert names_in(tmp_path) == []


def test_a_chunk_with_a_senseless_size_is_no_body(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TransferError):
        fetch(serve(server, Chunked(size_line=b"xyz")), tmp_path / "got", retries=1)
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("data", [BODY, BODY[:1000], b""], ids=len)
def test_http_1_0_without_a_length_is_marked_as_of_unknown_length(
    server: Server, tmp_path: Path, data: bytes
) -> None:
    result = fetch(serve(server, Http10(), data=data), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == data
    assert not result.length_known
    assert result.validator == "none"


def test_http_1_0_with_a_length(server: Server, tmp_path: Path) -> None:
    result = fetch(serve(server, Http10(length=True)), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.length_known


def test_http_1_0_with_a_length_that_is_cut_off_is_retried(server: Server, tmp_path: Path) -> None:
    # The direct transport leaves HTTP/1.0 alone and does not count.
    url = serve(server, Http10(length=True), FinAfter(1_000_000, when=When(times=2)))
    result = fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries >= 1


def test_the_end_of_the_connection_ends_a_body_without_a_length(
    server: Server, tmp_path: Path
) -> None:
    result = fetch(serve(server, IgnoreRange(), NoLength()), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert not result.length_known


@CHUNKS
def test_a_range_without_a_length_has_that_of_its_content_range(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    result = fetch(serve(server, NoLength()), tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.length_known
    assert result.validator == "strong"


def test_a_range_without_a_length_that_ends_early_is_seen_by_its_content_range(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, NoLength(), FinAfter(100_000, when=When(times=2)))
    result = fetch(url, tmp_path / "got", chunk_size=LARGE)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries > 0


# ------------------------------------------------------------------- content codings


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_coding_that_nobody_asked_for_is_undone(
    server: Server, tmp_path: Path, coding: str
) -> None:
    result = fetch(serve(server, Encoded(coding=coding)), tmp_path / "got")  # type: ignore[arg-type]
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.size == len(BODY)
    assert server.seen("/model")[0].header("Accept-Encoding") == "identity"


def test_a_coded_body_that_is_cut_off_is_no_whole_one(server: Server, tmp_path: Path) -> None:
    url = serve(server, IgnoreRange(), Encoded(), NoLength(), FinAfter(500_000))
    with pytest.raises(ConnectionFailedError):
        fetch(url, tmp_path / "got", retries=1)
    assert names_in(tmp_path) == []


def test_bytes_that_are_not_of_the_coding_they_claim_are_an_error(
    server: Server, tmp_path: Path
) -> None:
    liar = Resource(BODY[:9999], headers=(("Content-Encoding", "gzip"),), ranges=False)
    with pytest.raises(TransferError, match="Content-Encoding"):
        fetch(server.add("/liar", liar), tmp_path / "got", retries=0)
    assert names_in(tmp_path) == []


def test_a_few_coded_bytes_that_unfold_to_many_do_not_fill_the_memory(
    server: Server, tmp_path: Path
) -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    resource = Resource(bomb, headers=(("Content-Encoding", "gzip"),), ranges=False)
    url = server.add("/bomb", resource)
    with pytest.raises(PgetError, match="--max-size"):
        fetch(url, tmp_path / "got", max_size=1_000_000)
    assert fetch(url, tmp_path / "got").size == 64 << 20


def test_a_coding_that_cannot_be_undone_is_an_error_that_names_it(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(TransferError, match="'br'"):
        fetch(serve(server, Encoded(label="br")), tmp_path / "got")
    assert names_in(tmp_path) == []


@BOTH
@pytest.mark.parametrize("path", ["/weights.tar.gz", "/weights.tgz", "/model.bin.gz"])
def test_a_gz_file_with_its_own_coding_as_header_is_kept_as_it_is(
    server: Server, tmp_path: Path, path: str
) -> None:
    url = server.add(path, Resource(BODY, headers=(("Content-Encoding", "gzip"),)))
    result = fetch(url, tmp_path / "got", chunk_size=LARGE)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "strong"


# ------------------------------------------------------------------- empty objects


@BOTH
@pytest.mark.parametrize("answer", [416, 200])
def test_an_empty_object(server: Server, tmp_path: Path, answer: int) -> None:
    url = server.add("/empty", Resource(b"", empty_range=answer))  # type: ignore[arg-type]
    checksum = f"sha256:{hashlib.sha256().hexdigest()}"
    result = fetch(url, tmp_path / "got", checksum=checksum)
    assert (tmp_path / "got").read_bytes() == b""
    assert (result.size, result.length_known) == (0, True)
    assert names_in(tmp_path) == ["got"]


def test_an_empty_object_whose_416_does_not_say_so(server: Server, tmp_path: Path) -> None:
    url = serve(server, Headers(remove=("Content-Range",)), data=b"")
    assert fetch(url, tmp_path / "got").size == 0
    assert (tmp_path / "got").read_bytes() == b""


def test_a_416_for_an_object_that_is_not_empty_is_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HttpStatusError) as caught:
        fetch(serve(server, Status(416)), tmp_path / "got")
    assert caught.value.status == 416
    assert names_in(tmp_path) == []


# ------------------------------------------------------------------- another version


@CHUNKS
@pytest.mark.parametrize("data", [OTHER, LONGER], ids=["same size", "another size"])
@pytest.mark.parametrize("honoured", [True, False], ids=["If-Range", "no If-Range"])
def test_an_object_replaced_once_is_had_in_its_new_version(
    server: Server, tmp_path: Path, chunk_size: int, data: bytes, honoured: bool
) -> None:
    lies = () if honoured else (IgnoreIfRange(),)
    replaced = Replaced(data, '"v2"', when=When(request=at_least(4)))
    url = serve(server, replaced, *lies)
    events = Events()
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, progress=events)
    assert (tmp_path / "got").read_bytes() == data
    assert result.size == len(data)
    assert len(events.of(StartedOver)) == 1
    assert "changed" in events.of(StartedOver)[0].reason
    events.assert_monotonic()
    assert names_in(tmp_path) == ["got"]


@pytest.mark.parametrize("honoured", [True, False], ids=["If-Range", "no If-Range"])
def test_an_object_replaced_twice_is_had_in_its_last_version_in_one_stream(
    server: Server, tmp_path: Path, honoured: bool
) -> None:
    url = serve(
        server,
        Replaced(OTHER, '"v2"', when=When(request=range(3, 10))),
        Replaced(body(3_500_001, "v3"), '"v3"', when=When(request=at_least(10))),
        *(() if honoured else (IgnoreIfRange(),)),
    )
    events = Events()
    result = fetch(url, tmp_path / "got", chunk_size=SMALL, concurrency=1, progress=events)
    assert (tmp_path / "got").read_bytes() == body(3_500_001, "v3")
    assert (result.single_stream, result.validator) == (True, "none")
    assert ["changed" in each.reason for each in events.of(StartedOver)] == [True, True]
    assert "contradict each other" in events.of(Remarked)[-1].remark


def test_the_new_version_of_a_replaced_object_is_hashed_alone(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, Replaced(OTHER, '"v2"', when=When(request=at_least(4))))
    checksum = f"sha256:{hashlib.sha256(OTHER).hexdigest()}"
    result = fetch(url, tmp_path / "got", chunk_size=SMALL, checksum=checksum)
    assert (tmp_path / "got").read_bytes() == OTHER
    assert result.digest == checksum


def test_an_object_of_the_same_size_without_etag_is_told_by_its_date(
    server: Server, tmp_path: Path
) -> None:
    later = "Tue, 01 Jul 2025 08:00:00 GMT"
    replaced = Replaced(OTHER, None, later, when=When(request=at_least(4)))
    url = server.add("/model", Resource(BODY, etag=None, faults=[replaced]))
    result = fetch(url, tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == OTHER
    assert result.validator == "weak"


def test_without_any_validator_a_checksum_tells_a_mix(server: Server, tmp_path: Path) -> None:
    url = serve(server, Replaced(OTHER, when=When(request=at_least(4))), NoValidators())
    checksum = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    with pytest.raises(DigestMismatchError):
        fetch(url, tmp_path / "got", chunk_size=SMALL, checksum=checksum)
    assert names_in(tmp_path) == []


def test_without_any_validator_the_result_says_how_little_is_proven(
    server: Server, tmp_path: Path
) -> None:
    result = fetch(serve(server, NoValidators()), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "weak"


def test_answers_that_lose_their_etag_on_the_way_are_not_believed(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, Replaced(OTHER, None, when=When(request=at_least(3))), IgnoreIfRange())
    with pytest.raises(RangeNotHonouredError, match="without ETag"):
        fetch(url, tmp_path / "got", chunk_size=SMALL, retries=1)
    assert "got" not in names_in(tmp_path)


def test_a_weak_etag_is_weak_and_never_sent_in_if_range(server: Server, tmp_path: Path) -> None:
    result = fetch(serve(server, WeakEtag()), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "weak"
    assert not any(seen.header("If-Range") for seen in server.requests)


def test_what_a_weak_etag_came_with_is_not_left_for_another_run(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, WeakEtag(), Status(404, when=When(request=at_least(5))))
    with pytest.raises(HttpStatusError):
        fetch(url, tmp_path / "got", chunk_size=SMALL)
    assert names_in(tmp_path) == []


def test_a_weak_etag_that_changes_is_another_version(server: Server, tmp_path: Path) -> None:
    replaced = Replaced(OTHER, '"v2"', when=When(request=at_least(4)))
    fetch(serve(server, replaced, WeakEtag()), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == OTHER


@pytest.mark.parametrize("honoured", [True, False], ids=["If-Range", "no If-Range"])
def test_an_etag_of_its_own_for_every_request_leaves_one_stream(
    server: Server, tmp_path: Path, honoured: bool
) -> None:
    lies = () if honoured else (IgnoreIfRange(),)
    result = fetch(serve(server, EtagPerRequest(), *lies), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert (result.single_stream, result.validator) == (True, "none")


# ------------------------------------------------------------------- ranges that are none


@pytest.mark.parametrize(
    "fault",
    [OtherRange(1, 1), LengthConflict(-5)],
    ids=repr,
)
def test_a_wrong_206_is_thrown_away_and_asked_for_again(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    fault = replace(fault, when=When(request=range(2, 4)))
    result = fetch(serve(server, fault), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries >= 1


def test_a_server_that_never_serves_what_was_asked_for_is_asked_for_the_whole(
    server: Server, tmp_path: Path
) -> None:
    url, events = serve(server, OtherRange(1, 1)), Events()
    result = fetch(url, tmp_path / "got", chunk_size=LARGE, retries=0, progress=events)
    assert (tmp_path / "got").read_bytes() == BODY
    assert (result.single_stream, result.validator) == (True, "none")
    assert f"asked for bytes=0-{LARGE - 1}" in events.of(Remarked)[0].remark


def test_a_206_of_another_total_under_the_same_etag_is_not_believed(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, StatedTotal(len(BODY) + 7, when=When(request=at_least(3))))
    assert fetch(url, tmp_path / "got", chunk_size=SMALL).single_stream
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_206_of_unknown_total_is_asked_for_whole(server: Server, tmp_path: Path) -> None:
    result = fetch(serve(server, StatedTotal("*")), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.size == len(BODY)


@CHUNKS
def test_an_honest_shorter_206_is_kept_and_the_rest_asked_for(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    url = serve(server, ShorterRange(90_001))
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 0
    # Nothing that came is asked for again.
    assert server.sent("/model") == len(BODY)


def test_one_of_several_servers_that_knows_no_ranges_is_borne(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, IgnoreRange(when=When(request=range(3, 5))))
    fetch(url, tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY


@BOTH
@CHUNKS
def test_an_answer_that_nobody_asked_for_is_never_written(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    # It may arrive just after the connection has been taken for the next request.
    with contextlib.suppress(TransferError):
        fetch(serve(server, ExtraBytes()), tmp_path / "got", chunk_size=chunk_size)
        assert (tmp_path / "got").read_bytes() == BODY


@dataclass(frozen=True)
class RefuseIfRange(Fault):
    """All of the object whenever If-Range is there, even if it names the very version."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        tied = exchange.request.header("If-Range") is not None
        return replace(whole(exchange.resource), delivery=answer.delivery) if tied else answer


@CHUNKS
def test_a_server_that_cannot_do_with_if_range_is_asked_without_it(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    result = fetch(serve(server, RefuseIfRange()), tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "strong"


def test_without_if_range_another_version_is_still_told_by_its_etag(
    server: Server, tmp_path: Path
) -> None:
    replaced = Replaced(OTHER, '"v2"', when=When(request=at_least(9)))
    fetch(serve(server, replaced, RefuseIfRange()), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == OTHER


def test_an_etag_that_is_none_is_never_sent_back(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY, etag="without-quotes"))
    result = fetch(url, tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "weak"
    assert not any(seen.header("If-Range") for seen in server.requests)


# ------------------------------------------------------------------- heads that are none


@pytest.mark.parametrize("ranges", [True, False])
def test_a_senseless_length_is_an_error_of_the_transfer(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    faults = () if ranges else (IgnoreRange(),)
    url = serve(server, *faults, Headers(put=(("Content-Length", "5, 6"),)), Close())
    with pytest.raises(TransferError) as caught:
        fetch(url, tmp_path / "got", retries=0, stall_timeout=1)
    assert "\n" not in str(caught.value)
    assert "got" not in names_in(tmp_path)


def test_a_senseless_content_range_is_not_believed(server: Server, tmp_path: Path) -> None:
    url = serve(server, Headers(put=(("Content-Range", "bytes 5-1/9"),)))
    assert fetch(url, tmp_path / "got", chunk_size=SMALL, retries=0).single_stream
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
@pytest.mark.parametrize("value", ["", '"', "\u00ff\u00fe", "x" * 5000, ";;;,,,"])
def test_senseless_validators_harm_nobody(
    server: Server, tmp_path: Path, name: str, value: str
) -> None:
    url = serve(server, Headers(put=((name, value),)), data=BODY[:700_000])
    fetch(url, tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY[:700_000]


@pytest.mark.parametrize("fault", [Garbage(), EnormousHead()], ids=lambda f: type(f).__name__)
def test_what_is_no_http_is_an_error_after_some_tries(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    with pytest.raises(TransferError) as caught:
        fetch(serve(server, fault), tmp_path / "got", retries=1)
    assert len(str(caught.value)) < 400
    assert names_in(tmp_path) == []


@CHUNKS
def test_garbage_now_and_then_is_retried(server: Server, tmp_path: Path, chunk_size: int) -> None:
    url = serve(server, Garbage(when=When(request=range(3, 5))))
    fetch(url, tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY


# ------------------------------------------------------------------- cut off


@CHUNKS
def test_a_connection_that_breaks_mid_body_goes_on_from_the_same_byte(
    server: Server, tmp_path: Path, transport: str, chunk_size: int
) -> None:
    url = serve(server, ResetAfter(100_001, when=When(request=3)))
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 1
    # aiohttp throws away what it has not handed on when a connection breaks.
    lost = 0 if transport == "direct" else 100_001
    assert len(BODY) <= server.sent("/model") <= len(BODY) + lost


@CHUNKS
def test_many_broken_connections_in_a_row_end_well_as_long_as_bytes_come(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    url = serve(server, ResetAfter(90_000), data=BODY[:1_000_000])
    events = Events()
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, retries=2, progress=events)
    assert (tmp_path / "got").read_bytes() == BODY[:1_000_000]
    assert result.retries >= 5
    assert len(events.of(Retrying)) == result.retries
    events.assert_monotonic()


def test_a_body_without_ranges_that_is_cut_off_begins_again(server: Server, tmp_path: Path) -> None:
    no_ranges = Headers(remove=("Accept-Ranges",))
    url = serve(server, IgnoreRange(), no_ranges, ResetAfter(2_000_000, when=When(times=2)))
    events = Events()
    result = fetch(url, tmp_path / "got", progress=events)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 2
    assert len(events.of(StartedOver)) == 2
    events.assert_monotonic()


def test_a_body_without_ranges_that_is_always_cut_off_ends(server: Server, tmp_path: Path) -> None:
    no_ranges = Headers(remove=("Accept-Ranges",))
    url = serve(server, IgnoreRange(), no_ranges, ResetAfter(2_000_000))
    with pytest.raises(ConnectionFailedError) as caught:
        # Over one connection: others would ask whether it serves ranges after all.
        fetch(url, tmp_path / "got", retries=2, concurrency=1)
    assert caught.value.attempts == 3
    assert len(server.requests) == 3
    assert names_in(tmp_path) == []


def test_a_whole_of_a_known_version_that_is_cut_off_goes_on_behind_what_has_come(
    server: Server, tmp_path: Path
) -> None:
    """It says that it serves ranges, and does not: what has come is passed over."""
    url = serve(server, IgnoreRange(), ResetAt(2_000_000, when=When(times=1)))
    events = Events()
    result = fetch(url, tmp_path / "got", progress=events)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.single_stream
    assert not events.of(StartedOver)


def test_a_body_without_ranges_that_began_again_as_another_is_hashed_alone(
    server: Server, tmp_path: Path
) -> None:
    url = serve(
        server,
        IgnoreRange(),
        # The digest has read what came by the time the silence is too long.
        SilenceAfter(3_000_000, when=When(times=1)),
        Replaced(LONGER, '"v2"', when=When(request=at_least(2))),
    )
    checksum = f"sha256:{hashlib.sha256(LONGER).hexdigest()}"
    # Over one connection: another could find the new version while this one is still silent.
    result = fetch(url, tmp_path / "got", checksum=checksum, stall_timeout=STALL, concurrency=1)
    assert result.retries >= 1
    assert (tmp_path / "got").read_bytes() == LONGER


def test_refused_connections_are_retried(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    server.refuse(2)
    result = fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries >= 1


def test_a_port_where_nobody_listens_is_an_error_that_counts_its_attempts(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    server.stop()
    with pytest.raises(ConnectionFailedError, match=r"connection refused .*\(after 3 attempts\)"):
        fetch(url, tmp_path / "got", retries=2)
    assert names_in(tmp_path) == []


def test_a_host_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailedError, match=r"host no-such\.invalid cannot be resolved"):
        fetch("http://no-such.invalid/model", tmp_path / "got", retries=0)
    assert names_in(tmp_path) == []


# ------------------------------------------------------------------- silent and slow


def test_silence_before_the_head_ends(server: Server, tmp_path: Path) -> None:
    url = serve(server, SilenceBeforeHead())
    with pytest.raises(StalledError) as caught:
        fetch(url, tmp_path / "got", stall_timeout=STALL, retries=1)
    assert caught.value.attempts == 2
    # The second try waits for so long that it is asked once more beside it.
    assert len(server.requests) in (2, 3)
    assert names_in(tmp_path) == []


@CHUNKS
def test_silence_mid_body_ends_and_is_retried(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    url = serve(server, SilenceAfter(150_000, when=When(request=1)))
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, concurrency=1, stall_timeout=STALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 1
    assert (150_000, 150_000 + chunk_size) in server.asked("/model")


@pytest.mark.parametrize("size", [0, 100_000])
def test_silence_for_ever_ends_with_a_stall(server: Server, tmp_path: Path, size: int) -> None:
    url = serve(server, IgnoreRange(), SilenceAfter(size))
    with pytest.raises(StalledError, match="no bytes for"):
        fetch(url, tmp_path / "got", stall_timeout=STALL, retries=1)
    assert "got" not in names_in(tmp_path)


@pytest.mark.parametrize(
    "fault",
    [SilenceAfter(50_000), SilenceBeforeHead(), Crawl(20_000, after=50_000)],
    ids=lambda fault: type(fault).__name__,
)
def test_another_connection_takes_over_from_one_that_is_stuck_long_before_the_stall_limit(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    fault = replace(fault, when=When(request=4))
    started = time.monotonic()
    fetch(serve(server, fault), tmp_path / "got", chunk_size=LARGE, stall_timeout=50)
    assert (tmp_path / "got").read_bytes() == BODY
    assert time.monotonic() - started < 45


@BOTH
def test_another_connection_takes_over_from_a_first_one_that_falls_silent(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, SilenceAfter(300_000, when=When(request=1)))
    started = time.monotonic()
    fetch(url, tmp_path / "got", stall_timeout=50)
    assert (tmp_path / "got").read_bytes() == BODY
    assert time.monotonic() - started < 45


@BOTH
def test_a_pause_shorter_than_the_limit_is_no_stall(server: Server, tmp_path: Path) -> None:
    # All of it takes longer than that.
    url = serve(server, IgnoreRange(), Crawl(160_000), data=BODY[:200_000])
    result = fetch(url, tmp_path / "got", stall_timeout=STALL)
    assert result.retries == 0


def test_a_rate_limit_is_no_stall(server: Server, tmp_path: Path) -> None:
    started = time.monotonic()
    result = fetch(
        serve(server, data=BODY[:250_000]),
        tmp_path / "got",
        # Each 64 KiB are paid for by a longer wait than that.
        limit_rate=100_000,
        stall_timeout=0.4,
    )
    assert (tmp_path / "got").read_bytes() == BODY[:250_000]
    assert result.retries == 0
    assert time.monotonic() - started > 1.2


@pytest.mark.parametrize("ranges", [True, False])
def test_the_rate_limit_holds_for_all_connections_together(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    faults = () if ranges else (IgnoreRange(),)
    result = fetch(
        serve(server, *faults, data=BODY[:1_000_000]),
        tmp_path / "got",
        limit_rate=1_600_000,
        chunk_size=SMALL,
    )
    assert (tmp_path / "got").read_bytes() == BODY[:1_000_000]
    assert result.bytes_per_second < 1_600_000 * 1.35


def test_a_slow_link_is_used_by_several_connections(server: Server, tmp_path: Path) -> None:
    result = fetch(serve(server, Pace(1_000_000)), tmp_path / "got", chunk_size=SMALL)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.connections > 1


def test_no_more_connections_than_were_allowed(server: Server, tmp_path: Path) -> None:
    for name, limits in [("c", {"concurrency": 3}), ("host", {"max_conn_per_host": 2})]:
        url = serve(server, Pace(1_500_000), path=f"/{name}")
        result = fetch(url, tmp_path / name, chunk_size=SMALL, **limits)
        assert result.connections <= next(iter(limits.values()))
    assert server.peak <= 3


# ------------------------------------------------------------------- statuses


@pytest.mark.parametrize("status", [429, 503])
def test_a_status_that_may_pass_is_retried(server: Server, tmp_path: Path, status: int) -> None:
    url = serve(server, Status(status, when=When(request=range(1, 3))))
    result = fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 2


@CHUNKS
def test_a_busy_moment_of_a_server_mid_way_is_survived(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    url = serve(server, Status(503, when=When(request=range(4, 7))))
    fetch(url, tmp_path / "got", chunk_size=chunk_size)
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.mark.parametrize("status", [404, 407])
def test_any_other_refusal_fails_at_once_with_the_servers_words(
    server: Server, tmp_path: Path, status: int
) -> None:
    words = "<Error><Code>Odd</Code><Message>Not  today,\nplease</Message></Error>"
    with pytest.raises(HttpStatusError, match="Not today, please") as caught:
        fetch(serve(server, Status(status, words)), tmp_path / "got")
    assert caught.value.status == status
    assert caught.value.attempts == 1
    assert f"HTTP status {status}" in str(caught.value)
    assert "\n" not in str(caught.value)
    # A plain GET is the last resort; what a proxy wants is no matter of ranges.
    assert [seen.asked for seen in server.requests] == [(0, None), None][: 1 + (status != 407)]
    assert names_in(tmp_path) == []


def test_retries_that_are_used_up_say_how_many_tries_were_made(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(HttpStatusError, match=r"503 .*sorry.*\(after 3 attempts\)") as caught:
        fetch(serve(server, Status(503, "sorry")), tmp_path / "got", retries=2)
    assert caught.value.attempts == 3
    assert [seen.asked for seen in server.requests] == [(0, None)] * 3 + [None]


def test_progress_between_failures_gives_new_tries(server: Server, tmp_path: Path) -> None:
    # Every second request fails: never more than one failure in a row.
    url = serve(server, Status(500, when=When(request=range(2, 100, 2))))
    result = fetch(url, tmp_path / "got", chunk_size=SMALL, retries=1, concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries > 5


@pytest.mark.parametrize(("status", "form"), [(429, "seconds"), (503, "date")])
def test_retry_after_is_waited_for(server: Server, tmp_path: Path, status: int, form: str) -> None:
    # A date has whole seconds, so that up to one of them is lost.
    when = timedelta(seconds=2) if form == "date" else 1
    refusal = Status(status, retry_after=when, when=When(request=1))
    fetch(serve(server, refusal), tmp_path / "got")
    first, second = (seen.time for seen in server.seen("/model")[:2])
    assert second - first >= 0.95


def test_retry_after_holds_for_every_file_of_the_host(server: Server, tmp_path: Path) -> None:
    # A range of it takes half a second, so that several would be asked for meanwhile.
    slow = serve(server, Crawl(100_000), data=BODY[:250_000], path="/slow")
    refused = serve(
        server, Status(429, retry_after=2, when=When(request=1)), data=BODY[:1000], path="/refused"
    )
    refused_at: list[float] = []

    def progress(event: Event) -> None:
        if isinstance(event, Retrying):
            refused_at.append(time.monotonic())

    files = [(refused, tmp_path / "a"), (slow, tmp_path / "b")]
    settings = impatient(chunk_size=50_000, concurrency=1)
    found = pgetpy.download_many(files, settings=settings, progress=progress)
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    # What was asked for before that was seen may be late; then all is quiet.
    since = [seen.time - refused_at[0] for seen in server.requests]
    assert not [seconds for seconds in since if 0.7 < seconds < 1.95]
    assert [seconds for seconds in since if seconds > 1.95]


def test_a_retry_after_of_hours_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HttpStatusError) as caught:
        fetch(serve(server, Status(503, retry_after=7200)), tmp_path / "got")
    assert caught.value.retry_after == 7200
    assert len(server.requests) == 1


@CHUNKS
def test_a_server_that_bears_few_connections_is_given_few(
    server: Server, tmp_path: Path, chunk_size: int
) -> None:
    url = serve(server, Pace(2_000_000), Busy(2, 429))
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, retries=5)
    assert (tmp_path / "got").read_bytes() == BODY
    refusals = sum(seen.status == 429 for seen in server.requests)
    assert refusals < 60
    assert result.retries <= refusals


# ------------------------------------------------------------------- checksums and size


ALGORITHMS = ["sha256", "sha1", "md5", "blake2b"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_checksum_is_confirmed(server: Server, tmp_path: Path, algorithm: str) -> None:
    checksum = f"{algorithm}:{hashlib.new(algorithm, BODY).hexdigest()}"
    result = fetch(serve(server), tmp_path / "got", checksum=checksum, chunk_size=SMALL)
    assert result.digest == checksum
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.mark.parametrize("faults", [(), (IgnoreRange(),), (WeakEtag(),)], ids=["", "200", "weak"])
@pytest.mark.parametrize("data", [BODY, BODY[:1000]], ids=len)
def test_a_wrong_checksum_leaves_nothing(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...], data: bytes
) -> None:
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(DigestMismatchError) as caught:
        fetch(serve(server, *faults, data=data), tmp_path / "got", checksum=wrong, chunk_size=SMALL)
    assert caught.value.expected == wrong
    assert caught.value.actual == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert names_in(tmp_path) == []


def test_a_wrong_checksum_leaves_the_file_that_was_to_be_overwritten(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "got").write_bytes(b"precious")
    with pytest.raises(DigestMismatchError):
        fetch(serve(server), tmp_path / "got", checksum=f"md5:{'0' * 32}", force=True)
    assert (tmp_path / "got").read_bytes() == b"precious"
    assert names_in(tmp_path) == ["got"]


@pytest.mark.parametrize(
    "faults",
    [(), (IgnoreRange(),), (IgnoreRange(), Chunked()), (Encoded(),), (Http10(),)],
    ids=["ranges", "length", "chunked", "coded", "HTTP/1.0"],
)
@pytest.mark.parametrize("chunk_size", [SMALL, 125_000_000])
def test_what_is_larger_than_allowed_is_refused(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...], chunk_size: int
) -> None:
    url = serve(server, *faults)
    with pytest.raises(PgetError, match="--max-size"):
        fetch(url, tmp_path / "got", max_size=len(BODY) - 1, chunk_size=chunk_size)
    assert names_in(tmp_path) == []
    result = fetch(url, tmp_path / "got", max_size=len(BODY), chunk_size=chunk_size)
    assert result.size == len(BODY)


def test_an_endless_body_is_cut_off_at_the_size_that_is_allowed(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    # The rest of it would never come.
    url = serve(server, IgnoreRange(), Chunked(), GateAfter(2_000_000, gate))
    with pytest.raises(PgetError, match="--max-size"):
        fetch(url, tmp_path / "got", max_size=1_000_000, stall_timeout=20)
    assert names_in(tmp_path) == []
