"""Cookies that a chain of redirects sets are sent on in it, to their host, and shown nowhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgetpy.errors import HttpStatusError, TransferError
from tests.support.bodies import body
from tests.support.faults import Exchange, Fault, Redirect, Signer
from tests.support.faults.refusals import RequireSignature
from tests.support.fetching import Events, fetch
from tests.support.resources import Answer, Resource, plain
from tests.support.secrets import COOKIE as SECRET
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport")

BODY = body(1_500_001)
COOKIE = f"k={SECRET}; Path=/; Expires=Wed, 21 Oct 2099 07:28:00 GMT"


@dataclass(frozen=True)
class SetCookies(Fault):
    """Leads to `to`, with cookies, whoever lacks the one that the object is behind."""

    to: str = "/model"
    fields: tuple[str, ...] = (COOKIE,)

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if f"k={SECRET}" in (exchange.request.header("Cookie") or ""):
            return answer
        fields = tuple(("Set-Cookie", field) for field in self.fields)
        return plain(302, "elsewhere\n", ("Location", self.to), *fields)


@dataclass(frozen=True)
class Echo(Fault):
    """A refusal that repeats the request."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return plain(403, f"you sent {exchange.request.header('Cookie')}\n")


def cookies_seen(server: Server) -> list[str | None]:
    return [seen.header("Cookie") for seen in server.requests]


def test_a_cookie_is_sent_with_all_that_follows(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY, faults=[SetCookies(fields=("first=1", COOKIE))]))
    fetch(url, tmp_path / "got", chunk_size=200_000)
    assert (tmp_path / "got").read_bytes() == BODY
    first, *others = cookies_seen(server)
    assert first is None
    assert set(others) == {f"first=1; k={SECRET}"}
    assert len(others) > 5


def test_it_goes_to_no_other_host(server: Server, other_server: Server, tmp_path: Path) -> None:
    target = other_server.add("/model", Resource(BODY)).replace("127.0.0.1", "localhost")
    url = server.add("/start", Resource(faults=[SetCookies(target)]))
    fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert set(cookies_seen(other_server)) == {None}


def test_a_cookie_of_the_callers_is_kept(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY, faults=[SetCookies()]))
    fetch(url, tmp_path / "got", headers={"cookie": "own=1; k=old"})
    first, *others = cookies_seen(server)
    assert first == "own=1; k=old"
    assert set(others) == {f"own=1; k={SECRET}"}


def test_the_next_transfer_begins_without(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY, faults=[SetCookies()]))
    for name in ("a", "b"):
        fetch(url, tmp_path / name, chunk_size=len(BODY))
    assert cookies_seen(server).count(None) == 2


def test_a_signed_target_that_expires_is_looked_for_with_new_cookies(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    signer = Signer(requests=3)
    target = other_server.add("/model", Resource(BODY, faults=[RequireSignature(signer)]))
    faults = [Redirect(target, signer=signer), SetCookies("/start")]
    url = server.add("/start", Resource(faults=faults))
    fetch(url, tmp_path / "got", chunk_size=200_000)
    assert (tmp_path / "got").read_bytes() == BODY
    assert set(cookies_seen(server)) == {None, f"k={SECRET}"}


def test_no_log_event_or_error_shows_it(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.add("/model", Resource(BODY, faults=[Echo()]))
    url = server.add("/start", Resource(faults=[SetCookies()]))
    events = Events()
    with pytest.raises(HttpStatusError, match="you sent") as caught:
        fetch(url, tmp_path / "got", progress=events)
    assert caught.value.status == 403
    shown = f"{caught.value} {caught.value!r} {vars(caught.value)} {events.all} {caplog.text}"
    assert SECRET not in shown


def test_a_redirect_that_no_cookie_ends_is_an_error(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY, faults=[SetCookies(fields=("other=1",))]))
    with pytest.raises(TransferError, match="redirects"):
        fetch(url, tmp_path / "got")
    assert len(server.requests) <= 12
