"""What an error of the system is called."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from pgetpy.errors.reasons import system_reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/d"), "permission denied"),
        (OSError(errno.EROFS, None), "read-only file system"),
        (
            OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 80)"),
            "connection refused",
        ),
        (
            TimeoutError(errno.ETIMEDOUT, "no answer within the connect timeout"),
            "no answer within the connect timeout",
        ),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not"),
        (ssl.SSLError(1, "[SSL] wrong version number"), "[SSL] wrong version number"),
        (OSError(errno.EIO, "I/O error"), "I/O error"),
        (OSError("the host has no address"), "the host has no address"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_the_system_is_quoted_as_a_clause(error: OSError, words: str) -> None:
    assert system_reason(error).startswith(words)
