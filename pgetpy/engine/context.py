"""What an attempt is given: what all transfers share, and its callbacks.

An attempt knows neither its job nor its destination. What it needs of them it gets through
`AttemptCallbacks`, so that a question to a service (`service_client`), parts of a file (`partial`)
and a whole transfer use the same attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.transports.base import Transport
from pgetpy.errors import PgetError
from pgetpy.settings import Settings
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import Workers

if TYPE_CHECKING:
    from pgetpy.engine.node_access import NodeAccess


def _random() -> float:
    from random import random

    return random()


@dataclass(frozen=True)
class EngineContext:
    """What all transfers of an engine share.

    Attributes:
        settings: of the engine, under its policy.
        hosts: what is known of each.
        workers: threads for calls that block.
        direct: the transport for http and https.
        full: the one for what `direct` cannot do.
        throttle: takes the bytes that have landed, returns seconds to pause; None for no limit.
        paths: those that transfers of this engine write to, so that no two use the same.
        local: the transport for file and data URLs.
        jitter: gives a random number from 0 up to 1.
        nodes: the cache nodes; None if there are none.
    """

    settings: Settings
    hosts: Hosts
    workers: Workers
    direct: Transport
    full: Transport
    throttle: Callable[[int], float] | None
    paths: ReservedPaths
    local: Transport
    jitter: Callable[[], float] = _random
    nodes: NodeAccess | None = None


class StartOverError(Exception):
    """The bytes that are held belong to another version (`reason`, a clause): fetch all again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class AttemptCallbacks:
    """What an attempt needs from its transfer.

    Attributes:
        begin: returns the sink, given the first answer that is believed and the spans that are
            held; called in any thread, and may raise to end the attempt.
        tick: is called some forty times a second with the loop time.
        retrying: is told of a failure and the seconds to the next try.
        started_over: is told why bytes that had come are discarded.
        remark: is told what is worth knowing but not a failure.
    """

    begin: Callable[[Answer, Spans], Sink]
    tick: Callable[[float], None]
    retrying: Callable[[PgetError, float], None]
    started_over: Callable[[str], None]
    remark: Callable[[str], None] = lambda _: None
