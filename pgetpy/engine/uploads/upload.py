"""One file goes to an object store: whole if it is small, else in parts that are sent in parallel.

    create ----> parts 1 2 3 ... in any order ----> complete ----> what the store has is read back
       |            |  each noted in the journal        |
       |            v                                   v
       |         killed: the next run asks for the parts that are there, and sends the others
       v
    refused for good: aborted, because a store keeps, and charges for, the parts of an upload that
    was never completed

Each part is read twice: for its hash, which the request carries, and by the kernel as it sends it.
If the file changes in between, the store refuses the part. If it changes between two parts, the
upload is aborted before it is completed, so that no object is a mix of two versions.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from pgetpy.core.http.heads import Head
from pgetpy.core.http.retry import retryable
from pgetpy.core.http.small_answers import plain_length
from pgetpy.core.objects import multipart
from pgetpy.core.objects.multipart import SentPart
from pgetpy.core.objects.names import ObjectName, object_url
from pgetpy.core.objects.sigv4 import EMPTY_BODY
from pgetpy.core.report.events import Finished, Progressed, Remarked, Report, Retrying, Started
from pgetpy.core.report.uploads import UploadResult
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.uploads.client import Body, StoreAnswer, StoreClient
from pgetpy.engine.uploads.journal import Upload, UploadJournal, version_of
from pgetpy.engine.uploads.multipart_requests import MultipartRequests
from pgetpy.engine.uploads.options import UploadOptions
from pgetpy.engine.uploads.source_file import changed, file_md5, hash_body, open_source
from pgetpy.errors import (
    HttpStatusError,
    ObjectExistsError,
    PgetError,
    SourceFileError,
    TransferError,
)
from pgetpy.settings import Settings
from pgetpy.sources.object_bucket import Bucket
from pgetpy.system.event_loop import gather_limited, wait_uncancelled
from pgetpy.system.filesystem import closing_fd, disk_errors
from pgetpy.system.threads import WORKERS

T = TypeVar("T")
# Hashing and sending keep several cores busy; some more, because each part waits for its answer.
_PARTS_AT_A_TIME = 8
_REPORT_EVERY = 0.1
_CONFLICT = 409  # another client is writing the same object
_EXISTS = 412  # the answer to If-None-Match: *
_UNKNOWN_CONDITION = 501  # of stores that do not implement it
_OTHER_TRIES = (_CONFLICT, _UNKNOWN_CONDITION)
_MISSING = 404
_FORBIDDEN = 403  # keys that may write need not be allowed to read


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
    _looked: bool = False  # whether the object was seen to be absent
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
        self._kept_headers = self.options.kept_headers(self.target.key)
        self._parts = MultipartRequests(self._client, self._url)
        try:
            with disk_errors(Path(self.path)), closing_fd(open_source(self.path)) as fd:
                # Compared before the object is made: it must be one version of the file.
                self._version = version_of(fd)
                return await self._upload(fd)
        finally:
            self._client.close()

    async def _upload(self, fd: int) -> UploadResult:
        """Upload the open file in one request or in parts."""
        self._size = os.fstat(fd).st_size
        if self._size > multipart.LARGEST_OBJECT:
            raise SourceFileError(
                self.path, "is too large: an upload has at most 10,000 parts of 5 GiB"
            )
        if self.options.if_absent:
            await self._check_absent()
        part_size = multipart.choose_part_size(self._size, self._asked_part_size)
        try:
            if self._size <= part_size:
                self.report(Started(self.key, self.path, str(self.target), self._size, 0))
                etag = await self._in_thread(partial(self._put_whole, fd))
            else:
                with closing(UploadJournal(self.path, self._url, self.environ)) as journal:
                    etag = await self._put_parts(fd, part_size, journal)
        except HttpStatusError:
            # The store compares hashes, and has refused what changed after it was hashed.
            self._check_unchanged(fd)
            raise
        etag = await self._check_stored(etag)
        self._check_unchanged(fd)
        return self._result(etag)

    def _check_unchanged(self, fd: int) -> None:
        if version_of(fd) != self._version:
            raise changed(self.path)

    def _make_client(self) -> StoreClient:
        return StoreClient(self.bucket.signer, self.settings, self.hosts.tls, self._retrying)

    @property
    def _asked_part_size(self) -> int | None:
        """`--chunk-size`, if it is not the one for downloads."""
        asked = self.settings.chunk_size
        return asked if asked != Settings.chunk_size else None

    # ------------------------------------------------------------------------- one request

    def _put_whole(self, fd: int) -> str:
        """Send the file in one request; return the object's ETag, empty if the store gives none."""
        body = self._body(fd, 0, self._size)
        self._check_unchanged(fd)
        headers = [*self._kept_headers, *self.options.conditions()]
        answer = self._write(
            "PUT", self._url, body, headers, lambda: f'"{file_md5(fd, self._size)}"'
        )
        return "" if answer is None else answer.head.headers.get("etag") or ""

    def _body(self, fd: int, start: int, size: int) -> Body:
        signed = self.bucket.signer.signs and self.target.scheme != "gs"
        return hash_body(self.path, fd, start, size, signed=signed)

    def _write(
        self,
        method: str,
        url: str,
        body: Body,
        headers: list[tuple[str, str]],
        expected: Callable[[], str],
    ) -> StoreAnswer | None:
        """Make the request that creates the object.

        Args:
            expected: returns the ETag that the object should have; empty if it is not known.

        Returns:
            The answer; None if it was lost, and the object is there.

        Raises:
            ObjectExistsError: `if_absent`, and the store says that it exists.
        """
        before = self._client.requests
        for last in (False, False, True):
            try:
                return self._client.request(method, url, body, headers, sent=self._count)
            except HttpStatusError as error:
                exists = self.options.if_absent and error.status == _EXISTS
                done = exists or (method == "POST" and error.status == _MISSING)
                repeated = self._client.requests > before + 1
                if done and repeated and self._is_there(expected()):
                    return None
                if exists:
                    raise self._exists() from None
                if not self.options.if_absent or last or error.status not in _OTHER_TRIES:
                    raise
                if error.status == _UNKNOWN_CONDITION:
                    # Backblaze B2 for one.
                    if not self._looked:
                        raise
                    self._remark("the store ignores If-None-Match: absence was only looked up")
                    headers = [each for each in headers if each[0] != "If-None-Match"]
        raise AssertionError("unreachable")

    def _is_there(self, etag: str) -> bool:
        """Whether the object is the one that was to be written: a request that is made again finds
        what the first one did, if only its answer was lost."""
        found = self._look()
        return bool(etag) and (found.headers.get("etag"), plain_length(found)) == (etag, self._size)

    def _look(self) -> Head:
        """Return what the store says about the object."""
        accept = frozenset({_MISSING, _FORBIDDEN})
        return self._client.request("HEAD", self._url, Body(EMPTY_BODY), accept=accept).head

    async def _check_absent(self) -> None:
        """Raise early if the object exists, before anything is sent; the condition still holds."""
        status = (await self._in_thread(self._look)).status
        # Keys that may not list the bucket get 403 for an object that is missing, too.
        self._looked = status == _MISSING
        if status < 300:
            raise self._exists()

    def _exists(self) -> ObjectExistsError:
        return ObjectExistsError(str(self.target), hint="leave out --if-absent to replace it")

    # ------------------------------------------------------------------------- many parts

    async def _put_parts(self, fd: int, part_size: int, journal: UploadJournal) -> str:
        """Send the file in parts, those that the store lacks; return the object's ETag."""
        upload = await self._in_thread(partial(self._begin, journal, part_size))
        self._held = self._done = sum(self._extent(n, upload.part_size)[1] for n in journal.parts)
        self.report(Started(self.key, self.path, str(self.target), self._size, self._held))
        count = -(-self._size // upload.part_size)
        missing = [number for number in range(1, count + 1) if number not in journal.parts]

        def put(number: int) -> str:
            body = self._body(fd, *self._extent(number, upload.part_size))
            return self._parts.put(upload.id, number, body, self._count)

        async def send(number: int) -> None:
            journal.note(number, await self._in_thread(partial(put, number), long=True))
            self._parts_sent += 1

        try:
            most = self.settings.concurrency or _PARTS_AT_A_TIME
            await gather_limited([partial(send, number) for number in missing], most)
            self._check_unchanged(fd)
            etag = await self._in_thread(partial(self._complete, upload, journal))
        except (HttpStatusError, ObjectExistsError, SourceFileError) as error:
            if retryable(error):
                raise  # the next run resumes from here
            await self._in_thread(partial(self._abort, upload))
            journal.remove()
            raise
        journal.remove()
        return etag

    def _begin(self, journal: UploadJournal, part_size: int) -> Upload:
        """Return the upload that an earlier run began, if the store still has it, or a new one."""
        earlier = journal.read()
        if earlier is not None:
            # Parts of another version of the file are of no use.
            useful = self.settings.resume and earlier.version == self._version
            there = self._parts.parts(earlier.id) if useful else None
            if there is not None:
                journal.parts = self._confirmed(journal.parts, there, earlier.part_size)
                return earlier
            self._abort(earlier)
        upload = Upload(self._parts.begin(self._kept_headers), self._version, part_size)
        journal.begin(upload)
        return upload

    def _confirmed(
        self, noted: Mapping[int, str], there: Mapping[int, SentPart], part_size: int
    ) -> dict[int, str]:
        """Return the ETags of the parts that both the journal and the store know."""
        return {
            number: etag
            for number, etag in noted.items()
            if (part := there.get(number)) is not None
            and part.size == self._extent(number, part_size)[1]
            and part.etag in ("", etag)
        }

    def _extent(self, number: int, part_size: int) -> tuple[int, int]:
        """Return where a part begins, and its size."""
        start = (number - 1) * part_size
        return start, min(part_size, self._size - start)

    def _complete(self, upload: Upload, journal: UploadJournal) -> str:
        """Have the store put the parts together; return the object's ETag."""
        url, body = self._parts.completion(upload.id, journal.parts)
        expected = multipart.expected_etag(journal.parts)
        condition = self.options.conditions()
        if condition and not self.bucket.is_amazon:
            self._remark("not every store honours If-None-Match for multipart uploads")
            # The parts may have taken hours: look once more.
            if self._look().status < 300:
                raise self._exists()
        answer = self._write("POST", url, body, condition, lambda: expected)
        doubtful = answer is not None and not multipart.says_complete(answer.text)
        if doubtful and not self._is_there(expected):  # but an older one, perhaps of the same size
            raise TransferError(self._url, "the store did not confirm that it has the object")
        return (answer and multipart.text_of("ETag", answer.text)) or expected

    def _abort(self, upload: Upload) -> None:
        """Have the store delete the parts; failing to is only remarked."""
        # The client of this upload may be stopped, with the parts that were under way.
        client = self._make_client()
        try:
            MultipartRequests(client, self._url).abort(upload.id)
        except PgetError as error:
            self._remark(f"the parts that were sent could not be removed ({error.sentence()})")
        finally:
            client.close()

    # ------------------------------------------------------------------------------ the end

    async def _check_stored(self, etag: str) -> str:
        """Check that the store has the object; return its ETag.

        Args:
            etag: what the store has said on writing it; empty if nothing.
        """
        head = await self._in_thread(self._look)
        if head.status == _FORBIDDEN:
            self._remark("the key may not read the object, so its size was not compared")
            return etag
        if head.status == _MISSING:
            raise TransferError(self._url, "the store does not have the object that was written")
        size, found = plain_length(head), head.headers.get("etag") or etag
        resized = size not in (None, self._size)
        if self.options.if_absent and (resized or multipart.are_of_two_objects(etag, found)):
            raise self._exists()  # by now
        if resized:
            raise TransferError(self._url, f"the store has {size} bytes, {self._size} were sent")
        return found

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
            connections=self._client.most_busy,
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
            done, busy = max(0, self._done), max(1, self._client.busy)
            self.report(Progressed(self.key, done, self._size, busy))

    def _retrying(self, error: PgetError, delay: float) -> None:
        event = Retrying(self.key, str(self.target), error, delay)
        self._loop.call_soon_threadsafe(self.report, event)

    def _remark(self, remark: str) -> None:
        self._remarks.append(remark)
        event = Remarked(self.key, str(self.target), remark)
        self._loop.call_soon_threadsafe(self.report, event)
