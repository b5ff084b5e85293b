"""pget's variables for cache nodes, by the command line, with a scripted name server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dns.resolver", reason="needs dnspython")
pytest.importorskip("dnslib", reason="needs dnslib")

from pgetpy.cli import main
from pgetpy.core.placement.jump import SLICE, place
from pgetpy.fleet import nodes, srv_lookup
from tests.support.bodies import body
from tests.support.fleet import HOST
from tests.support.resources import Resource
from tests.support.scripted_dns import ScriptedDns, scripted_dns
from tests.support.server import Server

BODY = body(400_000)
NAME = "cache.example"
ASKED = f"_http._tcp.{NAME}"
SECRET = "Bearer hunter2"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDns]:
    # What a process has looked up holds for 30 s.
    monkeypatch.setattr(nodes, "_SHARED", {})
    monkeypatch.setattr(srv_lookup, "LIFETIME", 0.5)
    with scripted_dns() as script:
        yield script


class Shell:
    """Downloads `url` by the command line, with the variables that pget reads."""

    def __init__(self, origin: Server, cache: Server, capfd: pytest.CaptureFixture[str]) -> None:
        self.origin, self.cache = origin, cache
        self.err = ""
        self._capfd = capfd
        # Pods have names that only the name server of their cluster knows.
        self.resolve = [f"{HOST}:{origin.port}:127.0.0.1"]
        names = [f"cache-{number}.c" for number in range(10)]
        self.resolve += [f"{name}:{cache.port}:127.0.0.1" for name in names]

    def url(self, path: str) -> str:
        """The URL of the origin's object, under a name that no server is asked for."""
        return self.origin.url(path, host=HOST)

    def __call__(self, *arguments: str | Path, **environ: str) -> int:
        variables = {
            "PGET_CACHE_URI_PREFIXES": self.origin.url("", host=HOST),
            "PGET_RESOLVE": ",".join(self.resolve),
        }
        code = main([str(each) for each in arguments], environ={**variables, **environ})
        self.err = self._capfd.readouterr().err
        return code


@pytest.fixture
def shell(server: Server, other_server: Server, capfd: pytest.CaptureFixture[str]) -> Shell:
    for each in (server, other_server):
        each.add("/model", Resource(BODY))
    return Shell(server, other_server, capfd)


def serve(script: ScriptedDns, shell: Shell, *numbers: int) -> None:
    script.serve(ASKED, *((f"cache-{number}.c.", shell.cache.port) for number in numbers))


def test_nodes_are_looked_up_and_asked(script: ScriptedDns, shell: Shell, tmp_path: Path) -> None:
    serve(script, shell, 0, 1, 2)
    url = shell.url("/model")
    environ = {"PGET_CACHE_NODES_SRV_NAME": NAME, "PGET_PROXY_AUTH_HEADER": SECRET}
    assert shell(url, tmp_path / "got", **environ) == 0, shell.err
    assert (tmp_path / "got").read_bytes() == BODY
    assert shell.origin.requests == []
    assert {seen.header("Authorization") for seen in shell.cache.requests} == {SECRET}
    assert script.names == [ASKED]


def test_the_srv_name_goes_by_the_network_of_this_machine(
    script: ScriptedDns, shell: Shell, tmp_path: Path
) -> None:
    serve(script, shell, 0)
    networks = {"192.0.2.0/24": "other.example", "10.0.0.0/8": NAME}
    environ = {
        "PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR": json.dumps(networks),
        "PGET_HOST_IP": "10.1.2.3",
    }
    assert shell(shell.url("/model"), tmp_path / "got", **environ) == 0, shell.err
    assert (shell.origin.requests, script.names) == ([], [ASKED])


@pytest.mark.parametrize("failing", ["no such name", "SERVFAIL", "silence", "no index"])
def test_a_failed_look_up_warns_once_and_the_origin_serves(
    script: ScriptedDns, shell: Shell, tmp_path: Path, failing: str
) -> None:
    if failing == "no index":
        script.serve(ASKED, ("cache.c.", 80))
    script.failure = "SERVFAIL" if failing == "SERVFAIL" else ""
    script.silent = failing == "silence"
    manifest = tmp_path / "manifest"
    lines = [f"{shell.url('/model')} {tmp_path / str(number)}\n" for number in range(3)]
    manifest.write_text("".join(lines))
    assert shell("multifile", manifest, PGET_CACHE_NODES_SRV_NAME=NAME) == 0, shell.err
    assert (tmp_path / "2").read_bytes() == BODY
    assert shell.err.count("cache nodes of") == 1, shell.err
    assert "everything comes from the origin" in shell.err


def test_a_url_under_no_prefix_looks_nothing_up(
    script: ScriptedDns, shell: Shell, tmp_path: Path
) -> None:
    environ = {"PGET_CACHE_URI_PREFIXES": "", "PGET_CACHE_NODES_SRV_NAME": NAME}
    assert shell(shell.url("/model"), tmp_path / "got", **environ) == 0, shell.err
    assert script.names == []


@pytest.mark.parametrize("off", [("--no-cache-nodes",), ("--cache-nodes", "127.0.0.1:1")])
def test_flags_go_before_pgets_variables(
    script: ScriptedDns, shell: Shell, tmp_path: Path, off: tuple[str, ...]
) -> None:
    serve(script, shell, 0)
    url = shell.url("/model")
    assert shell(url, tmp_path / "got", *off, PGET_CACHE_NODES_SRV_NAME=NAME) == 0, shell.err
    assert (tmp_path / "got").read_bytes() == BODY
    assert (script.names, shell.cache.requests) == ([], [])


def test_the_path_proxy_of_nodes_holds_for_each_file_of_a_manifest(
    script: ScriptedDns, shell: Shell, tmp_path: Path
) -> None:
    serve(script, shell, 0, 1)
    lines = []
    for number in range(4):
        path = f"/{number}/a%20b"
        shell.cache.add(f"/{HOST}:{shell.origin.port}{path}", Resource(body(50_000, number)))
        lines.append(f"{shell.url(path)} {tmp_path / str(number)}\n")
    (tmp_path / "manifest").write_text("".join(lines))
    environ = {"PGET_CACHE_NODES_SRV_NAME": NAME, "PGET_CACHE_USE_PATH_PROXY": "1"}
    assert shell("multifile", tmp_path / "manifest", **environ) == 0, shell.err
    for number in range(4):
        assert (tmp_path / str(number)).read_bytes() == body(50_000, number)
    assert shell.origin.requests == []


def test_the_node_is_the_one_that_pget_asks(
    script: ScriptedDns, shell: Shell, tmp_path: Path
) -> None:
    url = shell.url("/model")
    first = place(url, 0, 10)
    assert first is not None
    assert len(BODY) <= SLICE
    # Only this one can be connected to: were another first, the origin would serve.
    serve(script, shell, *range(10))
    shell.resolve = [
        entry if f"cache-{first}." in entry or HOST in entry else entry.replace("127.0.0.1", "::1")
        for entry in shell.resolve
    ]
    environ = {"PGET_CACHE_NODES_SRV_NAME": NAME}
    assert shell("--json", url, tmp_path / "got", **environ) == 0, shell.err
    assert shell.origin.requests == []
    assert "cache node" not in shell.err
