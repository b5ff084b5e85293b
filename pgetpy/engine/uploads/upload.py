"""One file goes to an object store: whole if it is small, else in parts that are sent in parallel.

    create ----> parts 1 2 3 ... in any order ----> complete ----> what the store has is read back
       |            |  each noted in the journal        |
       |            v                                   v
       |         killed: the next run asks for the parts that are there, and sends the others
       v
    refused for good: aborted, because a store keeps, and charges for, the parts of an upload that
    was never completed

Each part is read twice: for its hashes, which the request carries, and by the kernel as it sends
it. If the file changes in between, the store refuses the part.
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import os
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from pgetpy.core.http.retry import retryable
from pgetpy.core.objects import multipart
from pgetpy.core.objects.names import ObjectName, object_url
from pgetpy.core.objects.sigv4 import EMPTY_BODY, encode_query
from pgetpy.core.report.events import Finished, Progressed, Remarked, Report, Retrying, Started
from pgetpy.core.report.uploads import UploadResult
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.uploads.client import Body, StoreAnswer, StoreClient
from pgetpy.engine.uploads.journal import Upload, UploadJournal, version_of
from pgetpy.errors import (
    DestinationError,
    HttpStatusError,
    ObjectExistsError,
    PgetError,
    TransferError,
)
from pgetpy.errors.reasons import system_reason
from pgetpy.settings import Settings
from pgetpy.sources.object_bucket import Bucket
from pgetpy.system.event_loop import gather_limited, wait_uncancelled
from pgetpy.system.filesystem import closing_fd, disk_errors
from pgetpy.system.threads import WORKERS

T = TypeVar("T")
_BLOCK = 1 << 20
# Hashing and sending keep several cores busy; some more, because each part waits for its answer.
_PARTS_AT_A_TIME = 8
_REPORT_EVERY = 0.1
_CONFLICT = 409  # another client is writing the same object
_EXISTS = 412  # the answer to If-None-Match: *
_UNKNOWN_CONDITION = 501  # of stores that do not implement it
_OTHER_TRIES = (_CONFLICT, _UNKNOWN_CONDITION)


@dataclass(frozen=True)
class UploadOptions:
    """How an object is written.

    Attributes:
        if_absent: whether to fail if the object exists. Only the store can decide that without a
            race, by If-None-Match; some do not know it, and then it is only looked up beforehand.
        content_type: of the object; empty chooses it by the name.
        cache_control: value of that header; empty sends none.
    """

    if_absent: bool = False
    content_type: str = ""
    cache_control: str = ""


@dataclass
class FileUpload:
    """Uploads one file. `run` may be called once.

    Attributes:
        path: of the file.
        target: the object to write.
        bucket: where it is, and who signs.
        options: how it is written.
        settings: retries, timeouts, sizes.
        hosts: give the TLS context.
        report: gets the events, under `key`.
        environ: says where the user's folder for state is.
    """

    path: str
    target: ObjectName
    bucket: Bucket
    options: UploadOptions
    settings: Settings
    hosts: Hosts
    report: Report
    environ: Mapping[str, str]
    key: int = 0
    _done: int = 0  # bytes sent or held; falls when some have to be sent again
    _held: int = 0  # bytes that the store has from an earlier run
    _parts_sent: int = 0
    _reported: float = 0.0  # when progress was last reported
    _remarks: list[str] = field(default_factory=list)

    async def run(self) -> UploadResult:
        """Send the file, check what the store has, and return the result.

        Raises:
            ObjectExistsError: `if_absent`, and there is such an object.
            PgetError: the file cannot be read, or the store or the network failed.
        """
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._client = self._make_client()
        self._url = object_url(
            self.target, endpoint=self.bucket.signer.endpoint, addressing=self.bucket.addressing
        )
        try:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                reason = f"cannot be read: {system_reason(error)}"
                raise DestinationError(self.path, reason, code=error.errno or 0) from None
            with disk_errors(Path(self.path)), closing_fd(fd):
                return await self._upload(fd)
        finally:
            self._client.close()

    async def _upload(self, fd: int) -> UploadResult:
        """Upload the open file in one request or in parts."""
        # Compared at the end: the object must be one version of the file.
        version = version_of(fd)
        self._size = os.fstat(fd).st_size
        if self.options.if_absent:
            await self._check_absent()
        part_size = multipart.choose_part_size(self._size, self._asked_part_size)
        if self._size <= part_size:
            self.report(Started(self.key, self.path, str(self.target), self._size, 0))
            etag = await self._in_thread(partial(self._put_whole, fd))
        else:
            etag = await self._put_parts(fd, version, part_size)
        await self._check_stored(fd, version, etag)
        return self._result(etag)

    def _make_client(self) -> StoreClient:
        return StoreClient(self.bucket.signer, self.settings, self.hosts.tls, self._retrying)

    @property
    def _asked_part_size(self) -> int | None:
        """`--chunk-size`, if it is not the one for downloads."""
        asked = self.settings.chunk_size
        return asked if asked != Settings.chunk_size else None

    # ------------------------------------------------------------------------- one request

    def _put_whole(self, fd: int) -> str:
        """Send the file in one request; return the object's ETag."""
        body, md5 = _hash(fd, 0, self._size)
        headers = [*self._metadata(), *self._condition()]
        answer = self._write("PUT", self._url, body, headers)
        return answer.head.headers.get("etag") or f'"{md5}"'

    def _metadata(self) -> list[tuple[str, str]]:
        """Return the headers that the store keeps with the object."""
        # A guess for `x.json.gz` is that of `x.json`, with a coding: neither is right here.
        guessed, coding = mimetypes.guess_type(self.target.key)
        kind = (
            self.options.content_type or ("" if coding else guessed) or "application/octet-stream"
        )
        headers = [("Content-Type", kind)]
        if self.options.cache_control:
            headers.append(("Cache-Control", self.options.cache_control))
        return headers

    def _condition(self) -> list[tuple[str, str]]:
        # RFC 9110, 13.1.2: succeeds only if the object does not exist.
        return [("If-None-Match", "*")] if self.options.if_absent else []

    def _write(
        self, method: str, url: str, body: Body, headers: list[tuple[str, str]]
    ) -> StoreAnswer:
        """Make the request that creates the object.

        Raises:
            ObjectExistsError: `if_absent`, and the store says that it exists.
        """
        for last in (False, False, True):
            try:
                return self._client.request(method, url, body, headers, sent=self._count)
            except HttpStatusError as error:
                if self.options.if_absent and error.status == _EXISTS:
                    raise self._exists() from None
                if not self.options.if_absent or last or error.status not in _OTHER_TRIES:
                    raise
                if error.status == _UNKNOWN_CONDITION:
                    # Backblaze B2 for one.
                    self._remark("the store ignores If-None-Match: absence was only looked up")
                    headers = [each for each in headers if each[0] != "If-None-Match"]
        raise AssertionError("unreachable")

    async def _check_absent(self) -> None:
        """Raise early if the object exists, before anything is sent; the condition still holds."""
        found = await self._in_thread(
            partial(
                self._client.request, "HEAD", self._url, Body(EMPTY_BODY), accept=frozenset({404})
            )
        )
        if found.head.status != 404:
            raise self._exists()

    def _exists(self) -> ObjectExistsError:
        return ObjectExistsError(str(self.target), hint="leave out --if-absent to replace it")

    # ------------------------------------------------------------------------- many parts

    async def _put_parts(self, fd: int, version: tuple[int, ...], part_size: int) -> str:
        """Send the file in parts, those that the store lacks; return the object's ETag."""
        journal = UploadJournal(self.path, self._url, self.environ)
        upload = await self._in_thread(partial(self._begin, journal, version, part_size))
        self._held = self._done = sum(self._extent(n, upload.part_size)[1] for n in journal.parts)
        self.report(Started(self.key, self.path, str(self.target), self._size, self._held))
        count = -(-self._size // upload.part_size)
        missing = [number for number in range(1, count + 1) if number not in journal.parts]

        async def send(number: int) -> None:
            md5 = await self._in_thread(partial(self._put_part, fd, upload, number), long=True)
            journal.note(number, md5)
            self._parts_sent += 1

        try:
            most = self.settings.concurrency or _PARTS_AT_A_TIME
            await gather_limited([partial(send, number) for number in missing], most)
            etag = await self._in_thread(partial(self._complete, upload, journal))
        except (HttpStatusError, ObjectExistsError) as error:
            if retryable(error):
                raise  # the next run resumes from here
            await self._in_thread(partial(self._abort, upload))
            journal.remove()
            raise
        journal.remove()
        return etag

    def _begin(self, journal: UploadJournal, version: tuple[int, ...], part_size: int) -> Upload:
        """Return the upload that an earlier run began, if the store still has it, or a new one."""
        upload = journal.read(version) if self.settings.resume else None
        if upload is not None:
            there = self._parts_of(upload)
            if there is not None:
                # Only what both confirm: the journal has the hash, the store the part.
                journal.parts = {
                    number: md5
                    for number, md5 in journal.parts.items()
                    if there.get(number) == self._extent(number, upload.part_size)[1]
                }
                return upload
        answer = self._client.request(
            "POST", f"{self._url}?uploads=", Body(EMPTY_BODY), self._metadata()
        )
        found = multipart.text_of("UploadId", answer.text)
        if not found:
            raise TransferError(self._url, "the store did not start a multipart upload")
        upload = Upload(found, version, part_size)
        journal.begin(upload)
        return upload

    def _parts_of(self, upload: Upload) -> dict[int, int] | None:
        """Return the sizes of the parts that the store has; None if it has forgotten the upload."""
        sizes: dict[int, int] = {}
        marker = ""
        while True:
            pairs = [("uploadId", upload.id), ("part-number-marker", marker)]
            query = encode_query([pair for pair in pairs if pair[1]])
            answer = self._client.request(
                "GET", f"{self._url}?{query}", Body(EMPTY_BODY), accept=frozenset({404})
            )
            if answer.head.status == 404:
                return None
            parts, marker = multipart.parse_parts(answer.text)
            sizes |= {part.number: part.size for part in parts}
            if not marker:
                return sizes

    def _put_part(self, fd: int, upload: Upload, number: int) -> str:
        """Send one part; return its MD5 in hex, which is its ETag at most stores."""
        body, md5 = _hash(fd, *self._extent(number, upload.part_size))
        query = encode_query([("partNumber", str(number)), ("uploadId", upload.id)])
        self._client.request("PUT", f"{self._url}?{query}", body, sent=self._count)
        return md5

    def _extent(self, number: int, part_size: int) -> tuple[int, int]:
        """Return where a part begins, and its size."""
        start = (number - 1) * part_size
        return start, min(part_size, self._size - start)

    def _complete(self, upload: Upload, journal: UploadJournal) -> str:
        """Have the store put the parts together; return the object's ETag."""
        query = encode_query([("uploadId", upload.id)])
        data = multipart.completion({number: f'"{md5}"' for number, md5 in journal.parts.items()})
        body = Body(hashlib.sha256(data).hexdigest(), data=data)
        condition = self._condition()
        if condition and not self.bucket.is_amazon:
            self._remark("not every store honours If-None-Match for multipart uploads")
        answer = self._write("POST", f"{self._url}?{query}", body, condition)
        etag = multipart.text_of("ETag", answer.text)
        return etag or multipart.usual_etag(journal.parts)

    def _abort(self, upload: Upload) -> None:
        """Have the store delete the parts; failing to is only remarked."""
        query = encode_query([("uploadId", upload.id)])
        # The client of this upload is stopped, with the parts that were under way.
        client = self._make_client()
        try:
            client.request(
                "DELETE", f"{self._url}?{query}", Body(EMPTY_BODY), accept=frozenset({404})
            )
        except PgetError as error:
            self._remark(f"the parts that were sent could not be removed ({error.sentence()})")
        finally:
            client.close()

    # ------------------------------------------------------------------------------ the end

    async def _check_stored(self, fd: int, version: tuple[int, ...], etag: str) -> None:
        """Check the size of the object, and that the file has not changed since it was opened."""
        found = await self._in_thread(
            partial(self._client.request, "HEAD", self._url, Body(EMPTY_BODY))
        )
        size = found.head.headers.get("content-length", "")
        if size.isdigit() and int(size) != self._size:
            raise TransferError(self._url, f"the store has {size} bytes, {self._size} were sent")
        if version_of(fd) != version:
            raise DestinationError(
                self.path, "changed while it was uploaded", hint="upload it again"
            )

    def _result(self, etag: str) -> UploadResult:
        seconds = time.monotonic() - self._started
        moved = self._size - self._held
        result = UploadResult(
            url=self.path,
            final_url=str(self.target),
            dest=str(self.target),
            size=self._size,
            digest=None,
            seconds=seconds,
            bytes_per_second=moved / seconds if seconds else 0.0,
            retries=self._client.retries,
            resumed=self._held,
            requests=self._client.requests,
            etag=etag,
            parts_sent=self._parts_sent,
            remarks=tuple(self._remarks),
        )
        self.report(Finished(self.key, result))
        return result

    async def _in_thread(self, work: Callable[[], T], *, long: bool = False) -> T:
        """Run requests in a thread; cancelling ends them, and waits for the thread."""
        return await wait_uncancelled(WORKERS.submit(work, long=long), self._client.stop)

    def _count(self, count: int) -> None:
        """Count bytes that have gone out, or are taken back. Called in any thread."""
        self._loop.call_soon_threadsafe(self._progress, count)

    def _progress(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY or self._done == self._size:
            self._reported = now
            self.report(Progressed(self.key, max(0, self._done), self._size, 1))

    def _retrying(self, error: PgetError, delay: float) -> None:
        event = Retrying(self.key, str(self.target), error, delay)
        self._loop.call_soon_threadsafe(self.report, event)

    def _remark(self, remark: str) -> None:
        self._remarks.append(remark)
        event = Remarked(self.key, str(self.target), remark)
        self._loop.call_soon_threadsafe(self.report, event)


def _hash(fd: int, start: int, size: int) -> tuple[Body, str]:
    """Return the body for part of a file, and its MD5 in hex. Content-MD5 has the store refuse a
    part that was damaged on the way, or changed after it was hashed."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    pos, end = start, start + size
    while pos < end:
        block = os.pread(fd, min(_BLOCK, end - pos), pos)
        if not block:
            break
        sha256.update(block)
        md5.update(block)
        pos += len(block)
    headers = [("Content-MD5", b64encode(md5.digest()).decode())]
    return Body(sha256.hexdigest(), size, fd, start, headers=headers), md5.hexdigest()
