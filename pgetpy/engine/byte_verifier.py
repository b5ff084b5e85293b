"""What the bytes of a transfer have to hash to, and the digest that follows them.

    the caller's or the service's checksum     known before the first request
    the store's own checksum                   with the first answer, if nothing else is asked;
                                               beforehand for archives and streams

One digest is computed at most: the caller's says more than the store's. An algorithm that cannot be
computed here is not an error; the result says so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgetpy.core.http.heads import Head
from pgetpy.core.http.sink import Sink
from pgetpy.destinations.base import Destination
from pgetpy.destinations.file import MODERATE
from pgetpy.engine.context import StartOverError
from pgetpy.errors import HttpStatusError, PgetError, ServiceError
from pgetpy.system.filesystem import disk_errors
from pgetpy.system.threads import Workers

if TYPE_CHECKING:
    from pgetpy.core.http.answers import Answer, Identity
    from pgetpy.core.objects.stored_checksums import StoredChecksum
    from pgetpy.core.references.checksums import Checksum, Digest
    from pgetpy.engine.answer_gate import AnswerGate
    from pgetpy.engine.context import EngineContext
    from pgetpy.engine.hashing import FileDigest
    from pgetpy.engine.requests import Route

# What the headers begin with that `stored_checksums` reads.
_MARKS = ("x-amz-checksum-", "x-goog-hash", "x-ms-blob-")
_EXTRA = "install pgetpy[s3] to have it checked"
# What a store answers if a key may read an object, but not all that is known about it.
_REFUSALS = (401, 403)
_UNANSWERED = "the store did not answer when it was asked for a checksum"
_NEVER_SAME = "the store's checksum was of another version each time"
_WRITTEN_BEFORE = "another run wrote it"
# Seconds that a complete transfer waits for the store's checksum.
_LONGEST_WAIT = 10.0


class ByteVerifier:
    """Verifies what a destination receives. The methods are called on the event loop.

    Args:
        checksum: the caller's; None if there is none.
        destination: lets the bytes be read back.
        workers: threads that hash.

    Attributes:
        asked: the caller's checksum.
        stored: the store's, which is verified if the caller has none.
        unverified: why the store's cannot be verified, with its algorithm; empty otherwise.
    """

    def __init__(
        self, checksum: Checksum | None, destination: Destination, workers: Workers
    ) -> None:
        self.asked = checksum
        self.stored: StoredChecksum | None = None
        self.unverified = ""
        self._destination = destination
        self._workers = workers
        self._head: Head | None = None  # that was learned from last
        self._replaced = 0  # times that the early checksum was of another version
        self._digest: FileDigest | None = None

    @property
    def expected(self) -> str:
        """What the digest has to be, as `algorithm:hex`; empty if nothing is known."""
        return str(self.asked or self.stored or "")

    def hold(self) -> int:
        """Return the first byte that the digest has not read yet."""
        if not self.expected:
            return sys.maxsize
        return self._digest.position if self._digest is not None else 0

    def learn(self, head: Head) -> None:
        """Take the store's checksum from the head of an answer, unless one is known."""
        if head is self._head or self.expected:
            return
        self._head = head
        if not any(name.startswith(_MARKS) for name in head.headers):
            return  # most stores: nothing is imported
        from pgetpy.core.objects.stored_checksums import stored_checksums
        from pgetpy.engine.hashing import new_hash

        found = stored_checksums(head)
        self.stored = next((each for each in found if new_hash(each.algorithm)), None)
        if found and self.stored is None:
            self.unverified = f"{found[0].algorithm}: {_EXTRA}"

    async def learn_early(self, context: EngineContext, route: Route) -> int:
        """Ask for the store's checksum before the destination is opened, if that is an archive or
        a stream: these hash what passes, so they have to know by what.

        Returns:
            How many requests that took.

        Raises:
            TransferError: the store cannot be reached, or has no such object.
        """
        signer = route.target.signer
        asks = signer is not None and signer.asks_checksum
        if self.expected or self._head or not (asks and self._destination.blocks):
            return 0
        if self._replaced > 1:
            self.unverified = _NEVER_SAME
            return 0
        from pgetpy.engine.service_client import EngineServiceClient

        try:
            self.learn(await EngineServiceClient(context).describe(route.target))
        except (HttpStatusError, ServiceError) as error:
            if error.status not in _REFUSALS:
                raise
            self.unverified = _UNANSWERED
        return 1

    def check_version(self, identity: Identity) -> None:
        """The destination is about to be opened for the version `identity`.

        Raises:
            StartOverError: the store's checksum is of another one.
        """
        if not (self._destination.blocks and self.stored and self._head):
            return
        if self._head.headers.get("etag") != identity.etag:
            self._replaced += 1
            raise StartOverError("the object was replaced since its checksum was asked for")

    async def learn_late(self, context: EngineContext, route: Route, gate: AnswerGate) -> int:
        """Ask for the store's checksum if the first answer had none because it was a range.

        So what an earlier run began is verified as well.

        Returns:
            How many requests that took.
        """
        if self.expected or gate.answer is None or gate.head is None or gate.head.status != 206:
            return 0
        from pgetpy.engine.service_client import EngineServiceClient

        asking = EngineServiceClient(context).describe(route.target)
        try:
            head = await asyncio.wait_for(asking, _LONGEST_WAIT)
        except (PgetError, asyncio.TimeoutError):
            # Everything has come; it is merely not verified.
            self.unverified = _UNANSWERED
            return 1
        if head.headers.get("etag") == gate.answer.identity.etag:
            self.learn(head)
        return 1

    def hashing(self, sink: Sink, answer: Answer) -> Sink:
        """Return what writes to `sink`, and hashes what passes if the object is of moderate size.

        Not if there are no ranges: after a failure, the bytes may come again from another version.
        """
        size = answer.identity.total
        if size is None or size > MODERATE or not answer.ranged:
            return sink
        digest = self._follow()
        if digest is None:
            return sink
        from pgetpy.engine.hashing import HashingSink

        return HashingSink(sink, digest)

    def advance(self, front: int) -> None:
        """Every byte before `front` has landed: hash them, if they are enough."""
        digest = self._follow()
        if digest is not None:
            digest.advance(front)

    async def finish(self, size: int, verifying: Callable[[int, int], object]) -> str:
        """Return the digest of all `size` bytes as `algorithm:hex`; empty if none is known that it
        could be compared with.

        Args:
            verifying: is told the bytes that are hashed, and `size`, from time to time.
        """
        streamed = self._destination.streamed_digest
        if self.expected and streamed is not None:
            return f"{self._algorithm}:{streamed}"
        digest = self._follow()
        if digest is None:
            return ""
        with disk_errors(self._destination.path):
            return f"{self._algorithm}:{await digest.finish_reporting(size, verifying)}"

    def of(self, body: memoryview) -> str:
        """Return the digest of `body`, which is the whole object, in the same form as `finish`."""
        if not self.expected:
            return ""
        made = self.new_hash()
        made.update(body)
        return f"{self._algorithm}:{made.hexdigest()}"

    async def stop(self) -> None:
        """Stop hashing; when this returns nothing is read back any more."""
        if self._digest is not None:
            digest, self._digest = self._digest, None
            await digest.stop()

    async def forget(self) -> None:
        """What has landed is discarded, and the object may be another one."""
        await self.stop()
        self._head, self.stored, self.unverified = None, None, ""

    async def trust_other_run(self) -> None:
        """Another run has published the object, and has verified what it could."""
        if self.asked is None and self.stored is not None:
            await self.forget()
            self.unverified = _WRITTEN_BEFORE

    def _follow(self) -> FileDigest | None:
        """Return the digest that follows the file; None where the sink hashes by itself."""
        if self._digest is None and self.expected:
            read = self._destination.readable()
            if read is not None:
                from pgetpy.engine.hashing import FileDigest

                self._digest = FileDigest(read, self.new_hash(), self._workers)
        return self._digest

    @property
    def _algorithm(self) -> str:
        return self.expected.partition(":")[0]

    def new_hash(self) -> Digest:
        """Return an object that computes the expected digest, which has to be known."""
        from pgetpy.engine.hashing import new_hash

        made = new_hash(self._algorithm, self.asked.prefix if self.asked is not None else b"")
        assert made is not None  # `learn` takes nothing else
        return made
