"""Which version of an object a server has, and whether it may be had: one cheap request."""

from __future__ import annotations

from pgetpy.core.answers import Answer, Identity
from pgetpy.core.links import parse_link
from pgetpy.core.plan import Plan
from pgetpy.core.ranges import Spans
from pgetpy.route import Route
from pgetpy.session import Hooks, Services, Session
from pgetpy.sinks.base import Sink
from pgetpy.watch import Tally


class _KnownError(Exception):
    """The answer has been believed: nothing more is wanted."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.identity = identity


async def identify(services: Services, url: str) -> Identity:
    """Ask for the first byte of the object at `url` and return which version it is of.

    Raises:
        TransferError: it may not be had, or not be reached.
    """

    def begin(answer: Answer, _: Spans) -> Sink:
        raise _KnownError(answer.identity)

    route = Route(parse_link(url), services.hosts, services.settings)
    hooks = Hooks(begin, lambda _: None, lambda *_: None, lambda _: None)
    session = Session(services, route, Plan(chunk_size=1, first=1), hooks, Tally())
    try:
        answer = await session.run()
    except _KnownError as known:
        return known.identity
    return answer.identity
