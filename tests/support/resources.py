"""What the server holds, and the right answer to a request for it (RFC 9110, 13.2.2 and 14).

Pure: a request and a resource in, an answer out. Every wrong answer is made from a right one by a
fault (faults.py); how an answer goes out on the wire is delivery.py's.
"""

import time
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from .delivery import Delivery
from .rfc9110 import (
    Headers,
    Request,
    Span,
    etags,
    http_date,
    is_http_date,
    strong_match,
    weak_match,
)

if TYPE_CHECKING:
    from .faults import Fault

LONG_AGO = http_date(1_700_000_000)
BOUNDARY = "THIS-STRING-SEPARATES"


@dataclass(frozen=True)
class Resource:
    """One object: its bytes, its metadata, and how its server treats it."""

    body: bytes = b""
    etag: str | None = '"v1"'
    last_modified: str | None = LONG_AGO
    content_type: str | None = "application/octet-stream"
    headers: Headers = ()
    faults: "tuple[Fault, ...] | list[Fault]" = ()
    date: bool = True
    ranges: bool = True
    accept_ranges: str | None = "bytes"
    honours_if_range: bool = True
    many_ranges: Literal["multipart", "whole"] = "multipart"
    empty_range: Literal[416, 200] = 416
    authorization: str | tuple[str, ...] | None = None
    accepts_post: bool = False
    challenge: str = 'Basic realm="weights"'


@dataclass(frozen=True)
class Answer:
    """One response: its head, its body and its delivery."""

    status: int
    headers: Headers = ()
    body: bytes | memoryview = b""
    version: str = "HTTP/1.1"
    span: Span | None = None
    delivery: Delivery = field(default_factory=Delivery)

    def header(self, name: str) -> str | None:
        return next((v for key, v in self.headers if key.lower() == name.lower()), None)

    def without(self, *names: str) -> "Answer":
        lower = {name.lower() for name in names}
        return replace(self, headers=tuple(h for h in self.headers if h[0].lower() not in lower))

    def having(self, name: str, value: object) -> "Answer":
        """With this header once, in place of any it had."""
        cleared = self.without(name)
        return replace(cleared, headers=(*cleared.headers, (name, str(value))))

    def carrying(self, body: bytes | memoryview) -> "Answer":
        """With this body and its true Content-Length."""
        return replace(self, body=body).having("Content-Length", len(body))

    def delivered(self, **changes: Any) -> "Answer":
        return replace(self, delivery=replace(self.delivery, **changes))

    def head(self) -> bytes:
        try:
            reason = HTTPStatus(self.status).phrase
        except ValueError:
            reason = "Unknown"
        lines = [f"{self.version} {self.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def plain(status: int, words: str = "", *headers: tuple[str, str]) -> Answer:
    """An answer without the object: an error, a redirect."""
    body = words.encode()
    answer = Answer(status, (("Date", http_date(time.time())), *headers))
    if body:
        answer = answer.having("Content-Type", "text/plain; charset=utf-8")
    return answer if status in (204, 304) else answer.carrying(body)


def right_answer(request: Request, resource: Resource) -> Answer:
    """The answer that RFC 9110 asks for."""
    if request.method == "POST" and resource.accepts_post:
        return plain(204)
    if request.method not in ("GET", "HEAD"):
        return plain(405, "method not allowed\n", ("Allow", "GET, HEAD"))
    accepted = resource.authorization
    if accepted is not None:
        expected = (accepted,) if isinstance(accepted, str) else accepted
        if request.header("authorization") not in expected:
            return plain(401, "unauthorized\n", ("WWW-Authenticate", resource.challenge))
    refusal = _precondition(request, resource)
    if refusal is not None:
        return refusal
    if not request.specs or not resource.ranges or not if_range_holds(request, resource):
        return whole(resource)
    return _ranged(request, resource)


def _precondition(request: Request, resource: Resource) -> Answer | None:
    match = request.header("if-match")
    if match and match != "*" and not any(strong_match(t, resource.etag) for t in etags(match)):
        return plain(412, "precondition failed\n")
    unmodified = request.header("if-unmodified-since")
    if match is None and unmodified and _changed_since(resource, unmodified):
        return plain(412, "precondition failed\n")
    none = request.header("if-none-match")
    if none and (none == "*" or any(weak_match(t, resource.etag) for t in etags(none))):
        return _not_modified(resource)
    modified = request.header("if-modified-since")
    if none is None and modified and not _changed_since(resource, modified):
        return _not_modified(resource)
    return None


def _changed_since(resource: Resource, moment: str) -> bool:
    if resource.last_modified is None or not is_http_date(moment):
        return True
    return parsedate_to_datetime(resource.last_modified) > parsedate_to_datetime(moment)


def _not_modified(resource: Resource) -> Answer:
    kept = [h for h in metadata(resource) if h[0] in ("Date", "ETag", "Last-Modified")]
    return Answer(304, tuple(kept))


def if_range_holds(request: Request, resource: Resource) -> bool:
    """Whether the Range is to be looked at: strong comparison, dates exactly and only when old."""
    condition = request.header("if-range")
    if condition is None or not resource.honours_if_range:
        return True
    if not is_http_date(condition):
        return strong_match(condition, resource.etag)
    if condition != resource.last_modified:
        return False
    return parsedate_to_datetime(condition).timestamp() + 1 <= time.time()


def metadata(resource: Resource) -> Headers:
    """The headers that a 200 and a 206 share."""
    found: list[tuple[str, str | None]] = [
        ("Date", http_date(time.time()) if resource.date else None),
        ("ETag", resource.etag),
        ("Last-Modified", resource.last_modified),
        ("Accept-Ranges", resource.accept_ranges),
        ("Content-Type", resource.content_type),
    ]
    return (*((name, value) for name, value in found if value is not None), *resource.headers)


def whole(resource: Resource) -> Answer:
    """200 with all of it."""
    return Answer(200, metadata(resource)).carrying(memoryview(resource.body))


def part(resource: Resource, start: int, stop: int) -> Answer:
    """206 with the bytes from start to stop."""
    total = len(resource.body)
    answer = Answer(206, metadata(resource), span=(start, stop))
    answer = answer.having("Content-Range", f"bytes {start}-{stop - 1}/{total}")
    return answer.carrying(memoryview(resource.body)[start:stop])


def _ranged(request: Request, resource: Resource) -> Answer:
    total = len(resource.body)
    spans = [span for spec in request.specs if (span := spec.span(total))]
    if not spans:
        if total == 0 and resource.empty_range == 200:
            return whole(resource)
        return plain(416, "", ("Content-Range", f"bytes */{total}"))
    if len(spans) == 1:
        return part(resource, *spans[0])
    if resource.many_ranges == "whole":
        return whole(resource)
    return multipart(resource, spans)


def multipart(resource: Resource, spans: list[Span]) -> Answer:
    """206 as multipart/byteranges."""
    pieces: list[bytes] = []
    for start, stop in spans:
        head = f"--{BOUNDARY}\r\nContent-Type: {resource.content_type}\r\n"
        head += f"Content-Range: bytes {start}-{stop - 1}/{len(resource.body)}\r\n\r\n"
        pieces += [head.encode(), resource.body[start:stop], b"\r\n"]
    pieces.append(f"--{BOUNDARY}--\r\n".encode())
    answer = Answer(206, metadata(resource))
    answer = answer.having("Content-Type", f"multipart/byteranges; boundary={BOUNDARY}")
    return answer.carrying(b"".join(pieces))
