"""Odd statuses, ranges, validators and lengths mean the same on every road to a server."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from pgetpy.errors import ConnectionFailedError, PgetError, TransferError
from pgetpy.settings import Proxies
from tests.integration.downloads.conftest import Road, on_roads
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.faults import Garbage, Headers
from tests.support.fetching import extract, fetch, names_in
from tests.support.odd_servers import (
    IF_RANGE,
    LENGTHS,
    RANGED,
    STATUSES,
    SUCCESSES,
    VALIDATORS,
    Oddity,
    OddServer,
)
from tests.support.odd_sockets import served
from tests.support.processes import run
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.tars import file

pytestmark = pytest.mark.usefixtures("forked_runs")

DATA = body(700_001)

# One oddity at a time; the random ones are combined in tests/slow.
ODDITIES = [
    *(Oddity(ranged=how) for how in (*RANGED, *STATUSES)),
    *(Oddity(ranged=how, since=1) for how in ("whole", "malformed", "length", 403, 500)),
    *(Oddity(validators=which) for which in VALIDATORS),
    *(Oddity(if_range=how) for how in IF_RANGE),
    *(Oddity(ranged=how, success=status) for how in ("well", 403) for status in SUCCESSES),
    *(Oddity(lengths=how) for how in LENGTHS),
    # All tries are spent on ranges before the plain GET, whose answer breaks off once.
    Oddity(ranged=501, since=1, breaks=1),
    Oddity(open_end=False),
    Oddity(answers=1),
    Oddity(plain=403),
    Oddity(plain=403, ranged=403),
]


def name(oddity: Oddity) -> str:
    usual = Oddity()
    given = {key: value for key, value in vars(oddity).items() if value != getattr(usual, key)}
    return ", ".join(f"{key} {value}" for key, value in given.items()) or "usual"


@on_roads("oddity", ODDITIES, ids=name)
def test_odd_answers_mean_the_same_on_every_road(
    road: Road, certified: ssl.SSLContext, tmp_path: Path, oddity: Oddity
) -> None:
    # A link that is good for one answer is asked for everything.
    chunk_size = 125_000_000 if oddity.answers else 200_000
    with served(OddServer(DATA, oddity), tls=certified if road.secure else None) as url:
        try:
            fetch(url, tmp_path / "got", chunk_size=chunk_size, retries=2, **road.settings)
        except PgetError:
            assert not oddity.curl_gets_it
            assert names_in(tmp_path) == []
            return
    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.parametrize("status", [201, 203, 299])
@pytest.mark.usefixtures("transport")
def test_other_successes_bring_the_object(server: Server, tmp_path: Path, status: int) -> None:
    """`curl -f` takes them as well."""
    reply = b"HTTP/1.1 %d Sure\r\nContent-Length: %d\r\n\r\n" % (status, len(DATA))
    url = server.add("/model", Resource(DATA, faults=[Garbage(reply + DATA)]))
    fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.parametrize("status", [201, 203, 299])
def test_other_successes_fill_the_cache(server: Server, tmp_path: Path, status: int) -> None:
    reply = b"HTTP/1.1 %d Sure\r\nContent-Length: %d\r\n\r\n" % (status, len(DATA))
    url = server.add("/model", Resource(DATA, faults=[Garbage(reply + DATA)]))
    environment = {"PGET_CACHE_DIR": str(tmp_path), "PGET_MIN_DISK_FREE": "0"}
    ensured = run("ensure", url, env=environment)
    assert ensured.code == 0, ensured.err
    assert Path(ensured.out.strip()).read_bytes() == DATA


@pytest.mark.parametrize("status", [201, 203, 299])
@pytest.mark.usefixtures("transport")
def test_other_successes_bring_archives(server: Server, tmp_path: Path, status: int) -> None:
    archive = file(b"model", DATA) + bytes(1024)
    reply = b"HTTP/1.1 %d Sure\r\n\r\n" % status
    url = server.add("/model.tar", Resource(archive, faults=[Garbage(reply + archive)]))
    extract(url, tmp_path / "got")
    assert (tmp_path / "got" / "model").read_bytes() == DATA


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("status", [202, 204, 205, 300, 304])
def test_successes_without_the_object_are_errors(
    server: Server, tmp_path: Path, status: int
) -> None:
    reply = b"HTTP/1.1 %d Hm\r\nContent-Length: 7\r\n\r\nwaiting" % status
    url = server.add("/model", Resource(DATA, faults=[Garbage(reply)]))
    with pytest.raises(TransferError):
        fetch(url, tmp_path / "got")
    assert names_in(tmp_path) == []


def test_a_redirect_may_have_any_number_from_300_on(server: Server, tmp_path: Path) -> None:
    target = server.add("/model", Resource(DATA))
    for status in (300, 305, 399):
        reply = f"HTTP/1.1 {status} There\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
        url = server.add(f"/{status}", Resource(faults=[Garbage(reply.encode())]))
        fetch(url, tmp_path / str(status))
        assert (tmp_path / str(status)).read_bytes() == DATA


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("joined", [False, True])
def test_lengths_that_differ_are_one_clear_error(
    server: Server, tmp_path: Path, *, joined: bool
) -> None:
    size = len(DATA)
    other = f"{size}, 7" if joined else str(size)
    more = () if joined else (("Content-Length", "7"),)
    fault = Headers(put=(("Content-Length", other),), add=more)
    url = server.add("/model", Resource(DATA, faults=[fault]))
    with pytest.raises(TransferError, match=r"contradictory Content-Length.*7.*proxies") as caught:
        fetch(url, tmp_path / "got")
    assert caught.value.attempts == 1
    assert names_in(tmp_path) == []
    # A plain GET is the last resort, and is not made again.
    assert len(server.requests) <= 2


def test_lengths_of_an_error_page_do_not_hide_its_words(server: Server, tmp_path: Path) -> None:
    fault = Garbage(b"HTTP/1.1 404 Lost\r\nContent-Length: 7, 8\r\n\r\nmoved to the attic")
    url = server.add("/model", Resource(faults=[fault]))
    with pytest.raises(TransferError, match="moved to the attic"):
        fetch(url, tmp_path / "got")


def test_after_answers_that_are_not_http_equal_lengths_are_still_taken(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/bad", Resource(DATA, faults=[Garbage()]))
    for _ in range(4):
        with pytest.raises(ConnectionFailedError):
            fetch(url, tmp_path / "got", retries=1)
    twice = Headers(add=(("Content-Length", str(len(DATA))),))
    fetch(server.add("/model", Resource(DATA, faults=[twice])), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == DATA


# ----------------------------------------------------------------------- proxies asked over TLS


def test_both_kinds_of_url_go_through_a_proxy_over_tls(
    server: Server, tls_server: Server, tls_proxy: Proxy, ca: Authority, tmp_path: Path
) -> None:
    proxies = Proxies(http=tls_proxy.url(), https=tls_proxy.url())
    for origin in (server, tls_server):
        url = origin.add("/model", Resource(DATA))
        fetch(url, tmp_path / "got", force=True, proxies=proxies, cacert=str(ca.pem))
        assert (tmp_path / "got").read_bytes() == DATA
    methods = [passed.method for passed in tls_proxy.requests]
    assert (methods[0], methods[-1]) == ("GET", "CONNECT")


def test_a_proxy_whose_certificate_is_not_trusted_is_named(
    server: Server, tmp_path: Path, ca: Authority
) -> None:
    url = server.add("/model", Resource(DATA))
    with Proxy(tls=ca.context()) as proxy:
        address = proxy.url("me:hunter2secret")
        with pytest.raises(
            ConnectionFailedError, match=r"the proxy https://.*certificate"
        ) as caught:
            fetch(url, tmp_path / "got", proxies=Proxies(http=address))
    assert caught.value.permanent
    assert "hunter2secret" not in str(caught.value)
    assert server.requests == []


def test_a_proxy_that_does_not_speak_tls_is_named(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(DATA))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        proxies = Proxies(http=f"https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ConnectionFailedError, match=r"the proxy https://.*speak TLS"):
            fetch(url, tmp_path / "got", proxies=proxies, retries=0)
    assert server.requests == []


def test_a_proxy_over_tls_that_refuses_is_named(
    tls_server: Server, ca: Authority, tmp_path: Path
) -> None:
    with Proxy(credentials="me:secret", tls=ca.context()) as proxy:
        url = tls_server.add("/model", Resource(DATA))
        proxies = Proxies(https=proxy.url())
        with pytest.raises(TransferError, match="said by the proxy https://127"):
            fetch(url, tmp_path / "got", proxies=proxies, cacert=str(ca.pem))
    assert tls_server.requests == []
