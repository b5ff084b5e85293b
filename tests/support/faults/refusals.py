"""Refusals and redirects: error statuses, busy servers, signed links that expire."""

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs

from ..resources import Answer, plain
from ..rfc9110 import http_date
from .base import Exchange, Fault


def _retry_after(value: int | str | datetime | timedelta | None) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if isinstance(value, timedelta):
        value = datetime.now(timezone.utc) + value
    return (("Retry-After", http_date(value) if isinstance(value, datetime) else str(value)),)


@dataclass(frozen=True)
class Status(Fault):
    """An error status instead of the object.

    Retry-After is in seconds, as it stands, or a date, also one that is so long after the answer.
    """

    status: int
    words: str = ""
    retry_after: int | str | datetime | timedelta | None = None

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        headers = _retry_after(self.retry_after)
        if self.status == 401:
            headers = (*headers, ("WWW-Authenticate", exchange.resource.challenge))
        if self.status == 416:
            headers = (*headers, ("Content-Range", f"bytes */{len(exchange.resource.body)}"))
        return plain(self.status, self.words, *headers)


@dataclass(frozen=True)
class Busy(Fault):
    """Refuses what comes while ``limit`` other requests are being answered."""

    limit: int
    status: int = 503
    retry_after: int | str | datetime | timedelta | None = None

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if exchange.tally.active <= self.limit:
            return answer
        return plain(self.status, "busy\n", *_retry_after(self.retry_after))


@dataclass(frozen=True)
class RefuseAuthorization(Fault):
    """400 to a request with an Authorization header, as stores answer to signed links with one."""

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if exchange.request.header("authorization") is None:
            return answer
        return plain(400, "only one authentication mechanism is allowed\n")


class Signer:
    """Signs links that live for so many requests or bytes; shared by the two ends of a redirect."""

    def __init__(self, requests: int | None = None, size: int | None = None) -> None:
        self.requests = requests
        self.size = size
        self.issued = 0
        self._used: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._lock = threading.Lock()

    def sign(self, url: str) -> str:
        """The URL with a signature that no other has."""
        with self._lock:
            self.issued += 1
            mark = "&" if "?" in url else "?"
            return f"{url}{mark}X-Amz-Expires=60&X-Amz-Signature=signature-{self.issued}"

    def admits(self, query: str, size: int) -> bool:
        """Whether the link is alive; if so, counts this request and its ``size`` bytes."""
        signature = (parse_qs(query).get("X-Amz-Signature") or [""])[0]
        with self._lock:
            number = signature.removeprefix("signature-")
            if not number.isdigit() or not 0 < int(number) <= self.issued:
                return False
            if self.requests is not None and self._used[signature] >= self.requests:
                return False
            if self.size is not None and self._sent[signature] >= self.size:
                return False
            self._used[signature] += 1
            self._sent[signature] += size
            return True


@dataclass(frozen=True)
class Redirect(Fault):
    """A redirect to a URL, absolute or relative; with a signer, to a newly signed one."""

    to: str
    status: int = 302
    signer: Signer | None = None

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        target = self.signer.sign(self.to) if self.signer else self.to
        return plain(self.status, "elsewhere\n", ("Location", target))


@dataclass(frozen=True)
class RequireSignature(Fault):
    """The other end: refuses links that the signer did not sign or that have expired."""

    signer: Signer
    status: int = 403
    words: str = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        if self.signer.admits(exchange.request.query, len(answer.body)):
            return answer
        return plain(self.status, self.words)
