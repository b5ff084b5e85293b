"""Connecting to a host that has several addresses, of which some may be dead (RFC 8305)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from pgetpy.engine.transports.base import Address

# An address that has not answered after so long is joined by the next one (RFC 8305, 5).
DELAY = 0.25
# What says nothing about a host, only that there is no way to such addresses from here.
NO_WAY = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH})

Connect = Callable[[Address], Coroutine[None, None, socket.socket]]
_Connecting = asyncio.Task[socket.socket]


@dataclass(eq=False)
class AddressRace:
    """Connects to whichever address of a host answers first, and begins there the next time."""

    _winners: dict[tuple[Address, ...], Address] = field(default_factory=dict)

    def order(self, addresses: tuple[Address, ...]) -> list[Address]:
        """Return `addresses` in the order to try them: the last winner, then families in turn."""
        won = self._winners.get(addresses)
        others = _interleave([address for address in addresses if address != won])
        return [won, *others] if won is not None else others

    def won(self, addresses: tuple[Address, ...], winner: Address) -> None:
        """`winner`, one of `addresses`, has answered."""
        self._winners[addresses] = winner

    async def connect(
        self, addresses: Sequence[Address], seconds: float, connect: Connect
    ) -> tuple[socket.socket, Address]:
        """Return a connected socket, and to which of `addresses` it is; `connect` makes one.

        They are tried in their order, each a moment after the one before unless that one fails
        sooner, and none is given up for another.

        Raises:
            OSError: none can be connected to within `seconds`; the failure that says the most.
        """
        deadline = time.monotonic() + seconds
        # However many there are, each gets its turn.
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
    """Return `addresses` so that their families take turns, beginning with the first's."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    rounds = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in rounds if address is not None]


def _telling(before: OSError, task: _Connecting, address: Address) -> OSError:
    """Return which of two failures says more about the host."""
    error = task.exception()
    if not isinstance(error, OSError):
        assert error is not None
        raise error
    if error.errno in NO_WAY and before.errno is not None and before.errno not in NO_WAY:
        return before
    return error


async def _end(running: dict[_Connecting, Address]) -> None:
    """Give up the connections that are still being made, and those made a moment too late."""
    for task in running:
        task.cancel()
        task.add_done_callback(_close)
    if running:
        await asyncio.wait(running)


def _close(task: _Connecting) -> None:
    if not task.cancelled() and task.exception() is None:
        with contextlib.suppress(OSError):
            task.result().close()
