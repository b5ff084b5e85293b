"""Redirects: followed once for a file, never in circles, and again when a signed target expires."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgetpy.core.report.events import StartedOver
from pgetpy.errors import ConnectionFailedError, HttpStatusError, TransferError
from tests.support.bodies import body
from tests.support.faults import (
    IgnoreRange,
    Pace,
    Redirect,
    Replaced,
    RequireSignature,
    Signer,
    Status,
    When,
    at_least,
)
from tests.support.fetching import Events, fetch, names_in
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport")

BODY = body(2_500_001)
CHUNK = 150_000


def lead(server: Server, to: str, path: str = "/start", status: int = 302) -> str:
    """A URL that redirects to `to`."""
    return server.add(path, Resource(faults=[Redirect(to, status)]))


# ------------------------------------------------------------------- one way


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_once_and_its_target_asked_for_all_the_rest(
    server: Server, other_server: Server, tmp_path: Path, status: int
) -> None:
    target = other_server.add("/model", Resource(BODY))
    result = fetch(lead(server, target, status=status), tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.url == server.url("/start")
    assert result.final_url == target
    assert len(server.requests) == 1
    assert len(other_server.requests) > 10
    assert result.retries == 0


@pytest.mark.parametrize(
    ("location", "path", "query"),
    [
        ("/a/model", "/a/model", ""),
        ("model", "/deep/model", ""),
        ("../up/model", "/up/model", ""),
        ("?v=2", "/deep/start", "v=2"),
        ("//{host}/a/model", "/a/model", ""),
        ("/a%20b/m%2Fodel?x=%26", "/a%20b/m%2Fodel", "x=%26"),
        ("/a b/model", "/a%20b/model", ""),
        ("/a/model#part", "/a/model", ""),
        # What a server writes in UTF-8 is a path in UTF-8.
        ("/m\u00c3\u00b6del", "/m%C3%B6del", ""),
    ],
)
def test_a_relative_location_is_taken_from_where_it_was_said(
    server: Server, tmp_path: Path, location: str, path: str, query: str
) -> None:
    faults = [Redirect(location.format(host=f"127.0.0.1:{server.port}"), when=When(request=1))]
    start = server.add("/deep/start", Resource(BODY, faults=faults))
    if path != "/deep/start":
        server.add(path, Resource(BODY))
    fetch(start, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    last = server.requests[-1]
    assert (last.path, last.request.query) == (path, query)


def test_a_chain_is_followed_to_its_end(server: Server, tmp_path: Path) -> None:
    server.add("/10", Resource(BODY))
    for step in range(10):
        lead(server, f"/{step + 1}", f"/{step}", 302)
    result = fetch(server.url("/0"), tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.final_url == server.url("/10")
    assert [len(server.seen(f"/{step}")) for step in range(10)] == [1] * 10


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_is_an_error(server: Server, tmp_path: Path, length: int) -> None:
    for step in range(length):
        lead(server, f"/{(step + 1) % length}", f"/{step}")
    with pytest.raises(TransferError, match="redirects"):
        fetch(server.url("/0"), tmp_path / "got")
    assert len(server.requests) <= 20
    assert names_in(tmp_path) == []


def test_a_redirect_to_nowhere_is_the_servers_refusal(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HttpStatusError) as caught:
        fetch(server.add("/start", Resource(faults=[Status(302, "lost")])), tmp_path / "got")
    assert caught.value.status == 302
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "location", ["ftp://host/file", "file:///etc/passwd", "http://[::1/x", "http://a:x/"]
)
def test_a_redirect_to_what_cannot_be_asked_is_an_error(
    server: Server, tmp_path: Path, location: str
) -> None:
    with pytest.raises(TransferError, match="redirected to a URL that cannot be used"):
        fetch(lead(server, location), tmp_path / "got")
    assert names_in(tmp_path) == []


def test_a_redirect_to_a_server_that_is_gone_names_that_one(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    target = other_server.url("/model")
    other_server.stop()
    with pytest.raises(ConnectionFailedError, match=f"127.0.0.1:{other_server.port}"):
        fetch(lead(server, target), tmp_path / "got", retries=1)


def test_a_file_is_named_by_its_own_url_and_not_by_that_of_the_target(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    target = other_server.add("/blobs/1234abcd", Resource(BODY))
    fetch(lead(server, target, "/model.safetensors"), tmp_path)
    assert names_in(tmp_path) == ["model.safetensors"]


def test_a_target_that_moves_on_mid_way_is_followed(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    elsewhere = other_server.add("/model", Resource(BODY))
    moved = Redirect(elsewhere, when=When(request=at_least(4)))
    url = server.add("/model", Resource(BODY, faults=[moved]))
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.final_url == elsewhere


def test_a_redirect_of_a_server_without_ranges(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    target = other_server.add("/model", Resource(BODY, faults=[IgnoreRange()]))
    fetch(lead(server, target), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY


# ------------------------------------------------------------------- signed targets


def signed(
    server: Server, other_server: Server, signer: Signer, status: int = 403, *faults: Pace
) -> str:
    """A URL that redirects to newly signed ones, which expire."""
    require = RequireSignature(signer, status)
    target = other_server.add("/blob", Resource(BODY, faults=[require, *faults]))
    return server.add("/start", Resource(faults=[Redirect(target, signer=signer)]))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
@pytest.mark.parametrize("concurrency", [1, None])
def test_a_signed_target_that_expires_is_resolved_anew_and_goes_on_from_the_same_byte(
    server: Server, other_server: Server, tmp_path: Path, status: int, concurrency: int | None
) -> None:
    url = signed(server, other_server, Signer(requests=4), status)
    events = Events()
    result = fetch(
        url, tmp_path / "got", chunk_size=CHUNK, concurrency=concurrency, progress=events
    )
    assert (tmp_path / "got").read_bytes() == BODY
    assert len(server.requests) >= 2
    assert events.of(StartedOver) == []
    assert "signature-" not in result.final_url
    assert "X-Amz-Signature=***" in result.final_url
    if concurrency == 1:
        # 17 ranges, four to a signature; no byte twice.
        assert len(server.requests) == 5
        parts = [seen.sent for seen in other_server.requests if seen.status == 206]
        assert sum(parts) == len(BODY)


def test_a_signed_target_that_expires_while_connections_are_busy_is_no_dead_end(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = signed(server, other_server, Signer(requests=6), 403, Pace(1_000_000))
    fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_target_that_expires_again_before_a_byte_has_come_is_an_error(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = signed(server, other_server, Signer(requests=0))
    with pytest.raises(HttpStatusError, match="Request has expired") as caught:
        fetch(url, tmp_path / "got")
    assert caught.value.status == 403
    assert "signature-" not in str(caught.value)
    assert len(server.requests) == 2
    assert names_in(tmp_path) == []


def test_a_refusal_of_the_url_itself_is_not_taken_for_a_signature_that_expired(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(HttpStatusError):
        fetch(server.add("/start", Resource(faults=[Status(403)])), tmp_path / "got")
    assert [seen.asked for seen in server.requests] == [(0, None), None]


def test_another_version_behind_the_new_signature_is_begun_from_0(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    other = body(2_500_001, "v2")
    signer = Signer(requests=4)
    url = signed(server, other_server, signer)
    replaced = Replaced(other, '"v2"', when=When(request=at_least(6)))
    other_server.change("/blob", faults=[RequireSignature(signer), replaced])
    fetch(url, tmp_path / "got", chunk_size=CHUNK, concurrency=1)
    assert (tmp_path / "got").read_bytes() == other


def test_the_new_target_may_be_on_another_host(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    first = server.add(
        "/first", Resource(BODY, faults=[Status(403, when=When(request=at_least(4)))])
    )
    second = other_server.add("/second", Resource(BODY))
    faults = [Redirect(first, when=When(request=1)), Redirect(second)]
    result = fetch(
        server.add("/start", Resource(faults=faults[::-1])), tmp_path / "got", chunk_size=CHUNK
    )
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.final_url == second
