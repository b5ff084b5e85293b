"""How an object is asked for: from the manner that is fastest to the plainest that there is.

    ranges, tied to a version by If-Range  ->  ranges alone  ->  one stream

Some servers refuse ranges, or If-Range, or answer them with nonsense, and serve the object to a
plain GET all the same. So what only ranges run into is no failure as long as a plainer manner is
left. The last is one stream: what a first answer reads on, or one GET without a Range, whose
answer may be used whatever the server thinks of ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgetpy.core.http.retry import OVERLOADED, retryable
from pgetpy.errors import HttpStatusError, RangeNotHonouredError, TransferError

# What an answer to If-Range may be where a server does not know the header.
_AGAINST_IF_RANGE = frozenset({400, 412, 416, 500, 501})
# These say that the server, or one on the way to it, has no time.
_NOT_THE_RANGE = OVERLOADED | {408, 425, 502, 504}
_PROXY = 407
# So many odd answers to ranges are taken for one bad moment, or one bad server of several, where
# ranges have been answered well before.
_MOST_ODD = 2


@dataclass
class Manner:
    """How the next requests are made.

    Attributes:
        tied: whether If-Range ties a range to the version that is known.
        whole: whether the object is asked for without a Range.
        single: whether one request at a time is made, for all that is missing.
        settled: whether it stays as it is, because a refusal is an answer as well.
        reason: why it is `whole` or `single`, a clause for people; empty where nothing was wrong.
    """

    tied: bool = True
    whole: bool = False
    single: bool = False
    settled: bool = False
    reason: str = ""
    _odd: int = 0
    _cut: bool = False

    def becomes_plainer(
        self,
        error: TransferError,
        *,
        tied: bool,
        proven: bool,
        reads_on: bool = False,
        last_try: bool = False,
    ) -> bool:
        """Whether after `error`, the answer to a range, a plainer manner was left; it is in force.

        Args:
            tied: whether the request had an If-Range.
            proven: whether the server has answered a range well before.
            reads_on: whether the first answer still brings everything that follows.
            last_try: whether the same request would not be made again.
        """
        if self.settled or not isinstance(error, (HttpStatusError, RangeNotHonouredError)):
            return False
        if tied and self.tied and _is_against_if_range(error):
            self.tied = False
            return True
        if reads_on:
            return self._become_single(error)
        if self.whole:
            # One answer brings the whole, or will; what was to bring a part of it beside may not.
            return not self.single and self._become_single(error)
        if not last_try and self._may_pass(error, proven=proven):
            return False
        if isinstance(error, HttpStatusError) and error.status == _PROXY:
            return False
        self.whole = True
        # An answer that nobody could use was cut off, and the server may not have noticed yet.
        self._cut = proven or isinstance(error, RangeNotHonouredError)
        if proven:
            return self._become_single(error)
        # Whether others may join in shows when it is answered.
        self.reason = _reason(error)
        return True

    def may_be_crowded(self, error: TransferError) -> bool:
        """Whether `error`, the answer to the plain GET, may be meant for one connection too many,
        because one that has just been cut off still counts; once."""
        crowded = self._cut and isinstance(error, HttpStatusError)
        self._cut = False
        return crowded

    def stay_single(self, reason: str) -> None:
        """Ask for everything in one answer, and for nothing beside it."""
        self.single = self.whole = True
        self.reason = reason

    def ask_ranges_again(self) -> None:
        """The plain GET has failed as well, so that it was not the range that was wrong."""
        self.whole = self.single = False
        self.reason = ""

    def _become_single(self, error: HttpStatusError | RangeNotHonouredError) -> bool:
        self.single = True
        self.reason = _reason(error)
        return True

    def _may_pass(self, error: HttpStatusError | RangeNotHonouredError, *, proven: bool) -> bool:
        """Whether the same request may be answered well the next time."""
        if isinstance(error, RangeNotHonouredError):
            self._odd += 1
            return proven and self._odd <= _MOST_ODD
        return error.status in _NOT_THE_RANGE or (proven and retryable(error))


def _reason(error: HttpStatusError | RangeNotHonouredError) -> str:
    return f"its answers to ranges cannot be used ({error.what().rstrip(', ')})"


def _is_against_if_range(error: HttpStatusError | RangeNotHonouredError) -> bool:
    if isinstance(error, RangeNotHonouredError):
        return error.whole
    return error.status in _AGAINST_IF_RANGE
