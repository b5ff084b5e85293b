"""Connecting to a host that has several addresses, of which some may be dead (RFC 8305).

A packet to a dead address vanishes, and a connection attempt would take the whole timeout to fail.
Trying all addresses at once would load the host for nothing. So the addresses are tried in order,
each with a head start of 200 ms, or until the one before has failed; the first that answers wins:

    address 1  |--------------------------------------------  (no answer)
    address 2        |----------X refused
    address 3                   |-----| connected: the others are cancelled
               0   200 ms    at once, for 2 has failed

IPv6 and IPv4 take turns in that order: usually one whole family is broken, and the second address
tried should not be of the same. The winner is remembered, and is first the next time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain, zip_longest

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.engine.transports.base import Address

# The head start of each address, in seconds, as in curl: the Connection Attempt Delay of RFC 8305,
# 5, which lies between 0.1 and 2 s.
DELAY = 0.2
# Errors that say nothing about a host, only that this machine has no route to such addresses.
NO_WAY = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH})

Connect = Callable[[Address], Coroutine[None, None, socket.socket]]
_Connecting = asyncio.Task[socket.socket]


@dataclass(eq=False)
class AddressRace:
    """Connects to the address of a host that answers first, and begins there the next time."""

    _winners: dict[tuple[Address, ...], Address] = field(default_factory=dict)

    def order(self, addresses: tuple[Address, ...]) -> list[Address]:
        """Return `addresses` in the order to try them: the last winner, then families in turn."""
        won = self._winners.get(addresses)
        others = _interleave([address for address in addresses if address != won])
        return [won, *others] if won is not None else others

    def won(self, addresses: tuple[Address, ...], winner: Address) -> None:
        """Remember that `winner`, one of `addresses`, has answered."""
        self._winners[addresses] = winner

    async def connect(
        self, addresses: Sequence[Address], seconds: float, connect: Connect
    ) -> tuple[socket.socket, Address]:
        """Return a connected socket, and to which of `addresses` it is.

        Args:
            addresses: in the order to try them. An attempt goes on while later ones are made.
            seconds: for all of it.
            connect: makes one attempt.

        Raises:
            OSError: none can be connected to within `seconds`; the most telling of the failures.
        """
        deadline = time.monotonic() + seconds
        # With many addresses the head start shrinks, so that even the last gets half of the time.
        delay = min(DELAY, seconds / (2 * len(addresses) or 1))
        waiting = list(addresses)
        running: dict[_Connecting, Address] = {}
        failure: OSError = OSError("the host has no address")
        try:
            while waiting or running:
                if waiting:
                    address = waiting.pop(0)
                    running[asyncio.ensure_future(connect(address))] = address
                left = deadline - time.monotonic()
                patience = min(delay, left) if waiting else left
                done, _ = await asyncio.wait(
                    running, timeout=max(0.0, patience), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if task.exception() is None:
                        return task.result(), running.pop(task)
                for task in done:
                    failure = _telling(failure, task, running.pop(task))
                if not done and time.monotonic() >= deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "no answer within the connect timeout")
            raise failure
        finally:
            await _end(running)


def _interleave(addresses: Sequence[Address]) -> list[Address]:
    """Return `addresses` with families taking turns, beginning with that of the first one."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    rounds = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in rounds if address is not None]


def _telling(before: OSError, task: _Connecting, address: Address) -> OSError:
    """Return the failure that says more: one of the host's before one of this machine's routes."""
    error = task.exception()
    if not isinstance(error, OSError):
        assert error is not None
        raise error
    if error.errno in NO_WAY and before.errno is not None and before.errno not in NO_WAY:
        return before
    return error


async def _end(running: dict[_Connecting, Address]) -> None:
    """Cancel the attempts under way; close those that succeed before they notice."""
    for task in running:
        task.cancel()
        task.add_done_callback(_close)
    if running:
        await asyncio.wait(running)


def _close(task: _Connecting) -> None:
    """Close the socket of an attempt that was cancelled a moment too late."""
    if not task.cancelled() and task.exception() is None:
        with contextlib.suppress(OSError):
            task.result().close()
