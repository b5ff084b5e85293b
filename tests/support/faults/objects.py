"""Faults of the object: another version, another validator, another coding, no ranges."""

import gzip
import sys
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from ..resources import Resource
from .base import Exchange, Fault


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """200 with the whole body, whatever range is asked for (Accept-Ranges still says bytes)."""

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return replace(resource, ranges=False)


@dataclass(frozen=True)
class IgnoreIfRange(Fault):
    """206 although If-Range names another version."""

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return replace(resource, honours_if_range=False)


@dataclass(frozen=True)
class WeakEtag(Fault):
    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return replace(resource, etag=f"W/{resource.etag}")


@dataclass(frozen=True)
class NoValidators(Fault):
    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return replace(resource, etag=None, last_modified=None)


@dataclass(frozen=True)
class EtagPerRequest(Fault):
    """Each of ``backends`` has its own ETag for the same bytes."""

    backends: int = sys.maxsize

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return replace(resource, etag=f'"backend-{exchange.nth % self.backends}"')


@dataclass(frozen=True)
class Replaced(Fault):
    """Another object under the same name, from where ``when`` says on.

    The ETag is kept when none is given; None leaves the answers without one.
    """

    body: bytes
    etag: str | None = ""
    last_modified: str | None = ""

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        etag = resource.etag if self.etag == "" else self.etag
        modified = resource.last_modified if self.last_modified == "" else self.last_modified
        return replace(resource, body=self.body, etag=etag, last_modified=modified)


@dataclass(frozen=True)
class Overwritten(Fault):
    """Overwritten in place while it is read: from ``at`` on the bytes are of another version."""

    at: int
    body: bytes

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        return replace(resource, body=resource.body[: self.at] + self.body[self.at :])


@lru_cache(maxsize=8)
def _encode(body: bytes, coding: str) -> bytes:
    return gzip.compress(body, 1, mtime=0) if coding == "gzip" else zlib.compress(body, 1)


@dataclass(frozen=True)
class Encoded(Fault):
    """A content coding although identity was asked for; ``label`` is what the header claims."""

    coding: Literal["gzip", "deflate"] = "gzip"
    label: str | None = None

    def represent(self, resource: Resource, exchange: Exchange) -> Resource:
        etag = f'{resource.etag[:-1]}-{self.coding}"' if resource.etag else None
        header = ("Content-Encoding", self.label or self.coding)
        body = _encode(resource.body, self.coding)
        return replace(resource, body=body, etag=etag, headers=(*resource.headers, header))
