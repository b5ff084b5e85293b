"""Whether a silent server is still there: asked on a connection of its own.

A server that takes its time over one answer, because it makes it or fetches it, answers anything
else at once. One that has been stopped, or whose cable is out, answers nothing, although the kernel
may still accept a connection for it. So only an answer counts: to `OPTIONS *`, which asks for
nothing (RFC 9110, 9.3.7), and whatever it says; over TLS the handshake is one.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from pgetpy.engine.transports.base import USER_AGENT, Request
from pgetpy.engine.transports.connecting import AddressRace
from pgetpy.engine.transports.connection import Connection
from pgetpy.errors import TransferError


async def answers(request: Request, seconds: float) -> bool:
    """Return whether the server of `request` answers anything within `seconds`."""
    try:
        return await asyncio.wait_for(_ask(request), seconds)
    except (OSError, asyncio.TimeoutError, TransferError):
        return False


async def _ask(request: Request) -> bool:
    """Connect, and wait for the first byte of an answer."""
    connection = await Connection.open(request, AddressRace())
    try:
        if connection.secure:
            return True
        loop, host = asyncio.get_running_loop(), urlsplit(request.url).netloc
        head = f"OPTIONS * HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
        await loop.sock_sendall(connection.sock, f"{head}Connection: close\r\n\r\n".encode())
        return bool(await loop.sock_recv(connection.sock, 1))
    finally:
        connection.close()
