"""A cache of each test's own, and a guard over every test here: no token is to be seen anywhere."""

from __future__ import annotations

import pickle
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.errors import PgetError
from tests.support.hub import Hub
from tests.support.names import Names
from tests.support.secrets import TOKEN as MARK
from tests.support.server import Server

# Every token that a test here uses begins so.
TOKEN = MARK + "0"
OTHER_TOKEN = MARK + "1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the cache that is to be opened."""
    return tmp_path / "cache"


@pytest.fixture
def owners() -> set[int]:
    """The ports of the servers that may be sent a token; a test adds to them."""
    return set()


@pytest.fixture
def hub(owners: set[int], no_leaks: None, other_server: Server) -> Iterator[Hub]:
    """A Hub, which may be sent tokens; its store, `hub.cdn`, may not."""
    with Hub(other_server) as hub:
        owners.add(hub.port)
        yield hub
    assert hub.violations == []
    assert hub.errors == []


@pytest.fixture(autouse=True)
def no_leaks(
    tmp_path: Path,
    owners: set[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[None]:
    """No token in any error, log, output, file, file's name, or request to another host."""
    errors: list[PgetError] = []
    servers: list[Server] = []
    started, begin = Server.start, PgetError.__init__

    # Not __new__: what of OSError's is inherited besides does not come back when that is undone.
    def init(error: PgetError, *args: object, hint: str = "") -> None:
        errors.append(error)
        begin(error, *args, hint=hint)

    def start(server: Server) -> None:
        servers.append(server)
        started(server)

    monkeypatch.setattr(PgetError, "__init__", init)
    monkeypatch.setattr(Server, "start", start)
    caplog.set_level(0)
    yield
    monkeypatch.undo()
    said = [part for error in errors for part in _told_by(error)]
    output = capfd.readouterr()
    said += [output.out, output.err, caplog.text]
    said += [str(path) for path in tmp_path.rglob("*")]
    leaks = [text[:200] for text in said if MARK in text]
    leaks += [
        str(path)
        for path in tmp_path.rglob("*")
        if path.is_file() and MARK.encode() in path.read_bytes()
    ]
    leaks += [
        f"{server.port} {seen.path}"
        for server in servers
        if server.port not in owners
        for seen in server.requests
        if MARK in str(vars(seen))
    ]
    assert leaks == []


def _told_by(error: PgetError) -> list[str]:
    pickled = pickle.dumps(error).decode("latin-1")
    return [str(error), repr(error), pickled, "".join(traceback.format_exception(error))]


@pytest.fixture
def inside(server: Server) -> Iterator[Server]:
    """A server that no stranger may reach, on the same port as `server`."""
    inside = Server(port=server.port)
    inside.host = "127.0.0.2"
    with inside:
        yield inside
    assert inside.violations == []
    assert inside.errors == []


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """What the resolver answers to names that exist nowhere."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names
