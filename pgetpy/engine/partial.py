"""Parts of an object instead of the whole: the wanted spans are fetched, and nothing else.

Which spans these are is known only after the first bytes, a header that says where things are. So
the sink's window begins closed around those, and the sink widens it when it has read them:

    [header]                                    asked for first; says where the tensors are
    [header]     [tensor]  [tensor]             `Window.only` of the sink; the rest never comes

The plan treats a closed window like any other limit, so an attempt needs no second mode. A server
that sends the whole instead of a range makes this pointless, hence `WholeOnlyError`.
"""

from __future__ import annotations

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.references.jobs import Follower
from pgetpy.destinations.sinks.parts import PartsSink
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.requests import Route, try_in_turn
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import ObjectChangedError, RangeNotHonouredError, TransferError
from pgetpy.sources.base import RemoteFile


class WholeOnlyError(Exception):
    """The server serves no ranges, or none that belong together, or does not say the size."""


async def pick(
    context: EngineContext, remote: RemoteFile, sink: PartsSink, first: int, follow: Follower
) -> None:
    """Fetch the spans of an object that `sink` wants.

    Args:
        remote: the object.
        sink: says which spans once it has the first bytes, and keeps them.
        first: how many bytes to ask for first.
        follow: is shown the file and which bytes have landed.

    Raises:
        TransferError: the object is forbidden, or cannot be reached.
        WholeOnlyError: the server sends only the whole, or ranges that do not belong together.
    """

    routes = [Route(remote.link, context.hosts, context.settings)]
    if context.settings.fleet is not None:
        from pgetpy.engine.cache_service import service_routes

        routes[:0] = service_routes(context.settings, context.hosts, remote.url, remote.link)
    await try_in_turn(routes, lambda route: _pick_from(route, context, remote, sink, first, follow))


async def _pick_from(
    route: Route,
    context: EngineContext,
    remote: RemoteFile,
    sink: PartsSink,
    first: int,
    follow: Follower,
) -> None:
    """As `pick`, by `route`."""
    begun = False

    def begin(answer: Answer, _: Spans) -> Sink:
        # The probe's answer decides, before a byte is kept.
        nonlocal begun
        total = answer.identity.total
        if not answer.ranged or total is None:
            raise WholeOnlyError
        sink.begin(total)
        follow.began(sink.fd, total)
        begun = True
        return sink

    plan = Plan(chunk_size=context.settings.chunk_size, first=first)
    callbacks = AttemptCallbacks(
        begin, lambda _: follow.landed(plan.landed), lambda *_: None, lambda _: None
    )
    attempt = Attempt(context, route, plan, callbacks, TransferCounts())
    if context.nodes is not None:
        from pgetpy.engine.node_use import NodeUse

        attempt = NodeUse(context.nodes, remote.url).attempt_like(attempt, in_order=True)
        plan = attempt.plan
    try:
        await attempt.run()
    except (ObjectChangedError, RangeNotHonouredError) as error:
        # Replaced, or on servers that disagree about its version: the whole can come in one answer.
        follow.lost()
        raise WholeOnlyError from error
    except TransferError as error:
        if not (route.is_cache and begun):
            raise
        # The sink cannot begin again, but a transfer can go on at the origin.
        follow.lost()
        raise WholeOnlyError from error
    follow.landed(plan.landed)
