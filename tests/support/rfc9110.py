"""Requests as RFC 9110 and RFC 9112 define them: a strict parser, and what a client did wrong.

Pure functions and values. Byte ranges leave this file half-open; only the header's own text is
inclusive. Strict means that what a server may forgive, and a client may not send, is told.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import format_datetime

Headers = tuple[tuple[str, str], ...]
Span = tuple[int, int]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"(/|[A-Za-z][A-Za-z0-9+.-]*://)[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]*")
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]*[\x21-\x7e\x80-\xff])?|")
_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_SPEC = re.compile(r"(\d+)-(\d*)|-(\d+)")
_DATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    r" \d{4} \d\d:\d\d:\d\d GMT"
)
_SINGLE = (
    "host",
    "range",
    "if-range",
    "authorization",
    "proxy-authorization",
    "user-agent",
    "content-length",
    "transfer-encoding",
    "content-type",
    "referer",
)
_PORTED_HOST = re.compile(r"(127\.[\d.]+|localhost|\[::1\])(:(\d+))?")


class MalformedError(ValueError):
    """A message that its grammar does not allow."""


@dataclass(frozen=True)
class RangeSpec:
    """One element of a Range header: ``first-last``, ``first-`` or (``first`` None) ``-last``."""

    first: int | None
    last: int | None

    def span(self, total: int) -> Span | None:
        """The half-open bytes of an object of ``total`` bytes, None when there are none."""
        if self.first is None:
            length = min(self.last or 0, total)
            return (total - length, total) if length else None
        if self.first >= total:
            return None
        return self.first, total if self.last is None else min(self.last + 1, total)


@dataclass(frozen=True)
class Request:
    """The head of one request."""

    method: str
    target: str
    version: str
    headers: Headers

    @property
    def path(self) -> str:
        origin = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?]*", "", self.target)
        return origin.partition("?")[0] or "/"

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        found = self.values(name)
        return ", ".join(found) if found else None

    @property
    def specs(self) -> tuple[RangeSpec, ...]:
        """The byte ranges asked for; empty without a Range that a server must look at."""
        value = self.header("range")
        try:
            return parse_range(value) if value and self.method == "GET" else ()
        except MalformedError:
            return ()

    @property
    def start(self) -> int | None:
        """The first position of the first range asked for."""
        return self.specs[0].first if self.specs else None


def parse_request(raw: bytes) -> Request:
    """Parse a head (request line and fields, each ended by CRLF, without the empty line)."""
    text = raw.decode("latin-1")
    if "\n" in text.replace("\r\n", "") or "\r" in text.replace("\r\n", ""):
        raise MalformedError("a line of the head does not end with CRLF")
    line, *fields = text.split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3:
        raise MalformedError(f"request line {line!r}")
    method, target, version = parts
    if not _TOKEN.fullmatch(method) or version not in ("HTTP/1.1", "HTTP/1.0"):
        raise MalformedError(f"request line {line!r}")
    if target != "*" and not _TARGET.fullmatch(target):
        raise MalformedError(f"request target {target!r}")
    return Request(method, target, version, tuple(_field(field) for field in fields if field))


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise MalformedError(f"header line {line!r}")
    value = value.strip(" \t")
    if not _VALUE.fullmatch(value):
        raise MalformedError(f"header value {line!r}")
    return name, value


def parse_range(value: str) -> tuple[RangeSpec, ...]:
    """Parse a Range value (RFC 9110, 14.1.1); no ranges for a unit other than bytes."""
    unit, equals, rest = value.partition("=")
    if not equals or not _TOKEN.fullmatch(unit) or not rest:
        raise MalformedError(f"Range {value!r}")
    if unit.lower() != "bytes":
        return ()
    return tuple(_spec(element.strip(" \t"), value) for element in rest.split(","))


def _spec(element: str, value: str) -> RangeSpec:
    match = _SPEC.fullmatch(element)
    if not match:
        raise MalformedError(f"Range {value!r}")
    first, last, suffix = match.groups()
    if suffix is not None:
        return RangeSpec(None, int(suffix))
    if last and int(last) < int(first):
        raise MalformedError(f"Range {value!r} ends before it starts")
    return RangeSpec(int(first), int(last) if last else None)


def offences(request: Request, port: int) -> Iterator[str]:
    """What the client that sent ``request`` to ``port`` was not allowed to send."""
    for name in _SINGLE:
        if len(request.values(name)) > 1:
            yield f"{name} sent more than once"
    yield from _host_offences(request, port)
    yield from _range_offences(request)
    if request.header("content-length") and request.header("transfer-encoding"):
        yield "Content-Length together with Transfer-Encoding"
    for name in ("if-match", "if-none-match"):
        for value in request.values(name):
            if value != "*" and not etags(value):
                yield f"{name} {value!r}"


def _host_offences(request: Request, port: int) -> Iterator[str]:
    hosts = request.values("host")
    if not hosts:
        if request.version == "HTTP/1.1":
            yield "no Host"
        return
    if "@" in hosts[0] or "@" in request.target.partition("?")[0].partition("://")[2].split("/")[0]:
        yield "user information in Host or in the request target"
    local = _PORTED_HOST.fullmatch(hosts[0])
    if local and int(local[3] or 80) != port and not (port == 443 and not local[3]):
        yield f"Host {hosts[0]!r} names another port than {port}"


def _range_offences(request: Request) -> Iterator[str]:
    value = request.header("range")
    if value is not None:
        try:
            parse_range(value)
        except MalformedError as error:
            yield f"malformed {error}"
    condition = request.header("if-range")
    if condition is None:
        return
    if value is None:
        yield "If-Range without Range"
    if condition.startswith("W/"):
        yield f"If-Range with the weak entity tag {condition}"
    elif not _ETAG.fullmatch(condition) and not _DATE.fullmatch(condition):
        yield f"If-Range {condition!r} is neither an entity tag nor a date"


def etags(value: str) -> list[str]:
    """The entity tags of an If-Match or If-None-Match list; empty when it is malformed."""
    found = [match.group(0) for match in _ETAG.finditer(value)]
    rest = _ETAG.sub("", value)
    return found if not rest.strip(" \t,") else []


def strong_match(one: str | None, other: str | None) -> bool:
    """The strong comparison of RFC 9110, 8.8.3.2: a weak tag matches nothing."""
    return one is not None and one == other and not one.startswith("W/")


def weak_match(one: str | None, other: str | None) -> bool:
    """The weak comparison: the opaque parts agree."""
    if one is None or other is None:
        return False
    return one.removeprefix("W/") == other.removeprefix("W/")


def http_date(moment: datetime | float) -> str:
    """An IMF-fixdate of an aware datetime or of seconds since 1970."""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(int(moment), timezone.utc)
    return format_datetime(moment.astimezone(timezone.utc), usegmt=True)


def is_http_date(value: str) -> bool:
    return _DATE.fullmatch(value) is not None
