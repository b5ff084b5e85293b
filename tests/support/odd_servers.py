"""Servers with odd notions of ranges, validators and connections, made up by a table of oddities.

A plain GET, the only thing that `curl -fL` asks, is answered with the whole object, unless `plain`
says otherwise. What else a client may ask is answered as the oddities have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pgetpy.core.http.ranges import Span

# What a range is answered with, beside statuses: the whole, a Content-Range that is none, none at
# all, the range's own length or end as the size of the object, other bytes, an unknown size, fewer
# bytes than asked for.
RANGED = ("well", "whole", "malformed", "missing", "length", "end", "shifted", "star", "short")
STATUSES = (400, 401, 403, 404, 405, 410, 412, 416, 500, 501, 503)
VALIDATORS = ("strong", "weak", "date", "none", "drifting etag", "drifting date", "only on 200")
IF_RANGE = ("honoured", "ignored", "whole", "412", "400")
# What calls itself a success beside 200, and brings the whole all the same.
SUCCESSES = (200, 201, 203, 226, 299)
# How Content-Length is said: once, twice, twice in one field, or of a range as two numbers.
LENGTHS = ("once", "twice", "joined", "differing")
_SHORT = 300_000
_MOST_REQUESTS = 300


@dataclass(frozen=True)
class Oddity:
    """How a server answers.

    Attributes:
        ranged: how a range is answered, a word of RANGED or a status.
        since: the number, from 0, of the request from which `ranged` holds; before, all is well.
        open_end: whether it knows a range without an end.
        plain: the status of the answer to a plain GET.
        validators: a word of VALIDATORS.
        if_range: a word of IF_RANGE.
        accept_ranges: what it says of itself; None for nothing.
        answers: how many answers the link is good for; None for any number.
        breaks: the number of an answer that breaks off in the middle; None for none.
        most: how many connections it serves at a time; further ones are refused with 403.
        late: seconds before each answer.
        success: the status of an answer with the whole.
        lengths: a word of LENGTHS.
    """

    ranged: str | int = "well"
    since: int = 0
    open_end: bool = True
    plain: int = 200
    validators: str = "strong"
    if_range: str = "honoured"
    accept_ranges: str | None = "bytes"
    answers: int | None = None
    breaks: int | None = None
    most: int | None = None
    late: float = 0.0
    success: int = 200
    lengths: str = "once"

    @property
    def curl_gets_it(self) -> bool:
        """Whether a plain GET, made first, brings the whole."""
        return self.plain == 200 and self.breaks != 0

    @property
    def spends_its_answer(self) -> bool:
        """Whether the only answer that the link is good for is one to a range that nobody can use,
        so that asking for a range was one request too many."""
        unusable = isinstance(self.ranged, str) and self.ranged not in ("well", "whole")
        if self.lengths == "differing" and (self.since > 0 or self.ranged == "well"):
            # A part whose length is unclear.
            return self.answers is not None
        # Where the first answer is late a second one is asked for.
        first = self.since == 0 or (self.since == 1 and self.late > 1)
        return self.answers is not None and unusable and first


# What random oddities are made of: what is likelier is there several times.
CHOICES: dict[str, Sequence[object]] = {
    "ranged": [*RANGED, *STATUSES],
    "since": [0, 0, 1, 2, 5],
    "open_end": [False, True],
    "plain": [200, 200, 200, 403],
    "validators": VALIDATORS,
    "if_range": IF_RANGE,
    "accept_ranges": ["bytes", "none", None],
    "answers": [None, None, None, 1],
    "breaks": [None, None, 0, 1, 3],
    "most": [None, None, 1, 2],
    "late": [0.0, 0.0, 0.3, 5.0],
    "success": [200, 200, 200, *SUCCESSES],
    "lengths": ["once", "once", "once", *LENGTHS],
}


@dataclass
class Reply:
    """One answer: `cut` is how many bytes of `body` arrive, where it breaks off."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    cut: int | None = None


class OddServer:
    """Answers for `body` as `oddity` has it."""

    def __init__(self, body: bytes, oddity: Oddity) -> None:
        self.body = body
        self.oddity = oddity
        self.requests = 0
        self.busy = 0
        self._answered = 0

    def reply(self, asked: Span | None, if_range: str | None, *, open_end: bool) -> Reply:
        """Answer a request for `asked`, None for the whole object."""
        odd, number = self.oddity, self.requests
        self.requests += 1
        if number > _MOST_REQUESTS:
            raise AssertionError("asked for without end")
        if odd.most is not None and self.busy > odd.most:
            return Reply(403)
        if odd.answers is not None and self._answered >= odd.answers:
            return Reply(403)
        if asked is None:
            return self._whole(number, odd.success if odd.plain == 200 else odd.plain)
        if open_end and not odd.open_end:
            return self._whole(number)
        if if_range is not None and odd.if_range not in {"honoured", "ignored"}:
            return self._whole(number) if odd.if_range == "whole" else Reply(int(odd.if_range))
        if (
            if_range is not None
            and odd.if_range == "honoured"
            and if_range not in (self._validators(number, 206).values())
        ):
            return self._whole(number)
        return self._part(number, asked)

    def _whole(self, number: int, status: int = 0) -> Reply:
        status = status or self.oddity.success
        if status >= 300:
            return Reply(status)
        headers = {**self._validators(number, 200), "content-length": self._length(self.body)}
        if self.oddity.accept_ranges is not None:
            headers["accept-ranges"] = self.oddity.accept_ranges
        return self._given(Reply(status, headers, self.body))

    def _part(self, number: int, asked: Span) -> Reply:
        total = len(self.body)
        if asked.start >= total:
            return Reply(416, {"content-range": f"bytes */{total}"})
        how = self.oddity.ranged if number >= self.oddity.since else "well"
        if isinstance(how, int):
            return Reply(how)
        if how == "whole":
            return self._whole(number)
        start, stop = asked.start, min(asked.stop, total)
        if how == "short":
            stop = min(stop, start + _SHORT)
        if how == "shifted" and stop < total:
            start, stop = start + 1, stop + 1
        said: str | int = {"length": stop - start, "end": stop, "star": "*"}.get(how, total)
        value = f"bytes {start}-{stop - 1}/{said}"
        content = memoryview(self.body)[start:stop]
        headers = {**self._validators(number, 206), "content-length": self._length(content)}
        if self.oddity.lengths == "differing":
            headers["content-length"] += f", {total + 1}"
        if how != "missing":
            headers["content-range"] = value.replace(" ", "=") if how == "malformed" else value
        return self._given(Reply(206, headers, content))

    def _length(self, content: bytes | memoryview) -> str:
        """Return Content-Length; several fields of that name arrive joined by commas."""
        separator = {"twice": ", ", "joined": ","}.get(self.oddity.lengths)
        length = str(len(content))
        return length if separator is None else f"{length}{separator}{length}"

    def _given(self, reply: Reply) -> Reply:
        if self._answered == self.oddity.breaks:
            reply.cut = len(reply.body) // 2
        self._answered += 1
        return reply

    def _validators(self, number: int, status: int) -> dict[str, str]:
        date = f"Mon, 01 Jan 2024 00:00:0{number % 2} GMT"
        return {
            "strong": {"etag": '"v"'},
            "weak": {"etag": 'W/"v"'},
            "date": {"last-modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            "none": {},
            "drifting etag": {"etag": f'"v{number % 2}"'},
            "drifting date": {"last-modified": date},
            "only on 200": {"etag": '"v"'} if status == 200 else {},
        }[self.oddity.validators]
