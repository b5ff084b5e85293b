"""Whether the host of an attempt has gone, for one that a mirror may take over from.

Without a mirror a silent host is waited for as long as the stall timeout and the retries say. With
one, waiting is worth little: a host that is silent in all its answers is probed, and if it answers
nothing the mirror is asked after some four seconds, instead of a minute.
"""

from __future__ import annotations

import asyncio

from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.transports.probing import answers
from pgetpy.engine.watchdog import Watchdog
from pgetpy.errors import ConnectionFailedError

# Seconds of silence after which the host is probed.
_SILENCE = 2.0
# Seconds for the answer of a host that may be far away; connecting and TLS are included.
_SECONDS = 2.0


class Responsiveness:
    """Notices that the host of an attempt has gone: all is silent, and a probe is not answered.

    Args:
        route: whose host it is.
        watchdog: knows the requests under way.
    """

    def __init__(self, route: Route, watchdog: Watchdog) -> None:
        self._route = route
        self._watchdog = watchdog
        self._probe: asyncio.Task[bool] | None = None
        self._probed_at = float("-inf")

    def check(self, now: float) -> None:
        """Look at the requests, and begin a probe where all are silent. Called at each tick.

        Raises:
            ConnectionFailedError: the host is silent, and does not answer the probe.
        """
        asked = [each for each in self._watchdog.under_way if each.piece is None]
        quiet = min((each.part.meter.quiet(now) for each in asked), default=0.0)
        if self._probe is not None and self._probe.done():
            alive, self._probe = self._probe.result(), None
            if not alive and quiet >= _SILENCE:
                self._route.given_up = True
                reason = f"it was silent for {quiet:.1f} s, and a new connection got no answer"
                raise ConnectionFailedError(asked[0].request.url, reason)
        due = now - self._probed_at >= _SILENCE
        if quiet >= _SILENCE and self._probe is None and due and _can_be_probed(asked):
            self._probed_at = now
            self._probe = asyncio.ensure_future(answers(asked[0].request, _SECONDS))

    async def close(self) -> None:
        """End the probe that is under way."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])


def _can_be_probed(asked: list[Exchange]) -> bool:
    """Whether a probe would say something: not of a proxy, nor where a disk holds us up."""
    return all(each.request.proxy is None and each.part.waiting for each in asked)
