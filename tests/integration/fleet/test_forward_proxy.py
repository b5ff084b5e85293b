"""What docs/how-to/cache-nodes.md says to set for Dragonfly's daemon, tried with a forward proxy.

The daemon answers for https hosts itself, with certificates that its authority has signed. Here the
proxy leads the host's name to a server with such a certificate, which is the same to a client.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.processes import run
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.server import Server

DATA = body(3_000_000)


def test_https_goes_through_a_daemon_whose_certificates_are_trusted(
    ca: Authority, tmp_path: Path
) -> None:
    with Server(ca.context()) as daemon:
        daemon.add("/x", Resource(DATA))
        with Proxy(names={"weights.example": (daemon.host, daemon.port)}) as proxy:
            env = {"HTTPS_PROXY": proxy.url(), "HTTP_PROXY": proxy.url(), "NO_PROXY": "localhost"}
            url, dest = f"https://weights.example:{daemon.port}/x", tmp_path / "x"
            refused = run(url, dest, "-r", "0", env=env)
            done = run(url, dest, "-c", "4", env={**env, "SSL_CERT_FILE": str(ca.pem)})
    assert (refused.code, "certificate" in refused.err) == (1, True), refused.err
    assert (done.code, dest.read_bytes() == DATA) == (0, True), done.err
    assert {passed.method for passed in proxy.requests} == {"CONNECT"}
    assert set(proxy.hosts) == {"weights.example"}


def test_plain_http_is_asked_of_the_daemon_in_full(server: Server, tmp_path: Path) -> None:
    server.add("/x", Resource(DATA))
    with Proxy(names={"weights.example": (server.host, server.port)}) as proxy:
        url, dest = f"http://weights.example:{server.port}/x", tmp_path / "x"
        done = run(url, dest, "-c", "4", env={"HTTP_PROXY": proxy.url()})
    assert (done.code, dest.read_bytes() == DATA) == (0, True), done.err
    assert {passed.target for passed in proxy.requests} == {url}
