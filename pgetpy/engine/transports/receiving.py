"""Receiving in a thread, as exchanges do it: a cancellation is not a failure."""

from __future__ import annotations

import ssl
import time

from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.transports.connection import Connection
from pgetpy.engine.transports.failures import failed

_FILL_SECONDS = 0.05


def receive(
    exchange: Exchange, connection: Connection, buffer: memoryview, *, open_ended: bool
) -> int:
    """Receive what there is into `buffer`, waiting for the first byte; 0 at the end."""
    exchange.part.waiting = True
    try:
        return connection.fill(buffer)
    except OSError as error:
        # Where the end of the connection ends the body, many servers leave out that of TLS.
        if exchange.cancelled or (open_ended and isinstance(error, ssl.SSLEOFError)):
            return 0
        raise failed(exchange.request, error) from error
    finally:
        exchange.part.waiting = False


def fill(exchange: Exchange, connection: Connection, buffer: memoryview) -> tuple[int, bool]:
    """Receive into `buffer` until it is full or a moment has passed: bytes, whether it ended."""
    filled = 0
    deadline = time.monotonic() + _FILL_SECONDS
    exchange.part.waiting = True
    try:
        while filled < len(buffer) and not exchange.cancelled:
            got = connection.fill(buffer[filled:])
            if not got:
                return filled, True
            filled += got
            if time.monotonic() > deadline:
                break
    except OSError as error:
        if exchange.cancelled:
            return filled, False
        if filled:
            return filled, True
        raise failed(exchange.request, error) from error
    finally:
        exchange.part.waiting = False
    return filled, False
