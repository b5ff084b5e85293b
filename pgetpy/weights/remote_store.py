"""The bucket behind a cache's remote tier: small objects, read and written whole, and blobs.

A store that does not answer must cost little. Every small request has a short limit, credentials
included, and is made once. After a failure the store is left alone for a minute. Reading and
writing are switched off separately, because a key may be allowed only one of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from pgetpy.core.cache.remote_records import blob_name
from pgetpy.core.http.small_answers import plain_length
from pgetpy.core.objects.names import ObjectName, object_url, parse_object_name
from pgetpy.core.objects.sigv4 import EMPTY_BODY
from pgetpy.core.report.events import ignore_event
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.uploads.client import Body, StoreClient
from pgetpy.engine.uploads.options import UploadOptions
from pgetpy.engine.uploads.upload import FileUpload
from pgetpy.errors import HttpStatusError, ObjectExistsError, PgetError, StalledError
from pgetpy.settings import Settings
from pgetpy.sources.base import RemoteFile
from pgetpy.sources.object_bucket import Bucket, bucket_of, explain_refusal
from pgetpy.sources.table import parse_reference, store_settings
from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import WORKERS

T = TypeVar("T")
# For one small request, with everything that it needs: credentials, a name look-up, a connection.
_LONGEST_REQUEST = 5.0
_LONGEST_SILENCE = 3.0
# While a blob is read: the origin may be faster than waiting any longer.
_LONGEST_STALL = 6.0
_OFF_SECONDS = 60.0
_PARTS_AT_A_TIME = 4
_FOREVER = "public, max-age=31536000, immutable"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_CHANGED = 412
# Of stores that do not implement the condition.
_UNKNOWN_CONDITION = 501
_LOG = RoomLog("weights")


@dataclass
class OffSwitch:
    """Leaves a store alone for a minute after a failure, and warns of the first one.

    Attributes:
        use: what the store is not used for meanwhile, a clause.
    """

    use: str
    until: float = 0.0
    warned: bool = False

    @property
    def is_off(self) -> bool:
        return time.monotonic() < self.until

    def fail(self, where: str, error: PgetError) -> None:
        """Leave the store `where` alone because of `error`."""
        self.until = time.monotonic() + _OFF_SECONDS
        log = _LOG.debug if self.warned else _LOG.warning
        self.warned = True
        log("the cache's remote %s %s for a minute: %s", where, self.use, error)


@dataclass(frozen=True)
class SmallObject:
    """A small object: its text, and the store's name for this version of it."""

    text: str
    etag: str


class RemoteStore:
    """The objects below one prefix of a bucket.

    Args:
        place: the prefix, such as `s3://BUCKET/PREFIX`.
        settings: of the cache, before a policy took anything away.
        environ: says where the user's folder for state is.

    Attributes:
        shown: the prefix, for messages.
        settings: with which blobs are read: those of the cache, impatient, and without what is
            meant for origins.
        reading, writing: whether the store is left alone.

    Raises:
        BadReferenceError: `place` is not the name of a bucket and a prefix.
    """

    def __init__(self, place: str, settings: Settings, environ: Mapping[str, str]) -> None:
        stores = store_settings(place, settings.sources)
        named = parse_object_name(place, stores.bucket)
        prefix = named.key.strip("/")
        self._place = replace(named, key=f"{prefix}/" if prefix else "")
        self._stores = stores
        self._environ = environ
        self.shown = str(named)
        patient = _for_store(settings)
        self._patient = patient
        self.settings = replace(
            patient,
            retries=min(patient.retries, 1),
            connect_timeout=min(patient.connect_timeout, _LONGEST_SILENCE),
            stall_timeout=min(patient.stall_timeout, _LONGEST_STALL),
        )
        self.reading = OffSwitch("is not read")
        self.writing = OffSwitch("gets no copies")
        self._hosts = Hosts(self.settings, WORKERS)
        self._begin()
        call_in_children(self._begin)

    def _begin(self) -> None:
        """Start without connections; also in forked children."""
        self._client: StoreClient | None = None

    def close(self) -> None:
        """Close the connections that are not in use."""
        if self._client is not None:
            self._client.close()

    # ------------------------------------------------------------------------- small objects

    async def read(self, name: str) -> SmallObject | None:
        """Return the object `name`; None if there is none.

        Raises:
            PgetError: the store refuses, or does not answer in time.
        """
        accept = frozenset({404})

        def work(client: StoreClient, url: str) -> SmallObject | None:
            answer = client.request("GET", url, Body(EMPTY_BODY), accept=accept)
            if answer.head.status == 404:
                return None
            return SmallObject(answer.text, answer.head.headers.get("etag") or "")

        return await self._ask(name, work)

    async def size(self, digest: str) -> int | None:
        """Return the size of the blob with `digest`; None if there is none.

        Raises:
            PgetError: as for `read`.
        """
        accept = frozenset({404})

        def work(client: StoreClient, url: str) -> int | None:
            head = client.request("HEAD", url, Body(EMPTY_BODY), accept=accept).head
            return plain_length(head) if head.status != 404 else None

        return await self._ask(blob_name(digest), work)

    async def write(self, name: str, data: bytes, *, over: SmallObject | None) -> bool:
        """Write the object `name` if it is still `over`, or absent for None.

        Stores that do not know the condition write it anyway: read it back where that matters.

        Returns:
            False if it is another object meanwhile.

        Raises:
            PgetError: as for `read`.
        """
        condition = ("If-Match", over.etag) if over is not None else ("If-None-Match", "*")
        body = Body(hashlib.sha256(data).hexdigest(), data=data)
        kind = ("Content-Type", "application/json")
        accept = frozenset({_CHANGED, _UNKNOWN_CONDITION})

        def work(client: StoreClient, url: str) -> bool:
            answer = client.request("PUT", url, body, [kind, condition], accept=accept)
            if answer.head.status == _UNKNOWN_CONDITION:
                answer = client.request("PUT", url, body, [kind])
            return answer.head.status != _CHANGED

        return await self._ask(name, work)

    async def delete(self, name: str) -> None:
        """Delete the object `name`.

        Raises:
            PgetError: as for `read`.
        """

        def work(client: StoreClient, url: str) -> None:
            client.request("DELETE", url, Body(EMPTY_BODY), accept=frozenset({404}))

        await self._ask(name, work)

    async def _ask(self, name: str, work: Callable[[StoreClient, str], T]) -> T:
        """Do `work`, which makes requests, in a thread and within the time limit."""
        named = self._named(name)

        def run() -> T:
            bucket = self._bucket()
            if self._client is None:
                silence = min(self.settings.stall_timeout, _LONGEST_SILENCE)
                settings = replace(self.settings, retries=0, stall_timeout=silence)
                self._client = StoreClient(
                    bucket.signer, settings, self._hosts.tls, lambda *_: None
                )
            return work(self._client, _url_of(bucket, named))

        asking = WORKERS.submit(run)
        # Nothing may be left to say of a request that comes too late.
        asking.add_done_callback(lambda late: late.cancelled() or late.exception())
        done, _ = await asyncio.wait([asking], timeout=_LONGEST_REQUEST)
        if not done:
            late, self._client = self._client, None
            if late is not None:
                late.stop()
            raise StalledError(str(named), _LONGEST_REQUEST)
        try:
            return asking.result()
        except HttpStatusError as error:
            raise self._explained(named, error) from None

    # ------------------------------------------------------------------------------- blobs

    async def blob(self, digest: str) -> RemoteFile:
        """Return the blob with `digest`, for the engine.

        Raises:
            PgetError: there are no usable keys.
        """
        bucket = await WORKERS.submit(self._bucket)
        return bucket.remote(_url_of(bucket, self._named(blob_name(digest))))

    async def upload(self, path: Path, digest: str, *, replacing: bool) -> None:
        """Upload a file as the blob with `digest`, unless there is one.

        Args:
            replacing: whether to replace a blob that is known to be wrong.

        Raises:
            PgetError: the store or the network failed, or the file has changed.
        """
        named = self._named(blob_name(digest))
        bucket = await WORKERS.submit(self._bucket)
        options = UploadOptions(if_absent=not replacing, cache_control=_FOREVER)
        settings = replace(self._patient, concurrency=_PARTS_AT_A_TIME)
        upload = FileUpload(
            str(path), named, bucket, options, settings, self._hosts, ignore_event, self._environ
        )
        try:
            await upload.run()
        except ObjectExistsError:
            return  # the name is the digest: it has these bytes, or a reader finds out
        except HttpStatusError as error:
            raise self._explained(named, error) from None

    def _named(self, name: str) -> ObjectName:
        return replace(self._place, key=self._place.key + name)

    def _bucket(self) -> Bucket:
        """Return the bucket. May block: it may read keys."""
        return bucket_of(self._stores, self._place.bucket)

    def _explained(self, named: ObjectName, error: HttpStatusError) -> PgetError:
        reference = parse_reference(str(named), "file", self.settings.sources)
        return explain_refusal(named, reference, error, self._stores)


def _url_of(bucket: Bucket, named: ObjectName) -> str:
    return object_url(named, endpoint=bucket.signer.endpoint, addressing=bucket.addressing)


def _for_store(settings: Settings) -> Settings:
    """Return `settings` without what is meant for origins and destinations."""
    return replace(
        settings,
        policy=None,
        headers=_NO_HEADERS,
        authorization=None,
        use_netrc=False,
        metrics_endpoint=None,
        metrics_file=None,
        max_size=None,
        force=True,
        fsync=False,
        min_free=0,
    )
