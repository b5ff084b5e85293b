"""The heads of responses, what refusals say in words, and the dates in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.errors import HttpStatusError

_NOISE = r"(?is)<(head|style|script)\b.*?</\1>|[\x00-\x1f\x7f]"
# Elements that hold text alone, as in `<Error><Code>NoSuchKey</Code>...` of object stores.
_STORE_ERROR = r"\A\W*(?:<\?xml[^>]*>\s*)?<Error\b"
_ELEMENT = r"<(\w+)>([^<]*)</\1>"
_MARKUP = r"<[^>]*>?"
# Successes without the object: it is still being made (202), or there is no content (204, 205).
_WITHOUT_OBJECT = frozenset({202, 204, 205})


@dataclass(frozen=True)
class Head:
    """A response before its body.

    Attributes:
        status: the status code.
        headers: lower-case names to values; repeated fields are joined by `, `, and several
            Set-Cookie fields by line breaks.
        reason: the reason phrase.
        version: of HTTP, major and minor.
        words: of an error, the beginning of its body as text.
        details: of an object store's error, the elements of its XML body.
    """

    status: int
    headers: dict[str, str]
    reason: str = ""
    version: tuple[int, int] = (1, 1)
    words: str = ""
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def brings_object(self) -> bool:
        """Whether the body is the object or a part of it, whichever success the server calls it."""
        return 200 <= self.status <= 299 and self.status not in _WITHOUT_OBJECT

    @property
    def is_redirect(self) -> bool:
        """Whether it says where to ask instead. A Location counts whatever the number is (RFC 9110,
        15.4), as for curl."""
        return 300 <= self.status <= 399 and "location" in self.headers

    @classmethod
    def of(
        cls, status: int, reason: str, fields: Iterable[tuple[str, str]], version: tuple[int, int]
    ) -> Head:
        """Return a head from its fields as received, repeated ones joined (RFC 9110, 5.3)."""
        headers: dict[str, str] = {}
        for name, value in fields:
            lowered = name.lower()
            # Cookies contain commas, so a joined list could not be split again (RFC 9110, 5.3).
            joint = "\n" if lowered == "set-cookie" else ", "
            headers[lowered] = f"{headers[lowered]}{joint}{value}" if lowered in headers else value
        return cls(status, headers, reason, version)


def words_of(head: Head, body: bytes) -> Head:
    """Return `head` with the text at the beginning of its `body`, without mark-up."""
    decoded = body.decode("utf-8", "replace")
    if re.match(_STORE_ERROR, decoded):
        return _words_of_store(head, decoded)
    text = re.sub(_NOISE, " ", decoded)
    return replace(head, words=" ".join(re.sub(_MARKUP, " ", text).split())[:200])


def _words_of_store(head: Head, text: str) -> Head:
    """Return `head` with what an object store says in XML.

    Of its elements only code and message are shown: others repeat the key that signed the request,
    or the text that was signed.
    """
    from html import unescape

    details = {name: unescape(value).strip() for name, value in re.findall(_ELEMENT, text)}
    # Azure puts the request's ID and the time on further lines.
    code, message = details.get("Code", ""), details.get("Message", "").partition("\nRequestId:")[0]
    words = " ".join(re.sub(_NOISE, " ", f"{code}: {message}".strip(": ")).split())[:200]
    return replace(head, words=words, details=details)


def status_error(url: str, head: Head) -> HttpStatusError:
    """Return the error for a status that is not a success, with the server's own words."""
    # The Hub repeats in this field the message that its body wraps in JSON.
    said = re.sub(_NOISE, " ", head.headers.get("x-error-message", "")).strip() or head.words
    words = said.removeprefix(str(head.status)).strip()
    if head.reason.lower() not in words.lower():
        words = f"{head.reason}: {words}" if words else head.reason
    words = " ".join(words.split())[:200]
    return HttpStatusError(
        url,
        head.status,
        words,
        retry_after=parse_retry_after(head.headers),
        code=head.headers.get("x-error-code", "") or head.details.get("Code", ""),
    )


def parse_retry_after(headers: dict[str, str]) -> float | None:
    """Return Retry-After in seconds (RFC 9110, 10.2.3); None where there is none.

    A date is compared with the answer's own Date, so that a wrong clock here does not matter.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    when, date = http_date(value), http_date(headers.get("date", ""))
    if when is None or date is None:
        return None
    return max(0.0, when - date)


def http_date(value: str) -> float | None:
    """Return a date of HTTP (RFC 9110, 5.6.7) in seconds since 1970; None if it is invalid."""
    # Seldom seen, and slow to import.
    import email.utils
    from datetime import timezone

    try:
        moment = email.utils.parsedate_to_datetime(value)
        if moment.tzinfo is None:
            # The asctime form names no zone and means UTC (RFC 9110, 5.6.7).
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
