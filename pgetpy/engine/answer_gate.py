"""Which answers of one attempt are believed; the first of them fixes the version of the object.

`core/http/answers.judge` says whether one head can be believed. What follows from it depends on the
answers before, and several may arrive at the same moment in different threads. The gate lets one
through at a time:

    closed  -- first answer --------> open, one version     size, sink and version are fixed
            -- what is held does not belong to it ----> StartOverError
    open    -- second answer -------> repeatable            the server answers more than once, so
                                                            the first need not read on to the end
            -- the object comes without ranges ------> TooLateError for every other answer

Opening the sink happens between the first head and its body, under the lock: no byte can arrive
before there is a place for it. If it fails the gate stays shut (`_refused`), so that a second
answer cannot open the same sink a moment later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pgetpy.core.http.answers import (
    Answer,
    AskAgain,
    Identity,
    RetryWithoutRange,
    judge,
    may_continue,
)
from pgetpy.core.http.heads import Head
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.engine.context import StartOverError
from pgetpy.engine.transports.base import Exchange, Request
from pgetpy.errors import NotAllowedError, ObjectChangedError


class TooLateError(Exception):
    """An answer that is not needed any more: another one brings everything."""


@dataclass
class AnswerGate:
    """Believes heads or refuses them, one at a time, in any thread.

    Args:
        plan: is told the size of the object, and whether it comes in ranges.
        begin: opens the sink, given the first answer and the spans that are held.
        largest: the most bytes an object may have, and the rule that says so; None for any.
        sign_again: whether a request that was refused will be signed in another way.

    Attributes:
        answer: the first answer that was believed.
        head: its head.
        sink: where its bytes go.
        expected: the version of the bytes that are held.
        verified: whether a digest of the whole is checked in the end.
        repeatable: whether the server has answered a second time.
        drifted: whether an answer had another ETag than the first, accepted because the digest
            will tell.
    """

    plan: Plan
    begin: Callable[[Answer, Spans], Sink]
    largest: tuple[int, str] | None
    sign_again: Callable[[Request, Head], bool]
    expected: Identity | None = None
    verified: bool = False
    answer: Answer | None = None
    head: Head | None = None
    sink: Sink | None = None
    repeatable: bool = False
    drifted: bool = False
    _refused: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self, exchange: Exchange, head: Head, now: float) -> tuple[Answer, Sink]:
        """Return what may be believed of `head`, the answer to `exchange`, and the sink for it.

        Raises:
            TransferError, Redirected, RetryWithoutRange: see `judge`.
            StartOverError: what is held belongs to another version.
            TooLateError: see there.
            Exception: whatever `begin` raises.
        """
        with self._lock:
            if self._refused or (self.answer is not None and not self.plan.ranged):
                raise TooLateError
            known = self.answer.identity if self.answer is not None else None
            if head.status == 416 and known is None and self.plan.held:
                # The missing bytes lie beyond the end of the object.
                raise StartOverError(f"the object became shorter (was {self.expected})")
            part = exchange.part
            answer = self._judge(exchange, head, known)
            part.meter.answer(now, answer.start)
            if self.answer is None:
                self._admit_first(exchange, answer)
                self.head = head
                unsaid = "accept-ranges" not in head.headers and self.plan.total is not None
                if unsaid and part.reads_on and self._takes_any_order():
                    # Some servers serve ranges, but not one without an end, and do not announce
                    # them. If this is not one of them, all is asked for again in one stream.
                    self.plan.ranged = True
            elif not self.repeatable:
                self.repeatable = True
                self.answer = replace(self.answer, ranged=True)
            if self.repeatable or self.plan.wants_only:
                # Do not read on: another request has been answered, or only parts are wanted.
                part.most, part.reads_on = part.stop, False
            if known is not None and self.verified:
                self.drifted |= head.headers.get("etag") != known.etag
            assert self.sink is not None
            return answer, self.sink

    @property
    def refused(self) -> bool:
        """Whether the first answer was refused; the error of its exchange says why."""
        return self._refused

    @property
    def guesses(self) -> bool:
        """Whether ranges are asked for though the first answer was the whole, and no other
        answer has shown yet that the server serves any."""
        answer = self.answer
        return answer is not None and answer.whole and self.plan.ranged and not self.repeatable

    @property
    def restarts(self) -> bool:
        """Whether a next answer would send everything again, because there are no ranges."""
        return self.answer is not None and not self.answer.ranged

    def check_size(self, url: str, size: int | None) -> None:
        """Check an object of `size` bytes against `largest`.

        Raises:
            NotAllowedError: it is larger.
        """
        if self.largest is not None and size is not None and size > self.largest[0]:
            most, rule = self.largest
            raise NotAllowedError(url, rule, f"the object has {size} bytes, and {most} are allowed")

    def forget(self) -> None:
        """Treat the next answer as the first again."""
        self.answer = None
        self.repeatable = False

    def _judge(self, exchange: Exchange, head: Head, known: Identity | None) -> Answer:
        """Judge a head by all that is known of the request that it answers."""
        url, part = exchange.request.url, exchange.part
        if head.status >= 300 and self.sign_again(exchange.request, head):
            raise AskAgain
        if head.status == 412 and "If-Match" in dict(exchange.request.headers):
            self._refuse_other_version(url, known)
        answer = judge(url, exchange.asked, head, known, verified=self.verified)
        total = answer.identity.total
        first = known is None and not self.plan.held
        if first and total and exchange.asked == (0, total):
            # Some servers give the range's own end, or length, for the object's.
            raise RetryWithoutRange
        if answer.start < part.start:
            # The whole, in answer to a plain GET; its beginning is there already.
            return replace(answer, start=part.start, skip=part.start, ranged=True)
        return replace(answer, ranged=answer.ranged and (not answer.whole or _may_go_on(exchange)))

    def _refuse_other_version(self, url: str, known: Identity | None) -> None:
        """Raise: the object is not the version that `If-Match` named (RFC 9110, 13.1.1)."""
        if known is None:
            raise StartOverError(f"the object changed (was {self.expected})")
        raise ObjectChangedError(url, str(known), "another version")

    def _takes_any_order(self) -> bool:
        """Whether the sink is a plain file, which a wrong guess about ranges cannot harm."""
        assert self.sink is not None
        return self.sink.window is None and self.sink.place(0) is not None

    def _admit_first(self, exchange: Exchange, answer: Answer) -> None:
        """Fix the version by `answer`, and open the sink."""
        # Shut until this has succeeded: the probe may have been sent twice.
        self._refused = True
        self.check_size(exchange.request.url, answer.identity.total)
        self._check_held(answer)
        self.sink = self.begin(answer, self.plan.held)
        self._refused = False
        self.plan.total = answer.identity.total
        self.plan.ranged = answer.ranged
        self.plan.window = self.sink.window
        self.answer = answer

    def _check_held(self, answer: Answer) -> None:
        """Check that the bytes of `answer` may complete those that are held.

        Raises:
            StartOverError: they may not.
        """
        if not self.plan.held:
            return
        before, now = self.expected, answer.identity
        assert before is not None
        # The whole in place of a range is also how If-Range says no (RFC 9110, 13.1.5).
        if not answer.ranged and before.agrees(replace(now, total=before.total)):
            raise StartOverError(f"the server no longer serves {before} in ranges")
        if not answer.ranged or not may_continue(before, now, verified=self.verified):
            raise StartOverError(f"the object changed (was {before}, is {now})")


def _may_go_on(exchange: Exchange) -> bool:
    """Whether to ask for ranges after the whole came for an open-ended one, because the server
    announces them.

    Not for a sink that waits for certain bytes, such as an archive whose end is wanted first: it
    would be held up if the announcement is wrong.
    """
    return exchange.part.reads_on and not exchange.blocking
