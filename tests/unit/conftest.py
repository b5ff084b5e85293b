"""Unit tests open no connection: whoever tries fails the test."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

_guarded = False


def _look_at(event: str, arguments: tuple[object, ...]) -> None:
    if _guarded and event in ("socket.bind", "socket.connect"):
        opened, address = arguments
        assert isinstance(opened, socket.socket)
        if opened.family != socket.AF_UNIX:
            raise AssertionError(f"a unit test opens a socket ({event} {address})")


sys.addaudithook(_look_at)


@pytest.fixture(autouse=True)
def no_sockets() -> Iterator[None]:
    """Watch over the test; event loops may have their pairs of local sockets."""
    global _guarded  # noqa: PLW0603  an audit hook cannot be taken away again
    _guarded = True
    yield
    _guarded = False
