"""Answers that bring all of a small object, about which nothing has to be decided.

These are most answers to requests for small files. All others are left to `answers.judge` and to an
attempt, which knows what to do about each.
"""

from __future__ import annotations

from pgetpy.core.http.answers import Answer, Redirected, RetryWithoutRange, judge
from pgetpy.core.http.bodies import MOST_DIGITS
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import EVERYTHING
from pgetpy.errors import TransferError


def plain_length(head: Head) -> int | None:
    """Return the Content-Length of a body that is sent as it is; None for any other."""
    headers = head.headers
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or "content-encoding" in headers:
        return None
    return int(length) if length.isdecimal() and len(length) <= MOST_DIGITS else None


def stated_whole(head: Head) -> int | None:
    """Return the size of the object if `head` is the usual answer to a request for everything.

    That is a 206 whose Content-Range and Content-Length say that it has all bytes, as they are. For
    it `judge` would find `ranged` and not `whole`. None for any other answer.
    """
    headers = head.headers
    length = headers.get("content-length", "")
    if head.status != 206 or not (length.isdecimal() and length.isascii()):
        return None
    if len(length) > MOST_DIGITS or length[0] == "0":
        return None
    size = int(length)
    plain = (
        headers.get("content-range") == f"bytes 0-{size - 1}/{length}"
        and "content-encoding" not in headers
        and "transfer-encoding" not in headers
        and not headers.get("content-type", "")[:9].lower().startswith("multipart")
    )
    return size if plain else None


def judge_small(url: str, head: Head, *, verified: bool, most: int) -> Answer | None:
    """Return what may be believed of `head`, the first answer to a request for everything.

    None if the body is anything else than all bytes, as they are, of an object that has at least
    one byte and at most `most`.

    Args:
        url: that was asked.
        head: the answer.
        verified: see `judge`.
        most: the largest size in bytes.

    Raises:
        Redirected: a redirect with a Location.
    """
    try:
        answer = judge(url, EVERYTHING, head, None, verified=verified)
    except Redirected:
        raise
    except (TransferError, RetryWithoutRange):
        return None
    size = answer.identity.total
    if size is None or not 0 < size <= most or size != plain_length(head):
        return None
    return answer if (answer.start, answer.stop, answer.skip) == (0, size, 0) else None
