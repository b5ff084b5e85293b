"""TLS, names and addresses: private authorities, refused certificates, --resolve, IPv6."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import pgetpy
from pgetpy.errors import BadSettingError, ConnectionFailedError
from pgetpy.settings import Settings
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.faults import (
    Chunked,
    Fault,
    FinAfter,
    IgnoreRange,
    Redirect,
    ResetAfter,
    SilenceAfter,
    When,
)
from tests.support.fetching import fetch, names_in
from tests.support.marks import ONCE
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport", "forked_runs")

BODY = body(2_500_001)
CHUNK = 250_000


@pytest.fixture
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has signed for nobody we ask."""
    return Authority(tmp_path_factory.mktemp("other"))


def resolved(**names: int) -> MappingProxyType[tuple[str, int], str]:
    """Both example names, with an underscore for the dot, on the loopback."""
    return MappingProxyType(
        {(name.replace("_", "."), port): "127.0.0.1" for name, port in names.items()}
    )


# ------------------------------------------------------------------- trust


@pytest.mark.parametrize("chunk_size", [CHUNK, 1_000_000])
def test_a_private_authority_is_trusted_when_it_is_given(
    tls_server: Server, ca: Authority, tmp_path: Path, chunk_size: int
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    checksum = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
    options = {"cacert": str(ca.pem), "checksum": checksum}
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "strong"


VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(params=["file", "folder", "folder by hashes"])
def authorities(request: pytest.FixtureRequest, ca: Authority, tmp_path: Path) -> Path:
    """The authority that has signed, in each way that one is kept."""
    if request.param == "file":
        return ca.pem
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "README").write_text("no certificate")
    (folder / "ours.pem").write_bytes(ca.pem.read_bytes())
    if request.param == "folder by hashes":
        subprocess.run(["openssl", "rehash", folder], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_variables_of_other_programs_name_the_authorities_too(
    tls_server: Server, tmp_path: Path, authorities: Path, variable: str
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    settings = Settings.from_environment({variable: str(authorities)})
    pgetpy.download(url, tmp_path / "got", settings=settings)
    assert (tmp_path / "got").read_bytes() == BODY


def test_several_folders_stand_beside_a_file(
    tls_server: Server, ca: Authority, other_ca: Authority, tmp_path: Path
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    for name, authority in (("a", other_ca), ("b", ca)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.crt").write_bytes(authority.pem.read_bytes())
    folders = f"{tmp_path / 'a'}:{tmp_path / 'b'}"
    environ = {"SSL_CERT_FILE": str(other_ca.pem), "SSL_CERT_DIR": folders}
    pgetpy.download(url, tmp_path / "got", settings=Settings.from_environment(environ))
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("kind", ["missing", "empty", "an empty folder", "a folder of others"])
def test_a_variable_that_names_no_authorities_is_an_error_that_names_it(
    tls_server: Server, tmp_path: Path, variable: str, kind: str
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    place = tmp_path / "authorities"
    if kind == "empty":
        place.touch()
    elif kind != "missing":
        place.mkdir()
        if kind == "a folder of others":
            (place / "README").write_text("no certificate")
    settings = Settings.from_environment({variable: str(place)})
    with pytest.raises(BadSettingError, match=f"^{variable} .*authorities"):
        pgetpy.download(url, tmp_path / "got", settings=settings)
    assert tls_server.requests == []


@ONCE
def test_the_command_line_takes_an_authority_by_flag_and_by_variable(
    tls_server: Server, ca: Authority, other_ca: Authority, tmp_path: Path
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    ended = run(url, tmp_path / "a", env={"SSL_CERT_FILE": str(ca.pem)})
    assert ended.code == 0, ended.err
    # The flag is nearer than the variable.
    variable = {"SSL_CERT_FILE": str(other_ca.pem)}
    ended = run(url, tmp_path / "b", "--cacert", ca.pem, env=variable)
    assert ended.code == 0, ended.err
    ended = run(url, tmp_path / "c", "-r", "0", env=variable)
    assert ended.code == 1
    assert ended.err.count("certificate") >= 1
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_an_authority_that_has_not_signed_is_one_clear_error(
    tls_server: Server, other_ca: Authority, tmp_path: Path
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    with pytest.raises(ConnectionFailedError, match="certificate was not accepted") as caught:
        fetch(url, tmp_path / "got", cacert=str(other_ca.pem))
    assert "--cacert" in str(caught.value)
    assert "\n" not in str(caught.value)
    # It would be refused again.
    assert caught.value.attempts == 1
    assert tls_server.requests == []
    assert names_in(tmp_path) == []


def test_a_certificate_for_another_name_is_refused(
    tls_server: Server, ca: Authority, tmp_path: Path
) -> None:
    tls_server.add("/model", Resource(BODY))
    url = tls_server.url("/model", host="stranger.example")
    resolve = resolved(stranger_example=tls_server.port)
    with pytest.raises(ConnectionFailedError, match="certificate was not accepted"):
        fetch(url, tmp_path / "got", cacert=str(ca.pem), resolve=resolve, retries=0)
    assert tls_server.requests == []


def test_a_certificate_of_yesterday_is_refused(ca: Authority, tmp_path: Path) -> None:
    past = datetime(2020, 1, 1, tzinfo=timezone.utc)
    with Server(tls=ca.context(not_after=past)) as server:
        url = server.add("/model", Resource(BODY))
        with pytest.raises(ConnectionFailedError, match="expired"):
            fetch(url, tmp_path / "got", cacert=str(ca.pem), retries=0)


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_a_file_without_authorities_is_an_error_that_names_it(
    tls_server: Server, tmp_path: Path, text: str | None
) -> None:
    url = tls_server.add("/model", Resource(BODY))
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadSettingError, match=r"ca\.pem"):
        fetch(url, tmp_path / "got", cacert=str(path))
    assert tls_server.requests == []


def test_http_where_https_was_expected_is_an_error(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY)).replace("http:", "https:")
    with pytest.raises(ConnectionFailedError) as caught:
        fetch(url, tmp_path / "got", retries=1, connect_timeout=0.3)
    assert "\n" not in str(caught.value)
    # What a TLS client says makes no sense to the server.
    server.violations.clear()


def test_https_where_http_was_expected_is_an_error(tls_server: Server, tmp_path: Path) -> None:
    url = tls_server.add("/model", Resource(BODY)).replace("https:", "http:")
    with pytest.raises(ConnectionFailedError):
        fetch(url, tmp_path / "got", retries=1)
    assert tls_server.requests == []


# ------------------------------------------------------------------- faults under TLS


@pytest.mark.parametrize("chunk_size", [CHUNK, 700_000])
@pytest.mark.parametrize(
    "fault",
    [
        ResetAfter(100_000, when=When(request=3)),
        FinAfter(100_000, when=When(request=3)),
        SilenceAfter(100_000, when=When(request=3)),
        IgnoreRange(),
        Chunked(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_what_goes_wrong_under_tls_is_mended_as_elsewhere(
    tls_server: Server, ca: Authority, tmp_path: Path, fault: Fault, chunk_size: int
) -> None:
    url = tls_server.add("/model", Resource(BODY, faults=[fault]))
    options = {"cacert": str(ca.pem), "stall_timeout": 0.5}
    fetch(url, tmp_path / "got", chunk_size=chunk_size, **options)
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_redirect_from_http_to_https_is_followed(
    server: Server, tls_server: Server, ca: Authority, tmp_path: Path
) -> None:
    target = tls_server.add("/model", Resource(BODY))
    url = server.add("/start", Resource(faults=[Redirect(target)]))
    fetch(url, tmp_path / "got", cacert=str(ca.pem))
    assert (tmp_path / "got").read_bytes() == BODY


# ------------------------------------------------------------------- names and addresses


def test_resolve_says_where_a_name_is(server: Server, tmp_path: Path) -> None:
    server.add("/model", Resource(BODY))
    url = server.url("/model", host="weights.example")
    fetch(url, tmp_path / "got", resolve=resolved(weights_example=server.port), chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    hosts = {seen.header("Host") for seen in server.requests}
    assert hosts == {f"weights.example:{server.port}"}


def test_resolve_holds_for_one_port_of_a_name(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    other_server.add("/model", Resource(BODY))
    target = other_server.url("/model", host="weights.example")
    server.add("/start", Resource(faults=[Redirect(target)]))
    resolve = MappingProxyType(
        {
            ("weights.example", server.port): "127.0.0.1",
            ("weights.example", other_server.port): "127.0.0.1",
            ("weights.example", 1): "192.0.2.1",
        }
    )
    fetch(server.url("/start", host="weights.example"), tmp_path / "got", resolve=resolve)
    assert (tmp_path / "got").read_bytes() == BODY


def test_resolve_keeps_the_name_that_the_certificate_must_have(
    tls_server: Server, ca: Authority, tmp_path: Path
) -> None:
    tls_server.add("/model", Resource(BODY))
    url = tls_server.url("/model", host="weights.example")
    resolve = resolved(weights_example=tls_server.port)
    fetch(url, tmp_path / "got", resolve=resolve, cacert=str(ca.pem))
    assert (tmp_path / "got").read_bytes() == BODY


@ONCE
def test_the_command_line_takes_several_resolve_flags(server: Server, tmp_path: Path) -> None:
    server.add("/model", Resource(BODY))
    flags = [
        f"--resolve=nowhere.example:{server.port}:192.0.2.1",
        f"--resolve=weights.example:{server.port}:127.0.0.1",
    ]
    ended = run(*flags, server.url("/model", host="weights.example"), tmp_path / "got")
    assert ended.code == 0, ended.err
    assert (tmp_path / "got").read_bytes() == BODY


@pytest.fixture
def ipv6_server() -> Iterator[Server]:
    try:
        server = Server(ipv6=True)
        server.start()
    except OSError:
        pytest.skip("there is no IPv6 here")
    yield server
    server.stop()
    assert server.violations == []


def test_an_ipv6_address_is_a_host(ipv6_server: Server, tmp_path: Path) -> None:
    ipv6_server.add("/model", Resource(BODY))
    fetch(ipv6_server.url("/model", host="[::1]"), tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert {seen.header("Host") for seen in ipv6_server.requests} == {f"[::1]:{ipv6_server.port}"}


def test_an_address_that_does_not_answer_gives_way_to_the_next(
    server: Server, tmp_path: Path
) -> None:
    # localhost is ::1 first where there is IPv6, and the server is on 127.0.0.1 alone.
    server.add("/model", Resource(BODY))
    fetch(server.url("/model", host="localhost"), tmp_path / "got", retries=0)
    assert (tmp_path / "got").read_bytes() == BODY


def test_a_host_that_never_answers_ends_with_the_connect_timeout(tmp_path: Path) -> None:
    # A full backlog: the kernel lets nobody in any more.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        options: dict[str, Any] = {"connect_timeout": 0.3, "retries": 1, "stall_timeout": 20}
        with pytest.raises(ConnectionFailedError, match="no answer within the connect timeout"):
            fetch(f"http://127.0.0.1:{address[1]}/", tmp_path / "got", **options)
        for one in waiting:
            one.close()


def test_a_handshake_that_never_ends_is_bounded_too(tmp_path: Path, ca: Authority) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(5)
        url = f"https://127.0.0.1:{mute.getsockname()[1]}/"
        options: dict[str, Any] = {"connect_timeout": 0.3, "retries": 0, "stall_timeout": 20}
        with pytest.raises(ConnectionFailedError, match="connect timeout"):
            fetch(url, tmp_path / "got", cacert=str(ca.pem), **options)


def test_a_server_that_stops_in_the_middle_and_comes_back_is_waited_for(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY, faults=[SilenceAfter(100_000, when=When(request=3))]))

    def restart() -> None:
        server.wait_until(lambda: len(server.requests) >= 3)
        server.stop()
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    fetch(url, tmp_path / "got", chunk_size=CHUNK, concurrency=1, retries=20)
    thread.join(30)
    assert (tmp_path / "got").read_bytes() == BODY
