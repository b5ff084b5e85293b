"""How an object is asked for: from the fastest manner to the plainest.

Some servers refuse ranges, or If-Range, or answer them with contradictions, and still serve the
object to a plain GET. So an error that only ranges can cause is not a failure of the transfer as
long as a plainer manner is left. `Manner` is a state machine that never goes back to If-Range:

    tied, ranged      Range and If-Range
       |  400, 412, 416, 500 or 501, or the whole for a range: what servers do that do not know
       |  If-Range
       v
    ranged            Range alone; each answer still has to show the known validators
       |  an unusable answer to a range that trying again does not mend
       +-----------------------------+-------------------------------+
       |  the first answer still     |  ranges have worked before    |  they never have
       |  reads on                   v                               v
       |                     whole, single                         whole
       v                     one plain GET, nothing beside it      a plain GET; if its answer offers
    single                   it                                    ranges, others may join in
    the first answer
    brings everything

`ask_ranges_again` leads back from `whole` to ranges: where the plain GET fails as well, the ranges
were not to blame. `settled` switches all of this off for requests whose refusal is the answer.
"""

from __future__ import annotations

from pgetpy.core.http.retry import OVERLOADED, retryable
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.errors import HttpStatusError, RangeNotHonouredError, TransferError

# How servers answer that do not understand If-Range.
_AGAINST_IF_RANGE = frozenset({400, 412, 416, 500, 501})
# The server, or one on the way to it, is busy: the range has nothing to do with it.
_NOT_THE_RANGE = OVERLOADED | {408, 425, 502, 504}
# The proxy wants a login, for a plain GET as well.
_PROXY = 407
# Where ranges have worked before, so many odd answers pass for a bad moment, or for one bad server
# of several.
_MOST_ODD = 2


@dataclass
class Manner:
    """How the next requests are made.

    Attributes:
        tied: whether If-Range ties a range to the version that is known.
        whole: whether the object is asked for without a Range.
        single: whether one request at a time is made, for all that is missing.
        settled: whether the manner never changes, because the caller wants to see a refusal.
        reason: why it is `whole` or `single`, a clause for people; empty where nothing was wrong.
    """

    tied: bool = True
    whole: bool = False
    single: bool = False
    settled: bool = False
    reason: str = ""
    _odd: int = 0
    _cut: bool = False
    # As (tied, whole, single).
    _failed: set[tuple[bool, bool, bool]] = field(default_factory=set, compare=False)

    @property
    def untried(self) -> bool:
        """Whether this manner has not failed yet, so that it earns all tries of a transfer.

        It may have: `ask_ranges_again` leads through the same manners again, and a server that
        never delivers would be asked forever.
        """
        return (self.tied, self.whole, self.single) not in self._failed

    def becomes_plainer(
        self,
        error: TransferError,
        *,
        tied: bool,
        proven: bool,
        reads_on: bool = False,
        last_try: bool = False,
    ) -> bool:
        """Change to a plainer manner after `error`, the answer to a range; False if none is left.

        Args:
            tied: whether the request had an If-Range.
            proven: whether the server has answered a range well before.
            reads_on: whether the first answer still brings everything that follows.
            last_try: whether the same request would not be made again.
        """
        if self.settled or not isinstance(error, (HttpStatusError, RangeNotHonouredError)):
            return False
        self._note_failure()
        if tied and self.tied and _is_against_if_range(error):
            self.tied = False
            return True
        if reads_on:
            return self._become_single(error)
        if self.whole:
            # A plain GET brings the whole, or will; this range beside it was refused.
            return not self.single and self._become_single(error)
        if not last_try and self._may_pass(error, proven=proven):
            return False
        if isinstance(error, HttpStatusError) and error.status == _PROXY:
            return False
        self.whole = True
        # The connection of an unusable answer was cut off, which the server may not know yet.
        self._cut = proven or isinstance(error, RangeNotHonouredError)
        if proven:
            return self._become_single(error)
        # Whether others may join in shows when it is answered.
        self.reason = _reason(error)
        return True

    def may_be_crowded(self, error: TransferError) -> bool:
        """Whether `error`, the answer to the plain GET, may only mean one connection too many.

        Some servers allow a client one connection, and still count the one that has just been cut
        off. This is believed once.
        """
        crowded = self._cut and isinstance(error, HttpStatusError)
        self._cut = False
        return crowded

    def stay_single(self, reason: str) -> None:
        """Ask for everything in one answer, and for nothing beside it."""
        self.single = self.whole = True
        self.reason = reason

    def ask_ranges_again(self) -> None:
        """Go back to ranges: the plain GET has failed as well, so they were not to blame."""
        self._note_failure()
        self.whole = self.single = False
        self.reason = ""

    def _note_failure(self) -> None:
        self._failed.add((self.tied, self.whole, self.single))

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
