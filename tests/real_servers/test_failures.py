"""What cannot be reached: one sentence each that says what is wrong, and what to try."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pgetpy.errors import ConnectionFailedError, HttpStatusError, PgetError, TransferError
from pgetpy.settings import Proxies
from tests.support import judges
from tests.support.authority import Authority
from tests.support.fetching import fetch, names_in
from tests.support.judges import Judge, free_port, require_judge
from tests.support.processes import environment
from tests.support.secrets import PASSWORD as SECRET
from tests.support.waiting import eventually

OPENSSL = pytest.mark.judge("openssl")
NGINX = pytest.mark.judge("nginx")
APART = pytest.mark.judge("unshare")
LONG = timedelta(days=400)
NOW = datetime.now(timezone.utc)


@contextlib.contextmanager
def openssl(authority: Authority, folder: Path, **changes: Any) -> Iterator[int]:
    """openssl s_server with a certificate by `authority`; its port."""
    chain, key = authority.files(folder, **changes)
    port = free_port()
    command = [require_judge("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-WWW",
               "-cert", chain, "-cert_chain", chain, "-key", key, "-quiet"]  # fmt: skip
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _listens(port), 30, "openssl")
            yield port
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A proxy that says `reply` to everyone; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client, contextlib.suppress(OSError):
                        while b"\r\n\r\n" not in client.recv(65536):
                            pass
                        client.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def sentence(url: str, folder: Path, kind: type[PgetError], **options: Any) -> str:
    """The error that a download of `url` ends with, having made sure that it is one of a kind."""
    with pytest.raises(kind) as caught:
        fetch(url, folder / "got", **{"retries": 0, **options})
    text = str(caught.value)
    assert "\n" not in text
    assert "Errno" not in text
    assert " for for " not in text
    assert SECRET not in text + repr(caught.value)
    assert names_in(folder) == []
    return text


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    return folder


# ------------------------------------------------------------------- certificates


@OPENSSL
@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("host", ["127.0.0.1", "stranger.example"])
def test_a_certificate_for_another_name_says_for_which(
    ca: Authority, place: Path, empty: Path, host: str
) -> None:
    with openssl(ca, place, names=("weights.example", "*.store.example", "192.0.2.7")) as port:
        resolve = MappingProxyType({("stranger.example", port): "127.0.0.1"})
        url = f"https://{host}:{port}/x"
        said = sentence(url, empty, ConnectionFailedError, cacert=str(ca.pem), resolve=resolve)
    for part in ("weights.example", "*.store.example", "192.0.2.7", f"not {host}, for"):
        assert part in said
    assert "--cacert" not in said


@OPENSSL
@pytest.mark.usefixtures("transport")
def test_an_unknown_authority_says_how_to_trust_it(
    ca: Authority, place: Path, empty: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Authority(tmp_path_factory.mktemp("other"))
    with openssl(ca, place) as port:
        url = f"https://127.0.0.1:{port}/x"
        said = sentence(url, empty, ConnectionFailedError, cacert=str(other.pem))
    assert "authority" in said
    assert "--cacert or SSL_CERT_FILE" in said


@OPENSSL
@pytest.mark.usefixtures("transport")
def test_a_certificate_of_tomorrow_says_to_look_at_the_clock(
    ca: Authority, place: Path, empty: Path
) -> None:
    times = {"not_before": NOW + LONG, "not_after": NOW + 2 * LONG}
    with openssl(ca, place, **times) as port:
        url = f"https://127.0.0.1:{port}/x"
        said = sentence(url, empty, ConnectionFailedError, cacert=str(ca.pem))
    assert "not yet valid" in said
    assert "clock" in said
    assert "--cacert" not in said


@OPENSSL
@pytest.mark.usefixtures("transport")
def test_a_certificate_that_has_expired_says_so(ca: Authority, place: Path, empty: Path) -> None:
    times = {"not_before": NOW - 2 * LONG, "not_after": NOW - LONG}
    with openssl(ca, place, **times) as port:
        url = f"https://127.0.0.1:{port}/x"
        said = sentence(url, empty, ConnectionFailedError, cacert=str(ca.pem))
    assert "has expired" in said
    assert "--cacert" not in said


@NGINX
@pytest.mark.usefixtures("transport")
def test_a_server_without_tls_says_so(nginx: Judge, empty: Path) -> None:
    url = nginx.url("x").replace("http:", "https:")
    said = sentence(url, empty, ConnectionFailedError)
    assert "does not speak TLS" in said
    assert "http://" in said


@NGINX
@pytest.mark.usefixtures("transport")
def test_a_server_that_wants_tls_says_so_itself(tls_nginx: Judge, empty: Path) -> None:
    url = tls_nginx.url("x").replace("https:", "http:")
    said = sentence(url, empty, HttpStatusError)
    assert "plain HTTP request was sent to HTTPS port" in said


# ------------------------------------------------------------------- proxies


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("status", "words", "try_this"),
    [
        (407, "Proxy Authentication Required", "user and password in HTTP_PROXY"),
        (403, "Forbidden by policy", "NO_PROXY"),
        (503, "Busy", "in trouble"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    empty: Path, scheme: str, status: int, words: str, try_this: str
) -> None:
    if scheme == "http" and status != 407:
        pytest.skip("nobody can tell it from the server's own answer")
    reply = f"HTTP/1.1 {status} {words}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(reply.encode()) as port:
        proxy = f"http://me:{SECRET}@127.0.0.1:{port}"
        proxies = Proxies(http=proxy, https=proxy)
        url = f"{scheme}://weights.example/x"
        said = sentence(url, empty, HttpStatusError, proxies=proxies)
    for part in (f"proxy http://***@127.0.0.1:{port}", str(status), words, try_this):
        assert part in said


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_named(empty: Path, scheme: str) -> None:
    proxy = f"http://me:{SECRET}@127.0.0.1:{free_port()}"
    url = f"{scheme}://weights.example/x"
    proxies = Proxies(http=proxy, https=proxy)
    said = sentence(url, empty, ConnectionFailedError, proxies=proxies)
    assert f"the proxy {proxy.replace(f'me:{SECRET}', '***')} cannot be reached" in said
    assert "refused" in said
    assert "NO_PROXY" in said


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("reply", [b"", b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_proxy_that_talks_nonsense_is_an_error(empty: Path, reply: bytes) -> None:
    with answering(reply) as port:
        proxies = Proxies(https=f"http://127.0.0.1:{port}")
        sentence("https://weights.example/x", empty, TransferError, proxies=proxies)


@OPENSSL
@pytest.mark.usefixtures("transport")
def test_a_certificate_for_another_name_behind_a_proxy_says_for_which(
    ca: Authority, place: Path, empty: Path, proxy: Any
) -> None:
    with openssl(ca, place, names=("weights.example",)) as port:
        options = {"proxies": Proxies(https=proxy.url()), "cacert": str(ca.pem)}
        said = sentence(f"https://127.0.0.1:{port}/x", empty, ConnectionFailedError, **options)
    assert "it names weights.example, not 127.0.0.1," in said


# ------------------------------------------------------------------- networks


@pytest.mark.usefixtures("transport")
def test_a_port_that_refuses_says_what_to_check(empty: Path) -> None:
    said = sentence(f"http://127.0.0.1:{free_port()}/x", empty, ConnectionFailedError)
    assert "connection refused" in said
    assert "check the host and the port" in said


def apart(url: str, folder: Path) -> str:
    """What the command line says of `url` on a machine without any network."""
    shell = f"ip link set lo up; exec {sys.executable} -m pgetpy -r 0 '{url}' {folder / 'got'}"
    command = [require_judge("unshare"), "-rn", "sh", "-c", shell]
    ended = subprocess.run(
        command, env=environment({}), capture_output=True, text=True, timeout=60, check=False
    )
    if "unshare" in ended.stderr:
        pytest.skip("this system gives nobody a network of his own")
    assert ended.returncode == 1
    assert len(ended.stderr.strip().splitlines()) == 1
    return ended.stderr


@APART
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_without_any_network_says_that_there_is_none(empty: Path, scheme: str) -> None:
    said = apart(f"{scheme}://weights.example/x", empty)
    assert "this machine has no network" in said


@APART
def test_an_address_without_any_network_says_what_to_check(empty: Path) -> None:
    said = apart("http://192.0.2.1/x", empty)
    assert "network is unreachable" in said
    assert "check this machine's network" in said


@APART
def test_an_ipv6_address_without_ipv6_says_so(empty: Path) -> None:
    said = apart("http://[2001:db8::1]/x", empty)
    assert "IPv6" in said
    assert "proxy" in said


@pytest.mark.usefixtures("transport")
def test_a_name_that_does_not_exist_is_named(empty: Path) -> None:
    said = sentence("http://no-such-host.invalid/x", empty, ConnectionFailedError)
    assert "host no-such-host.invalid cannot be resolved" in said
    said = sentence(
        "http://weights.example/x",
        empty,
        ConnectionFailedError,
        proxies=Proxies(http="http://no-such-proxy.invalid:3128"),
    )
    assert "the proxy no-such-proxy.invalid cannot be resolved" in said


# ------------------------------------------------------------------- words of the server


@NGINX
@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(
    ("status", "words", "try_this"),
    [
        (401, "Authorization Required", "credentials"),
        (403, "Forbidden", "credentials"),
        (404, "Not Found", "check the URL"),
        (410, "Gone", "gone"),
    ],
)
def test_a_refusal_is_said_in_the_server_s_own_words(
    empty: Path, tmp_path_factory: pytest.TempPathFactory, status: int, words: str, try_this: str
) -> None:
    with judges.nginx(extra=f"location = /no {{ return {status}; }}") as judge:
        said = sentence(judge.url("no"), empty, HttpStatusError)
    for part in (str(status), words, "nginx", try_this):
        assert part in said
