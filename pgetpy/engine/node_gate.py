"""Which answers of cache nodes are believed: only those that repeat what the first answer said.

A node may be stale, or broken in a way that leaves its heads looking right. So what is an honest
oddity of an origin is a reason to ask another node here:

    200, 416, any error                    HttpStatusError or RangeNotHonouredError: another node
    fewer bytes than asked for             the same: the node's own origin failed in between
    other bytes than asked for             WrongRangeError: the node is not asked again
    another ETag, date or size             DisagreementError: the origin has to decide
    no strong ETag, and no checksum        WeakIdentityError: nothing would tell versions apart
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pgetpy.core.http.answers import Answer, Identity, Redirected, judge
from pgetpy.core.http.heads import Head, status_error
from pgetpy.core.http.ranges import format_range, parse_content_range
from pgetpy.core.http.sink import Sink
from pgetpy.engine.answer_gate import AnswerGate
from pgetpy.engine.transports.base import Exchange
from pgetpy.errors import ObjectChangedError, RangeNotHonouredError


class WrongRangeError(Exception):
    """A node has sent other bytes than those asked for; the text says which."""


class WeakIdentityError(Exception):
    """Nothing would tell one version of the object from another."""


class DisagreementError(Exception):
    """A node has another version, `.identity`, than `.known`, that of the first answer."""

    def __init__(self, known: Identity, identity: Identity) -> None:
        super().__init__(known, identity)
        self.known = known
        self.identity = identity


@dataclass
class NodeGate(AnswerGate):
    """Believes heads or refuses them, those of nodes and those of the origin.

    Attributes:
        decided: the version that the origin has named, after nodes had disagreed.
    """

    decided: Identity | None = None

    def admit(self, exchange: Exchange, head: Head, now: float) -> tuple[Answer, Sink]:
        """See `AnswerGate.admit`."""
        if exchange.piece is not None and head.status == 416:
            raise status_error(exchange.request.url, head)
        return super().admit(exchange, head, now)

    def _judge(self, exchange: Exchange, head: Head, known: Identity | None) -> Answer:
        if exchange.piece is None:
            return super()._judge(exchange, head, known)
        known = known or self.decided or (self.expected if self.plan.held else None)
        return self._judge_node(exchange, head, known)

    def _judge_node(self, exchange: Exchange, head: Head, known: Identity | None) -> Answer:
        """Judge the answer of a node. `known` is the version that it must be of, if any."""
        url, asked = exchange.request.url, exchange.asked
        assert asked is not None
        if head.is_redirect:
            raise Redirected(head.headers["location"], head)
        if head.status >= 300:
            raise status_error(url, head)
        if head.status != 206:
            raise RangeNotHonouredError(url, format_range(asked), f"{head.status}")
        stated = parse_content_range(head.headers.get("content-range", ""))
        if stated is not None and stated.span is not None:
            if stated.span.start != asked.start or stated.span.stop > asked.stop:
                raise WrongRangeError(f"{head.headers['content-range']} for {format_range(asked)}")
            if known is not None and stated.total not in (None, known.total):
                raise DisagreementError(known, replace(known, total=stated.total))
        # The digest would tell, but only at the end: an ETag that differs is found out now.
        verified = self.verified and not (known is not None and known.strong)
        try:
            answer = judge(url, asked, head, known, verified=verified)
        except ObjectChangedError:
            assert known is not None
            raise DisagreementError(known, _identity_of(head, known)) from None
        total = answer.identity.total
        # Some servers give the range's own end for the object's.
        doubtful = known is None and asked == (0, total)
        if total is None or doubtful or answer.stop != min(asked.stop, total):
            raise RangeNotHonouredError(
                url, format_range(asked), head.headers.get("content-range", "")
            )
        if not (answer.identity.strong or self.verified):
            raise WeakIdentityError
        return answer


def _identity_of(head: Head, known: Identity) -> Identity:
    """Return the version that `head` names, which has the size of `known`."""
    etag = head.headers.get("etag") or None
    return Identity(known.total, etag, head.headers.get("last-modified"))
