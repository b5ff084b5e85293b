"""Half-open byte ranges, and the only parser and printer of Range and Content-Range.

Everywhere in pgetpy a range is `start` up to but not including `stop`. HTTP counts inclusively
(RFC 9110, 14): its `bytes=0-9` is `Span(0, 10)`. The two forms meet in this module alone, so that
an off-by-one can only be here.

`Spans` is a set of bytes: what is held, what has landed, what has been seen. Its two sorted lists
keep the invariant

    start[0] < stop[0] < start[1] < stop[1] < ...

with gaps of at least one byte, so that two spans which touch are one. Each operation is a binary
search plus the spans it changes, and the usual one, appending, is constant.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pgetpy.core.lazy_dataclass import dataclass

_CONTENT_RANGE = re.compile(
    r"bytes[ \t]+(?:(?P<first>\d{1,19})-(?P<last>\d{1,19})|(?P<unsatisfied>\*))"
    r"/(?P<total>\d{1,19}|\*)",
    re.IGNORECASE | re.ASCII,
)


class Span(NamedTuple):
    """Bytes `start` up to but not including `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class ContentRange:
    """A Content-Range header: `span` is None for `bytes */TOTAL`, `total` is None for `*`."""

    span: Span | None
    total: int | None


# The `stop` of a range that asks for everything from its start on. Larger than any object.
OPEN_END = 1 << 62
EVERYTHING = Span(0, OPEN_END)


def format_range(span: Span) -> str:
    """Return the value of a Range header that asks for `span` (RFC 9110, 14.1.2)."""
    return f"bytes={span.start}-" + ("" if span.stop == OPEN_END else f"{span.stop - 1}")


def parse_content_range(value: str) -> ContentRange | None:
    """Return what a Content-Range header says (RFC 9110, 14.4), or None where it is invalid."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        return None
    total = None if match["total"] == "*" else int(match["total"])
    if match["unsatisfied"]:
        return ContentRange(None, total) if total is not None else None
    first, last = int(match["first"]), int(match["last"])
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(Span(first, last + 1), total)


def joined(spans: Iterable[Span], gap: int) -> tuple[Span, ...]:
    """Return `spans` sorted, merging those that are no more than `gap` bytes apart."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start - found[-1].stop <= gap:
            found[-1] = Span(found[-1].start, max(found[-1].stop, span.stop))
        else:
            found.append(span)
    return tuple(found)


def whole_units(spans: Iterable[Span], unit: int, total: int) -> Spans:
    """Return the whole units of `unit` bytes within `spans`, of an object of `total` bytes.

    The last unit of the object may be shorter and counts as whole.
    """
    found = Spans()
    for start, stop in spans:
        found.add(-(-start // unit) * unit, stop if stop >= total else stop - stop % unit)
    return found


class Spans:
    """A set of bytes, kept as sorted spans that neither touch nor overlap."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self.size = 0
        for span in spans:
            self.add(span.start, span.stop)

    def __iter__(self) -> Iterator[Span]:
        return (Span(*pair) for pair in zip(self._starts, self._stops, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __repr__(self) -> str:
        return f"Spans({list(self)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spans):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from `start` up to `stop`."""
        if start >= stop:
            return
        if self._stops and start == self._stops[-1]:
            # The usual case, a download in order.
            self._stops[-1] = stop
            self.size += stop - start
            return
        # Spans low to high touch or overlap the new one, and become part of it.
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            self.size -= sum(self._stops[low:high]) - sum(self._starts[low:high])
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]
        self.size += stop - start

    def covers(self, start: int, stop: int) -> bool:
        """Whether every byte from `start` up to `stop` is in the set."""
        return next(self.missing(start, stop), None) is None

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any byte from `start` up to `stop` is in the set."""
        return start < stop and next(self.missing(start, stop), None) != Span(start, stop)

    def missing(self, start: int, stop: int) -> Iterator[Span]:
        """Yield the spans between `start` and `stop` that are not in the set, lowest first."""
        index = bisect_right(self._stops, start)
        while start < stop and index < len(self._starts):
            gap_stop = min(self._starts[index], stop)
            if start < gap_stop:
                yield Span(start, gap_stop)
            start = max(start, self._stops[index])
            index += 1
        if start < stop:
            yield Span(start, stop)

    @property
    def frontier(self) -> int:
        """The first byte that is not in the set: everything before it is."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0
