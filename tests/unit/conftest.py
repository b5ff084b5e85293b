"""Unit tests use no network: whoever opens a connection fails the test."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

# What was tried while a test ran; None while none runs.
_tried: list[str] | None = None


def _look_at(event: str, arguments: tuple[object, ...]) -> None:
    if _tried is None or event not in ("socket.bind", "socket.connect", "socket.sendto"):
        return
    opened, address = arguments
    assert isinstance(opened, socket.socket)
    if opened.family != socket.AF_UNIX:
        _tried.append(f"{event} {address}")
        raise AssertionError(f"a unit test opens a socket ({event} {address})")


sys.addaudithook(_look_at)


@pytest.fixture(autouse=True)
def no_sockets() -> Iterator[None]:
    """Watch over the test; event loops may have their pairs of local sockets."""
    global _tried  # noqa: PLW0603  an audit hook cannot be taken away again
    _tried = []
    yield
    # What is raised in a thread, or where any exception is borne, does not end the test.
    tried, _tried = _tried, None
    assert tried == []
