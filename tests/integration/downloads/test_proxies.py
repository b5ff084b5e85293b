"""Proxies of the environment: absolute form for http, CONNECT for https, credentials, NO_PROXY."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgetpy
from pgetpy.errors import BadSettingError, ConnectionFailedError, HttpStatusError, PgetError
from pgetpy.settings import Proxies, Settings
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.faults import (
    FinAfter,
    IgnoreRange,
    Redirect,
    Replaced,
    ResetAfter,
    When,
    at_least,
)
from tests.support.fetching import Events, fetch, impatient, names_in
from tests.support.processes import run
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.secrets import PASSWORD as SECRET
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(2_500_001)
CHUNK = 250_000


@pytest.fixture
def guarded_proxy() -> Iterator[Proxy]:
    """A proxy that asks for credentials."""
    with Proxy(credentials=f"me:{SECRET}") as proxy:
        yield proxy
    assert proxy.violations == []
    assert proxy.errors == []


def through(proxy: Proxy, *no_proxy: str, user: str = "") -> Proxies:
    url = proxy.url(user)
    return Proxies(http=url, https=url, no_proxy=no_proxy)


def test_http_goes_to_the_proxy_in_absolute_form(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY))
    result = fetch(f"{url}?v=1", tmp_path / "got", chunk_size=CHUNK, proxies=through(proxy))
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "strong"
    assert {passed.target for passed in proxy.requests} == {f"{url}?v=1"}
    assert {passed.method for passed in proxy.requests} == {"GET"}
    assert {seen.header("If-Range") for seen in server.requests[1:]} == {'"v1"'}


def test_https_goes_through_a_tunnel(
    tls_server: Server, proxy: Proxy, ca: Authority, tmp_path: Path
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    options = {"proxies": through(proxy), "cacert": str(ca.pem)}
    fetch(url, tmp_path / "got", chunk_size=CHUNK, headers={"X-Key": SECRET}, **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert {passed.method for passed in proxy.requests} == {"CONNECT"}
    assert {passed.target for passed in proxy.requests} == {f"127.0.0.1:{tls_server.port}"}
    assert SECRET not in repr(proxy.requests)
    assert {seen.header("X-Key") for seen in tls_server.requests} == {SECRET}


def test_a_name_that_only_the_proxy_knows_is_resolved_there(
    server: Server, tls_server: Server, proxy: Proxy, ca: Authority, tmp_path: Path
) -> None:
    proxy.names = {
        "weights.example": ("127.0.0.1", server.port),
        "store.example": ("127.0.0.1", tls_server.port),
    }
    server.add("/model", Resource(BODY))
    tls_server.add("/model", Resource(BODY))
    options = {"proxies": through(proxy), "cacert": str(ca.pem)}
    for name, url in [("a", "http://weights.example/model"), ("b", "https://store.example/model")]:
        fetch(url, tmp_path / name, **options)
        assert (tmp_path / name).read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_user_and_password_of_a_proxy_are_sent_to_it_alone(
    server: Server,
    tls_server: Server,
    guarded_proxy: Proxy,
    ca: Authority,
    tmp_path: Path,
    scheme: str,
) -> None:
    origin = server if scheme == "http" else tls_server
    url = origin.add("/model", Resource(BODY))
    events = Events()
    options = {"proxies": through(guarded_proxy, user=f"me:{SECRET}"), "cacert": str(ca.pem)}
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK, progress=events, **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert guarded_proxy.refused == 0
    secret = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert secret not in repr([seen.request for seen in origin.requests])
    assert SECRET not in repr(events.all) + repr(result)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("user", ["", f"you:{SECRET}"])
def test_a_proxy_that_refuses_is_one_clear_error_at_once(
    server: Server,
    tls_server: Server,
    guarded_proxy: Proxy,
    ca: Authority,
    tmp_path: Path,
    scheme: str,
    user: str,
) -> None:
    origin = server if scheme == "http" else tls_server
    url = origin.add("/model", Resource(BODY))
    options = {"proxies": through(guarded_proxy, user=user), "cacert": str(ca.pem)}
    with pytest.raises(HttpStatusError, match=r"407 .*HTTPS?_PROXY") as caught:
        fetch(url, tmp_path / "got", **options)
    assert caught.value.status == 407
    assert caught.value.attempts == 1
    assert guarded_proxy.refused == 1
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert origin.requests == []
    assert names_in(tmp_path) == []


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY))
    server_url = server.url("").removeprefix("http://")
    server.stop()
    gone = Proxies(http=f"http://me:{SECRET}@{server_url}")
    with pytest.raises(ConnectionFailedError, match="refused") as caught:
        fetch(url, tmp_path / "got", proxies=gone, retries=1)
    assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "entry", ["127.0.0.1", "127.0.0.0/8", "*", "127.0.0.1:{port}", "unrelated,127.0.0.1"]
)
def test_no_proxy_names_the_hosts_that_are_asked_directly(
    server: Server, proxy: Proxy, tmp_path: Path, entry: str
) -> None:
    url = server.add("/model", Resource(BODY))
    entries = entry.format(port=server.port)
    settings = Settings.from_environment({"HTTP_PROXY": proxy.url(), "NO_PROXY": entries})
    pgetpy.download(url, tmp_path / "got", settings=settings)
    assert (tmp_path / "got").read_bytes() == BODY
    assert proxy.requests == []


@pytest.mark.parametrize("entry", ["127.0.0.1:1", "10.0.0.0/8", "example", ""])
def test_other_entries_of_no_proxy_change_nothing(
    server: Server, proxy: Proxy, tmp_path: Path, entry: str
) -> None:
    url = server.add("/model", Resource(BODY))
    settings = Settings.from_environment({"HTTP_PROXY": proxy.url(), "NO_PROXY": entry})
    pgetpy.download(url, tmp_path / "got", settings=settings)
    assert proxy.requests


def test_a_redirect_leaves_the_proxy_where_the_next_host_needs_none(
    server: Server, other_server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    target = other_server.add("/model", Resource(BODY))
    url = server.add("/start", Resource(faults=[Redirect(target)]))
    proxies = through(proxy, f"127.0.0.1:{other_server.port}")
    fetch(url, tmp_path / "got", proxies=proxies, headers={"Authorization": SECRET})
    assert (tmp_path / "got").read_bytes() == BODY
    assert {passed.port for passed in proxy.requests} == {server.port}
    assert {seen.header("Authorization") for seen in other_server.requests} == {None}


def test_a_redirect_enters_the_proxy_where_the_next_host_needs_it(
    server: Server, tls_server: Server, proxy: Proxy, ca: Authority, tmp_path: Path
) -> None:
    target = tls_server.add("/model", Resource(BODY))
    url = server.add("/start", Resource(faults=[Redirect(target)]))
    options = {"proxies": Proxies(https=proxy.url()), "cacert": str(ca.pem)}
    fetch(url, tmp_path / "got", chunk_size=CHUNK, **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert {passed.method for passed in proxy.requests} == {"CONNECT"}


@pytest.mark.parametrize("fault", [ResetAfter(100_000, when=When(times=2)), IgnoreRange()])
def test_what_goes_wrong_behind_a_proxy_is_mended_as_elsewhere(
    server: Server, proxy: Proxy, tmp_path: Path, fault: ResetAfter | IgnoreRange
) -> None:
    url = server.add("/model", Resource(BODY, faults=[fault]))
    fetch(url, tmp_path / "got", chunk_size=CHUNK, proxies=through(proxy))
    assert (tmp_path / "got").read_bytes() == BODY


def test_another_version_behind_a_proxy_is_no_mix(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    other = body(2_500_001, "v2")
    replaced = Replaced(other, '"v2"', when=When(request=at_least(4)))
    url = server.add("/model", Resource(BODY, faults=[replaced, FinAfter(99, when=When(times=1))]))
    checksum = f"sha256:{hashlib.sha256(other).hexdigest()}"
    fetch(url, tmp_path / "got", chunk_size=CHUNK, proxies=through(proxy), checksum=checksum)
    assert (tmp_path / "got").read_bytes() == other


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_the_command_line_heeds_the_variables(
    server: Server, proxy: Proxy, tmp_path: Path, name: str
) -> None:
    url = server.add("/model", Resource(BODY))
    # As curl has it, a proxy without a scheme is an http one.
    ended = run(url, tmp_path / "got", env={name: proxy.url().removeprefix("http://")})
    assert ended.code == 0, ended.err
    assert (tmp_path / "got").read_bytes() == BODY
    assert proxy.requests


@pytest.mark.parametrize("proxy_url", ["socks5://h:1", "http://", "http://h:port", "http://[::1"])
def test_a_proxy_that_makes_no_sense_is_an_error_before_anything_is_asked(
    server: Server, tmp_path: Path, proxy_url: str
) -> None:
    url = server.add("/model", Resource(BODY))
    with pytest.raises(BadSettingError, match="HTTP_PROXY"):
        Settings.from_environment({"HTTP_PROXY": proxy_url})
    with pytest.raises(PgetError, match="PROXY"):
        fetch(url, tmp_path / "got", proxies=Proxies(http=proxy_url))
    assert server.requests == []
    assert names_in(tmp_path) == []


def test_many_files_share_the_proxy(server: Server, proxy: Proxy, tmp_path: Path) -> None:
    files = []
    for number in range(12):
        url = server.add(f"/{number}", Resource(body(20_000, str(number))))
        files.append((url, tmp_path / str(number)))
    found = pgetpy.download_many(files, settings=impatient(proxies=through(proxy)))
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    for number in range(12):
        assert (tmp_path / str(number)).read_bytes() == body(20_000, str(number))
