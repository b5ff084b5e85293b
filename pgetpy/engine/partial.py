"""Parts of an object instead of the whole: what is wanted is asked for, and nothing else."""

from __future__ import annotations

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.references.jobs import Follower
from pgetpy.destinations.sinks.parts import PartsSink
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.requests import Route
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.sources.base import RemoteFile


class WholeOnlyError(Exception):
    """The server gives no parts, or does not say how large the whole is."""


async def pick(
    context: EngineContext, remote: RemoteFile, sink: PartsSink, first: int, follow: Follower
) -> None:
    """Fetch what `sink` wants of an object, of which it has asked for `first` bytes.

    Raises:
        TransferError: it may not be had, or not be reached.
        WholeOnlyError: the server gives all or nothing.
    """

    def begin(answer: Answer, _: Spans) -> Sink:
        total = answer.identity.total
        if not answer.ranged or total is None:
            raise WholeOnlyError
        sink.begin(total)
        follow.began(sink.fd, total)
        return sink

    route = Route(remote.link, context.hosts, context.settings)
    plan = Plan(chunk_size=context.settings.chunk_size, first=first)
    callbacks = AttemptCallbacks(
        begin, lambda _: follow.landed(plan.landed), lambda *_: None, lambda _: None
    )
    await Attempt(context, route, plan, callbacks, TransferCounts()).run()
    follow.landed(plan.landed)
