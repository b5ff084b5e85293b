"""Signs the requests for the objects of one bucket, and learns from what the store refuses.

Three things that a signature depends on may be wrong at first, and the refusal says how to put them
right (`sign_again`). Each is corrected for all later requests of the bucket:

    keys      expired              `renew` gives new ones, if a service handed them out
    clock     off by minutes       the answer's Date gives the difference, `_skew`
    region    not the bucket's     the answer names it: endpoint and region change

Each correction has a limit, so that a store that always refuses cannot cause a loop: the same token
is renewed once, a skew must differ from the known one by a minute, a bucket moves once.

Requests are signed in several threads, and several may be refused for one reason. `_may_renew`
looks at the token that a request was sent with: if it is not the current one, another thread has
renewed already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pgetpy.core.http.heads import Head
from pgetpy.core.http.urls import Link, opened_link
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.objects.names import at_region, is_aws
from pgetpy.core.objects.sigv4 import EMPTY_BODY, Credentials, sign

if TYPE_CHECKING:
    from pgetpy.core.objects.refusals import Asker

# Seconds between two calls of `Keys.renew`: botocore renews keys some minutes before they expire.
_REFRESH_EVERY = 60.0
# Seconds. Stores accept 15 minutes; a smaller difference is not why a request was refused.
_LEAST_SKEW = 60.0
# How often the clock is made up for: a store whose own clock jumps must not cause a loop either.
_MOST_CORRECTIONS = 8
# Amazon S3 API Reference, "GetObject": sends the checksum that the store has of the object.
CHECKSUM_MODE = ("x-amz-checksum-mode", "ENABLED")


@dataclass(frozen=True)
class Keys:
    """Keys, and what errors say about them.

    Attributes:
        credentials: None if requests are not signed.
        token: is sent as a bearer's in place of a signature; empty for none.
        origin: where they came from, in words.
        looked_at: the places that were searched for keys, in words.
        renew: returns keys that are valid now, and blocks; its argument says whether the store has
            refused the last ones. None for static keys.
        region, endpoint: those of the profile; empty if it has none.
    """

    credentials: Credentials | None = field(default=None, repr=False)
    origin: str = ""
    looked_at: str = ""
    renew: Callable[[bool], Credentials | None] | None = field(default=None, repr=False)
    region: str = ""
    endpoint: str = ""
    token: str = field(default="", repr=False)


class ObjectSigner:
    """Signs requests for the objects of `bucket`; see `core.http.urls.RequestSigner`.

    Args:
        keys: to sign with; without credentials requests go out unsigned.
        store: what people call the store.
        endpoint, region: of the bucket, as far as is known. A store may name another region.
        bucket: its name.
        extra: further `x-amz-*` headers for GETs, which are signed as well.
        asks_checksum: see `RequestSigner.asks_checksum`.
        to_set: see `Asker.to_set`.

    Attributes:
        endpoint, region: as above; they change when a store names another region.
        whole_first: see `RequestSigner.whole_first`. Amazon and MinIO leave checksums out of
            answers to ranges.
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
        asks_checksum: bool = True,
        to_set: str = "",
    ) -> None:
        self._lock = threading.Lock()
        self._keys = keys
        self._credentials = keys.credentials
        self._store = store
        self._to_set = to_set
        self.endpoint = endpoint
        self._bucket = bucket
        self.region = region
        self._extra = tuple(extra)
        self.whole_first = CHECKSUM_MODE in self._extra
        self.asks_checksum = asks_checksum
        self._skew = 0.0
        self._corrections = 0
        self._refreshed = time.monotonic()
        self._expired = False
        # The session token that was refused before the last refresh.
        self._refused = ""
        self._moved = False

    @property
    def signs(self) -> bool:
        """Whether requests are signed, by keys."""
        return self._credentials is not None

    @property
    def asker(self) -> Asker:
        """Who asked, for the words of an error."""
        key = self._credentials.access_key if self._credentials else ""
        by_token = bool(self._keys.token)
        from pgetpy.core.objects.refusals import Asker

        return Asker(
            self._store, key, self._keys.origin, self._keys.looked_at, self.region, self._bucket,
            self._skew or None, by_token, self._to_set,
        )  # fmt: skip

    def headers(
        self, link: Link, headers: Sequence[tuple[str, str]], now: float
    ) -> list[tuple[str, str]]:
        """See `RequestSigner.headers`. None of `headers` is signed."""
        return self.sign("GET", link, self._extra, now, EMPTY_BODY)

    def sign(
        self,
        method: str,
        link: Link,
        headers: Sequence[tuple[str, str]],
        now: float,
        body_sha256: str,
    ) -> list[tuple[str, str]]:
        """Return the headers to add to a request: those of the signature, and the `x-amz-*` ones of
        `headers`, which it covers.

        Args:
            method: such as GET.
            link: what is requested.
            headers: of the request; others than `x-amz-*` are ignored.
            now: seconds since 1970, by this machine's clock.
            body_sha256: see `core.objects.sigv4.sign`.
        """
        with self._lock:
            credentials, region, skew = self._credentials, self.region, self._skew
        extra = [each for each in headers if each[0].lower().startswith("x-amz-")]
        if credentials is None:
            token = self._keys.token
            return [*extra, ("Authorization", f"Bearer {token}")] if token else extra
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
        renewed = self._keys.renew(self._expired)
        with self._lock:
            self._credentials = renewed or self._credentials
            self._refreshed = time.monotonic()
            self._expired = False

    def sign_again(
        self, link: Link, sent: Sequence[tuple[str, str]], head: Head, now: float
    ) -> Link | None:
        """See `RequestSigner.sign_again`."""
        from pgetpy.core.objects.refusals import EXPIRED, SKEWED, read_refusal

        refusal = read_refusal(head)
        with self._lock:
            signed = self._credentials is not None
            if refusal.code in EXPIRED and signed:
                return link if self._may_renew(sent) else None
            if refusal.code in SKEWED and refusal.date is not None and signed:
                skew = refusal.date - now
                is_new = abs(skew - self._skew) >= _LEAST_SKEW
                if not is_new or self._corrections >= _MOST_CORRECTIONS:
                    return None
                self._skew = skew
                self._corrections += 1
                return link
            if refusal.region and is_aws(self.endpoint):
                return self._move(link, sent, refusal.region)
        return None

    def onward(self, before: Link, after: Link) -> Link:
        """See `RequestSigner.onward`."""
        # Until DNS knows a new bucket, Amazon redirects requests for it to its region.
        within = is_aws(before.url) and is_aws(after.url) and self._bucket in after.url
        if before.origin == after.origin or within:
            return replace(after, signer=self)
        return after

    def _may_renew(self, sent: Sequence[tuple[str, str]]) -> bool:
        """Whether other keys may work: these have been replaced already, or can be. Needs the
        lock."""
        assert self._credentials is not None
        token = next((value for name, value in sent if name == "x-amz-security-token"), "")
        if token != self._credentials.session_token:
            return True
        if self._keys.renew is None or self._refused == token:
            return False
        self._refused = token
        self._expired = True
        return True

    def _move(self, link: Link, sent: Sequence[tuple[str, str]], region: str) -> Link | None:
        """Return `link` at the endpoint of `region`, the bucket's; None if that changes neither
        the URL nor the signature, or the bucket has moved before. Needs the lock."""
        url = at_region(link.url, region)
        signature = next((value for name, value in sent if name == "Authorization"), f"/{region}/")
        same = url == link.url and f"/{region}/" in signature
        if same or (self._moved and region != self.region):
            return None
        self.endpoint, self.region = at_region(self.endpoint, region), region
        self._moved = True
        return replace(opened_link(url, None, trusted=link.trusted), signer=self)
