"""Signs the requests for the objects of one bucket, and learns from what the store refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pgetpy.core.http.heads import Head
from pgetpy.core.http.urls import Link, opened_link
from pgetpy.core.objects.names import at_region, is_aws
from pgetpy.core.objects.sigv4 import EMPTY_BODY, Credentials, sign

if TYPE_CHECKING:
    from pgetpy.core.objects.refusals import Asker

# botocore renews keys in time if it is asked so often.
_REFRESH_EVERY = 60.0
# Signatures hold for 15 minutes; a smaller difference is not what a store complained about.
_LEAST_SKEW = 60.0


@dataclass(frozen=True)
class Keys:
    """Keys, and what errors say of them.

    Attributes:
        credentials: None if requests are not signed.
        origin: where they came from, in words.
        looked_at: the places that were looked at, in words.
        renew: returns keys that are valid now, and blocks; None if they stay the same.
        region, endpoint: what the profile says; empty if it says nothing.
    """

    credentials: Credentials | None = field(default=None, repr=False)
    origin: str = ""
    looked_at: str = ""
    renew: Callable[[], Credentials | None] | None = field(default=None, repr=False)
    region: str = ""
    endpoint: str = ""


class ObjectSigner:
    """Signs GETs of the objects of `bucket`.

    Args:
        keys: sign; without credentials requests go out unsigned.
        endpoint, region: of the bucket, as far as is known. A store may name another region.
        extra: further `x-amz-*` headers, which are signed as well.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        store: str,
        endpoint: str,
        bucket: str,
        region: str,
        extra: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._lock = threading.Lock()
        self._keys = keys
        self._credentials = keys.credentials
        self._store = store
        self.endpoint = endpoint
        self._bucket = bucket
        self.region = region
        self._extra = tuple(extra)
        self._skew = 0.0
        self._refreshed = time.monotonic()
        self._expired = False
        # The session token that was refused before the last refresh.
        self._refused = ""
        self._moved = False

    @property
    def asker(self) -> Asker:
        """Who asks, for errors."""
        key = self._credentials.access_key if self._credentials else ""
        from pgetpy.core.objects.refusals import Asker

        return Asker(
            self._store, key, self._keys.origin, self._keys.looked_at, self.region, self._bucket,
            self._skew or None,
        )  # fmt: skip

    def headers(self, link: Link, now: float) -> list[tuple[str, str]]:
        """See `RequestSigner.headers`."""
        return self.sign("GET", link, self._extra, now, EMPTY_BODY)

    def sign(
        self,
        method: str,
        link: Link,
        headers: Sequence[tuple[str, str]],
        now: float,
        body_sha256: str,
    ) -> list[tuple[str, str]]:
        """Return the headers to add to a request of any method, with those of `headers` that are
        signed: `x-amz-*`.

        Args:
            now: in seconds since 1970.
            body_sha256: see `core.objects.sigv4.sign`.
        """
        with self._lock:
            credentials, region, skew = self._credentials, self.region, self._skew
        extra = [each for each in headers if each[0].lower().startswith("x-amz-")]
        if credentials is None:
            return extra
        parts = urlsplit(link.url)
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now + skew))
        return sign(
            method,
            parts.netloc,
            parts.path,
            parts.query,
            extra,
            credentials=credentials,
            region=region,
            at=at,
            body_sha256=body_sha256,
        )

    def due(self, now: float) -> bool:
        """See `RequestSigner.due`."""
        if self._keys.renew is None:
            return False
        return self._expired or time.monotonic() - self._refreshed > _REFRESH_EVERY

    def refresh(self) -> None:
        """See `RequestSigner.refresh`."""
        assert self._keys.renew is not None
        renewed = self._keys.renew()
        with self._lock:
            self._credentials = renewed or self._credentials
            self._refreshed = time.monotonic()
            self._expired = False

    def sign_again(
        self, link: Link, sent: Sequence[tuple[str, str]], head: Head, now: float
    ) -> Link | None:
        """See `RequestSigner.sign_again`."""
        if self._credentials is None:
            return None
        from pgetpy.core.objects.refusals import EXPIRED, SKEWED, read_refusal

        refusal = read_refusal(head)
        with self._lock:
            if refusal.code in EXPIRED:
                return link if self._may_renew(sent) else None
            if refusal.code in SKEWED and refusal.date is not None:
                skew = refusal.date - now
                if abs(skew - self._skew) < _LEAST_SKEW:
                    return None
                self._skew = skew
                return link
            if refusal.region and is_aws(self.endpoint):
                return self._move(link, refusal.region)
        return None

    def onward(self, before: Link, after: Link) -> Link:
        """See `RequestSigner.onward`."""
        # Amazon redirects requests for a new bucket to its region until DNS knows of it.
        within = is_aws(before.url) and is_aws(after.url) and self._bucket in after.url
        if before.origin == after.origin or within:
            return replace(after, signer=self)
        return after

    def _may_renew(self, sent: Sequence[tuple[str, str]]) -> bool:
        """Whether other keys may work: these have been replaced already, or can be."""
        assert self._credentials is not None
        token = next((value for name, value in sent if name == "x-amz-security-token"), "")
        if token != self._credentials.session_token:
            return True
        if self._keys.renew is None or self._refused == token:
            return False
        self._refused = token
        self._expired = True
        return True

    def _move(self, link: Link, region: str) -> Link | None:
        """Return `link` at the endpoint of `region`, where the bucket lies."""
        url = at_region(link.url, region)
        if url == link.url or (self._moved and region != self.region):
            return None
        self.endpoint, self.region = at_region(self.endpoint, region), region
        self._moved = True
        return replace(opened_link(url, None, trusted=link.trusted), signer=self)
