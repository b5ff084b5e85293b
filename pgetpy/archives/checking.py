"""Work behind the bytes of a zip's members: they are decompressed, and their CRCs compared.

Bytes land from many connections; decoders and CRCs need them in order. So up to four threads each
take one member and follow its `front`, reading the bytes back from the page cache while the rest
still arrives:

    stored      file --read--> CRC, compared with the directory's
    compressed  spool --read--> decode --> CRC
                                       '-> output file --rename if the CRC is right--> its name

A thread that has caught up with the front waits for `notify`. With more members than threads the
others are queued; their bytes land meanwhile and need no thread for it.

The first failure stops all threads. It is raised in the engine's thread by `raise_failure` or
`wait`: the archive is refused as a whole.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator

from pgetpy.archives.decoders import crc32, decoder_for
from pgetpy.archives.member_file import MemberFile
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.spool import Spool
from pgetpy.core.archives.members import Member
from pgetpy.errors import ArchiveError, ThreadLimitError
from pgetpy.system import polling
from pgetpy.system.filesystem import closing_fd
from pgetpy.system.threads import start_thread

_PIECE = 1 << 20
_MOST_THREADS = 4


class MemberVerifier:
    """Decompresses members and compares their CRCs, in threads of its own.

    Args:
        folder: makes the files for decompressed content.
        spool: holds compressed members; None for archives without any.
        sparing: whether to release the spool's bytes once they have been decoded.
    """

    def __init__(self, folder: MemberFolder, spool: Spool | None, *, sparing: bool) -> None:
        self._folder = folder
        self._spool = spool
        self._sparing = sparing
        self._changed = threading.Condition()
        # One None for each thread ends the threads.
        self._due: queue.SimpleQueue[MemberFile | None] = queue.SimpleQueue()
        self._left = 0
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._failure: BaseException | None = None

    def submit(self, file: MemberFile) -> None:
        """Follow the bytes of `file`, whose `checked` becomes true in the end."""
        with self._changed:
            self._left += 1
            self._due.put(file)
            most = min(_MOST_THREADS, os.cpu_count() or 1)
            if len(self._threads) < min(most, self._left):
                self._start_one()

    def notify(self) -> None:
        """Tell the threads that bytes of some file have landed."""
        if self._threads:
            with self._changed:
                self._changed.notify_all()

    def raise_failure(self) -> None:
        """Raise the failure of a thread, if there is one.

        Raises:
            ArchiveError: a member is damaged.
            OSError: the disk failed.
        """
        if self._failure is not None:
            raise self._failure

    def wait(self, left: int = 0) -> None:
        """Wait until all files but `left` have been checked. Raises as `raise_failure` does."""
        with self._changed:
            while self._left > left and not (self._stopped or self._failure):
                self._changed.wait(polling.SLICE)
        self.raise_failure()

    def halt(self) -> None:
        """Give up as soon as possible."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for _ in self._threads:
            self._due.put(None)

    def stop(self) -> None:
        """Give up, and wait for the threads: nothing is read or written once this returns."""
        self.halt()
        for thread in self._threads:
            thread.join()

    def _start_one(self) -> None:
        """Start one more thread. Only the first is essential, so others make room for it alone."""
        try:
            self._threads.append(start_thread(self._run, "pgetpy-checker", tries=1))
        except ThreadLimitError:
            if not self._threads:
                self._threads.append(start_thread(self._run, "pgetpy-checker"))

    def _run(self) -> None:
        while (file := self._due.get()) is not None:
            try:
                self._check(file)
            except _StoppedError:
                pass
            except BaseException as failure:
                with self._changed:
                    self._failure = self._failure or failure
                    self._stopped = True
            finally:
                with self._changed:
                    self._left -= 1
                    self._changed.notify_all()

    def _check(self, file: MemberFile) -> None:
        """Follow `file` to its last byte. `checked` comes last: the engine may then close it."""
        if self._stopped:
            raise _StoppedError
        sum_ = ContentSum(file.entry.member)
        if file.spooled:
            self._decode(file, sum_)
            if self._sparing and self._spool is not None:
                self._spool.release(file.start, file.stop)
        else:
            for piece in self._pieces(file):
                sum_.add(piece)
            sum_.compare()
        file.checked = True

    def _decode(self, file: MemberFile, sum_: ContentSum) -> None:
        """Decode `file` from the spool to a file of its own, and deliver it if it is right."""
        output = self._folder.make_output(file)
        try:
            at = 0
            for piece in decoded(self._pieces(file), file.entry.member):
                if self._stopped:
                    raise _StoppedError
                sum_.add(piece)
                output.write(at, memoryview(piece))
                at += len(piece)
            sum_.compare()
            self._folder.deliver(output)
        finally:
            self._folder.close(output)

    def _pieces(self, file: MemberFile) -> Iterator[memoryview]:
        """Yield the bytes of `file` in order as they land; each is good until the next."""
        buffer = memoryview(bytearray(_PIECE))
        pos = file.start
        with closing_fd(file.open_again()) as fd:
            while pos < file.stop:
                front = self._wait_for_bytes(file, pos)
                count = os.preadv(fd, [buffer[: front - pos]], file.offset_of(pos))
                if not count:
                    raise ArchiveError(
                        f"member {file.entry.member.name!r} was truncated by another process"
                    )
                yield buffer[:count]
                pos += count

    def _wait_for_bytes(self, file: MemberFile, pos: int) -> int:
        """Wait until bytes from `pos` on have landed; return up to where."""
        with self._changed:
            while file.front <= pos and not self._stopped:
                self._changed.wait(polling.SLICE)
            if self._stopped:
                raise _StoppedError
            return file.front


class ContentSum:
    """The size and CRC of a member's content, to be compared with what the archive states."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._crc32 = crc32()
        self._sum = 0
        self._size = 0

    def add(self, piece: bytes | memoryview) -> None:
        """Take `piece`, what follows of the content.

        Raises:
            ArchiveError: it is more than the archive states.
        """
        self._size += len(piece)
        if self._size > self._member.size:
            raise self._wrong(
                f"it has more than the {self._member.size} bytes that its header states"
            )
        self._sum = self._crc32(piece, self._sum)

    def compare(self) -> None:
        """The content is complete.

        Raises:
            ArchiveError: it is not what the archive states.
        """
        if self._size < self._member.size:
            raise self._wrong(f"it has {self._size} bytes, its header states {self._member.size}")
        if self._sum != self._member.crc32:
            raise self._wrong(
                f"its CRC-32 is {self._sum:08x}, its header states {self._member.crc32:08x}"
            )

    def _wrong(self, how: str) -> ArchiveError:
        return ArchiveError(f"member {self._member.name!r} is damaged: {how}")


def decoded(pieces: Iterator[memoryview], member: Member) -> Iterator[bytes | memoryview]:
    """Yield what the compressed stream of `member`, which comes in `pieces`, holds.

    Raises:
        ArchiveError: it is damaged, incomplete, or something follows it.
    """
    assert member.compression is not None
    decoder = decoder_for(member.compression, size=member.size)
    try:
        for piece in pieces:
            yield from decoder.feed(piece)
        decoder.finish()
    except ArchiveError as error:
        raise ArchiveError(f"member {member.name!r} is damaged: {error.reason}") from error


def content_of(member: Member, data: memoryview) -> memoryview:
    """Return the content of `member`, all of whose bytes in the archive are `data`.

    Raises:
        ArchiveError: it is not what the archive states.
    """
    content = data
    if member.compression is not None:
        parts = []
        room = member.size
        for piece in decoded(iter((data,)), member):
            # Stop at the stated size, so that a bomb does not fill the memory.
            room -= len(piece)
            parts.append(bytes(piece))
            if room < 0:
                break
        content = memoryview(b"".join(parts))
    if member.crc32 is not None:
        sum_ = ContentSum(member)
        sum_.add(content)
        sum_.compare()
    return content


class _StoppedError(Exception):
    """The work is not wanted any more."""
