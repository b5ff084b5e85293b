"""Whether an answer may be believed: a response's head against what was asked and what is known.

A body is a row of bytes; where they belong is known from the head alone. A server, or a cache on
the way, may send another range, another version of the object, or a compressed form of it, and
each of them would land in the file without an error. So nothing of a body is kept before `judge`
has returned an `Answer`, which says that the body is the object's bytes `start` to `stop`.

Three things have to hold for that:

1. The head says which bytes follow: Content-Range for a part, Content-Length or the end of the
   body for the whole.
2. They are bytes of the version that earlier answers belong to (`Identity`).
3. They are the object's own bytes, or a coding of the whole that can be undone. A part of a coded
   form has no position in the object.

What the head is taken for, by its status and what was asked:

    asked     answer                                   taken for
    -------   --------------------------------------   ------------------------------------------
    a range   206 with Content-Range                   a part; shorter than asked is fine
              200 with Content-Range                   the same: two object stores answer so
              either of these, coded                   RetryWithoutRange, or RangeNotHonoured where
                                                       other answers came plain
              either of these, without the size        RetryWithoutRange
              200                                      the whole, decoded if it is coded;
                                                       RangeNotHonoured once a version is known
              416 with */0                             an empty object, which has no ranges
    nothing   200, 206 that covers everything          the whole
    either    201, 203 or another success, but not     as 200
              202, 204 and 205
              3xx with Location                        Redirected
              anything else                            HttpStatusError

Rules are RFC 9110's; where servers are known to break them in a harmless way a comment names the
habit.
"""

from __future__ import annotations

import re

from pgetpy.core.http.bodies import coding_to_undo, content_length, is_delimited, media_type
from pgetpy.core.http.heads import Head, http_date, status_error
from pgetpy.core.http.ranges import OPEN_END, Span, format_range, parse_content_range
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.errors import ObjectChangedError, RangeNotHonouredError

# RFC 9110, 8.8.2.2 lets a client take Last-Modified for strong when Date is clearly later; a minute
# covers a file replaced twice within the header's one-second grain.
_STRONG_DATE_DISTANCE = 60.0
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True)
class Identity:
    """Which version of an object is meant: its size and the validators of its first answer.

    Attributes:
        total: size of the object in bytes; None where no answer has said it.
        etag: the ETag header as sent, with its quotes and its `W/` if it is weak.
        last_modified: that header as sent. It is compared as text: only equality matters.
        strong_date: whether `last_modified` may serve as a strong validator.
    """

    total: int | None
    etag: str | None = None
    last_modified: str | None = None
    strong_date: bool = False

    @property
    def strong(self) -> bool:
        """Whether an ETag promises equal bytes (RFC 9110, 8.8.1)."""
        return is_strong(self.etag)

    @property
    def if_range(self) -> str | None:
        """The value for If-Range, which may carry a strong validator only (RFC 9110, 13.1.5)."""
        if self.strong:
            return self.etag
        return self.last_modified if self.etag is None and self.strong_date else None

    def agrees(self, other: Identity) -> bool:
        """Whether `other` is the same version: by strong ETag, else by all validators together."""
        if self.total != other.total or self.etag != other.etag:
            return False
        return self.strong or self.last_modified == other.last_modified

    def __str__(self) -> str:
        size = "unknown size" if self.total is None else f"{self.total} bytes"
        return f"{size}, {self.etag or self.last_modified or 'no validator'}"


def is_strong(etag: str | None) -> bool:
    """Whether an ETag header promises equal bytes (RFC 9110, 8.8.1)."""
    return etag is not None and _STRONG_ETAG.fullmatch(etag) is not None


@dataclass(frozen=True)
class Answer:
    """A head that is believed: the body is the object's bytes from `start` up to `stop`.

    Attributes:
        stop: None where only the body's end tells.
        ranged: whether the server serves ranges of this object.
        delimited: whether the end of the body is marked; False where it is the connection's end,
            so that a body that was cut off looks complete.
        decode: the content coding to undo, empty for none.
        skip: unwanted bytes of the body before the one at `start`.
        whole: whether the server sent the whole object, even if a range was asked for.
        name: the Content-Disposition header, for naming a file.
    """

    start: int
    stop: int | None
    identity: Identity
    ranged: bool
    delimited: bool = True
    decode: str = ""
    skip: int = 0
    whole: bool = field(default=False, compare=False)
    name: str = field(default="", compare=False)


class Redirected(Exception):  # noqa: N818  no error: the server said where to ask
    """The answer points elsewhere: `.location` as sent, `.head` the whole head."""

    def __init__(self, location: str, head: Head) -> None:
        super().__init__(location, head.status)
        self.location = location
        self.head = head


class AskAgain(Exception):  # noqa: N818  no error: the question was wrong
    """The answer is of no use, but a different request, newly signed say, may get a better one."""

    without_range = False


class RetryWithoutRange(AskAgain):
    """The answer can be used only when asked again without a range (a coded body, say)."""

    without_range = True


def judge(
    url: str, asked: Span | None, head: Head, known: Identity | None, *, verified: bool = False
) -> Answer:
    """Return what may be believed of `head`, the answer to a GET of `asked` (None: all) of `url`.

    Args:
        url: for errors, and its path for the type of a file.
        asked: the range of the request; None where it had none.
        head: the answer.
        known: the identity that earlier answers of this transfer agreed on, if any.
        verified: whether the whole is checked against a digest in the end. Then an equal size is
            enough: replicas behind one name may send different validators for equal bytes.

    Raises:
        Redirected: a redirect with a Location.
        RetryWithoutRange: see there.
        HttpStatusError: any other status that is not a success.
        RangeNotHonouredError: other bytes than those asked for.
        ObjectChangedError: another version than `known`.
        TransferError: a coding that cannot be undone, or no clear Content-Length.
    """
    if head.is_redirect:
        raise Redirected(head.headers["location"], head)
    if head.status == 416:
        return _unsatisfied(url, asked, head, known)
    if not head.brings_object:
        raise status_error(url, head)
    if verified and known is not None:
        head = _with_validators_of(known, head)
    coding = coding_to_undo(url, head)
    content_range = head.headers.get("content-range")
    if (head.status == 206 and not _is_whole(asked, head)) or (
        content_range is not None and asked is not None
    ):
        # Two object stores answer a range with 200 and a right Content-Range.
        if coding and asked is not None:
            if known is None:
                raise RetryWithoutRange
            # Other answers came plain, so this is one server of several, or one bad moment.
            got = f"a part of the {coding} form"
            raise RangeNotHonouredError(url, format_range(asked), got)
        return _part(url, asked, head, known)
    return _whole(url, asked, head, known, coding)


def may_continue(before: Identity, now: Identity, *, verified: bool) -> bool:
    """Whether bytes of version `before` may be completed with bytes of version `now`.

    An equal strong ETag promises equal bytes; where the whole is `verified` against a checksum at
    its end an equal size is enough to try.
    """
    if before.total is None or before.total != now.total:
        return False
    return verified or (before.strong and before.agrees(now))


def _part(url: str, asked: Span | None, head: Head, known: Identity | None) -> Answer:
    """Judge an answer that calls itself a part."""
    value = head.headers.get("content-range", "no Content-Range")
    content_range = parse_content_range(value)
    # In multipart/byteranges each part of the body has a head of its own (RFC 9110, 14.6).
    multipart = media_type(head) == "multipart/byteranges"
    if asked is None or multipart or content_range is None or content_range.span is None:
        raise RangeNotHonouredError(url, _question(asked), f"{head.status} with {value}")
    span = content_range.span
    identity = _identity(head, content_range.total)
    length = content_length(url, head, asked)
    if known is not None:
        same = known.strong and identity.etag == known.etag
        lying = same or identity.total in (span.size, span.stop)
        if lying and identity.total not in (None, known.total):
            # Some servers give the range's own end, or length, for the object's. That is a fault of
            # this answer, not a new version.
            got = f"{value} of an object of {known.total} bytes"
            raise RangeNotHonouredError(url, _question(asked), got)
        _expect(url, known, identity)
    # A longer answer than asked for, or one that starts elsewhere, is not our bytes; a shorter one
    # is honest (RFC 9110, 15.3.7 allows it) and the rest is asked for again.
    wrong_length = length is not None and length != span.size
    if span.start != asked.start or span.stop > asked.stop or wrong_length:
        got = f"{value} in {length} bytes" if wrong_length else value
        raise RangeNotHonouredError(url, _question(asked), got)
    if identity.total is None:
        raise RetryWithoutRange
    return Answer(
        span.start,
        span.stop,
        identity,
        ranged=True,
        # Whatever the framing, Content-Range says how long it has to be.
        delimited=True,
        name=head.headers.get("content-disposition", ""),
    )


def _whole(url: str, asked: Span | None, head: Head, known: Identity | None, coding: str) -> Answer:
    """Judge an answer that brings the whole object."""
    length = content_length(url, head, asked)
    # The length of a coded body is not the object's.
    total = None if coding else length
    _refuse_part(url, head, total)
    identity = _identity(head, total)
    if asked is None and known is not None and not coding and total is None:
        # A GET without a Range is the last resort; the earlier answers have said the size.
        identity, total = replace(identity, total=known.total), known.total
    if known is not None and known.total is not None:
        _expect(url, known, identity)
        if asked is not None:
            # The same version, but from a server (one of several, perhaps) without ranges.
            got = f"{head.status} with the whole object"
            raise RangeNotHonouredError(url, format_range(asked), got, whole=True)
    return Answer(
        0,
        total,
        identity,
        ranged=total is not None and _asks_all(asked) and _offers_ranges(head),
        delimited=is_delimited(head),
        decode=coding,
        whole=True,
        name=head.headers.get("content-disposition", ""),
    )


def _question(asked: Span | None) -> str:
    return "the whole object" if asked is None else format_range(asked)


def _is_whole(asked: Span | None, head: Head) -> bool:
    """Whether a 206 is all of the object, as some servers answer where no range was asked for."""
    if asked is not None or media_type(head) == "multipart/byteranges":
        return False
    stated = parse_content_range(head.headers.get("content-range", ""))
    return stated is None or stated.span is None or stated.span == (0, stated.total)


def _asks_all(asked: Span | None) -> bool:
    return asked is None or asked == (0, OPEN_END)


def _offers_ranges(head: Head) -> bool:
    return head.headers.get("accept-ranges", "").strip().lower() == "bytes"


def _with_validators_of(known: Identity, head: Head) -> Head:
    """Return `head` with the validators of `known` instead of its own."""
    headers = {k: v for k, v in head.headers.items() if k not in ("etag", "last-modified")}
    if known.etag is not None:
        headers["etag"] = known.etag
    if known.last_modified is not None:
        headers["last-modified"] = known.last_modified
    return replace(head, headers=headers)


def _refuse_part(url: str, head: Head, total: int | None) -> None:
    """Raise where what should be the whole says itself that it is a part."""
    value = head.headers.get("content-range", "")
    stated = parse_content_range(value)
    if stated is None or stated.span is None:
        return
    is_whole = stated.span.start == 0 and stated.span.stop == stated.total
    if not is_whole or total not in (None, stated.total):
        raise RangeNotHonouredError(url, "the whole object", f"{head.status} with {value}")


def _unsatisfied(url: str, asked: Span | None, head: Head, known: Identity | None) -> Answer:
    """Judge a 416: an empty object, a shorter one than before, or an error."""
    content_range = parse_content_range(head.headers.get("content-range", ""))
    total = content_range.total if content_range is not None else None
    if known is not None and total is not None and total != known.total:
        raise ObjectChangedError(url, str(known), str(_identity(head, total)))
    if total == 0 and asked is not None and asked.start == 0:
        # No range of an empty object can be satisfied (RFC 9110, 14.1.2): this is all of it.
        return Answer(0, 0, _identity(head, 0), ranged=False)
    if total is None and known is None and asked is not None and asked.start == 0:
        # Some servers refuse any range of an empty object without saying its size.
        raise RetryWithoutRange
    raise status_error(url, head)


def _expect(url: str, known: Identity, identity: Identity) -> None:
    """Raise unless `identity` is the `known` version.

    An answer that merely leaves something out is a fault of that answer, and asking again may help;
    only a contradiction means that the object has changed.
    """
    if known.agrees(identity):
        return
    if identity.total is None and known.agrees(replace(identity, total=known.total)):
        # The same version as far as the head says; but a part without the size proves nothing.
        raise RangeNotHonouredError(url, f"a range of {known}", "an answer without the size")
    if identity.etag is None and known.strong and identity.total == known.total:
        # 206 and 200 must repeat the ETag (RFC 9110, 15.3.7); without it nothing is proven.
        raise RangeNotHonouredError(url, f"ETag {known.etag}", "an answer without ETag")
    raise ObjectChangedError(url, str(known), str(identity))


def _identity(head: Head, total: int | None) -> Identity:
    etag = head.headers.get("etag") or None
    modified = head.headers.get("last-modified")
    return Identity(total, etag, modified, etag is None and _is_strong_date(head.headers))


def _is_strong_date(headers: dict[str, str]) -> bool:
    """Whether Last-Modified lies long enough before Date."""
    changed = http_date(headers.get("last-modified", ""))
    date = http_date(headers.get("date", ""))
    return changed is not None and date is not None and date - changed >= _STRONG_DATE_DISTANCE
