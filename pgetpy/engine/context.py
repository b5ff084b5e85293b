"""What an attempt is given: what all transfers share, and whom it tells what happens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.transports.base import Transport
from pgetpy.errors import PgetError
from pgetpy.settings import Settings
from pgetpy.system.filesystem import ReservedPaths
from pgetpy.system.threads import Workers


@dataclass(frozen=True)
class EngineContext:
    """What all transfers of an engine share."""

    settings: Settings
    hosts: Hosts
    workers: Workers
    direct: Transport
    full: Transport
    throttle: Callable[[int], float] | None
    paths: ReservedPaths
    local: Transport
    jitter: Callable[[], float] = random.random


class StartOverError(Exception):
    """What is held belongs to another version (`reason`, a clause): begin again at 0."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class AttemptCallbacks:
    """What an attempt needs from its transfer.

    Attributes:
        begin: gives the sink for the object of a first answer; called in any thread.
        tick: is called some forty times a second.
        retrying: is told of a failure and the seconds to the next try.
        started_over: is told why bytes that had come are thrown away.
        remark: is told what is worth knowing and no failure.
    """

    begin: Callable[[Answer, Spans], Sink]
    tick: Callable[[float], None]
    retrying: Callable[[PgetError, float], None]
    started_over: Callable[[str], None]
    remark: Callable[[str], None] = lambda _: None
