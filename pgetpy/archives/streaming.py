"""A compressed archive: bytes that come out of order wait, and a thread decodes them in order.

A compressed stream can be decoded only from its beginning. Several connections still help: while
one brings the front, others bring what follows, within a window of 16 MiB.

    connections --write--> | ReorderBuffer | --front--> decoder thread --> Output
                 (any order)   <= window       (in order)    pieces <= 1 MiB    tar or one file

The horizon of the window is the front of the decoder. A writer whose bytes lie behind the window
waits. A writer with the bytes at the front never does, so the two sides cannot block each other.

Errors cross between threads: the decoder's is kept in `_failure` and raised by the next call of
`write` or `finish`. Memory is bounded by the window, one decoded piece and the decoder's own
window, whatever the ratio. The ratio itself is limited as well (`Limits.ratio`), or a bomb would
fill the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from pgetpy.archives.base import ArchiveExtractor
from pgetpy.archives.decoders import Decoder
from pgetpy.archives.member_file import MemberFile
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.member_policy import MemberPolicy
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.reorder_buffer import ReorderBuffer
from pgetpy.core.references.checksums import Digest
from pgetpy.errors import LimitExceededError
from pgetpy.system import polling
from pgetpy.system.threads import start_thread

# Compressed bytes that may wait in memory.
AHEAD = 16 << 20
# Decoded bytes needed to tell a tar from a single file: the first header.
_TELLING = 512


class Output(Protocol):
    """What takes the decoded bytes, in order: the members of a tar, or a single file."""

    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the decoded bytes from `pos` on."""

    def finish(self, total: int) -> None:
        """All `total` decoded bytes have come."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """See `ArchiveExtractor.remarks`."""

    def close(self) -> None:
        """Close what is open; nothing more will come."""


class StreamExtractor(ArchiveExtractor):
    """Decodes an archive in order, behind the bytes as they come; every run starts over.

    Args:
        decoder: undoes the compression.
        choose: returns the output, given the first 512 decoded bytes or all of fewer.
        window: how far ahead bytes may come; its horizon is moved as the front is decoded.
        limits: how much larger than its input the output may be.
        digest: is updated with every compressed byte, in order. Once decoded they are gone.
    """

    def __init__(
        self,
        decoder: Decoder,
        choose: Callable[[bytes], Output],
        window: Window,
        limits: Limits,
        digest: Digest | None = None,
    ) -> None:
        self.window: Window = window
        window.size = AHEAD
        self._decoder = decoder
        self._choose = choose
        self._beginning = bytearray()
        self._output: Output | None = None
        self._limits = limits
        self._digest = digest
        self._waiting = ReorderBuffer()
        self._changed = threading.Condition()
        self._total: int | None = None
        self._decoded = 0
        self._stopped = False
        self._failure: BaseException | None = None
        self._thread = start_thread(self._run, "pgetpy-decoder")

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._output.remarks if self._output is not None else ()

    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the bytes from `pos` on; wait while they are behind the window.

        Raises:
            ArchiveError: what came before cannot be decoded.
            OSError: what came before cannot be written.
        """
        with self._changed:
            while pos >= self.window.stop and self._works():
                self._changed.wait(polling.SLICE)
            if self._failure is not None:
                raise self._failure
            self._waiting.keep(pos, data)
            self._changed.notify_all()

    def finish(self, total: int) -> None:
        """All `total` bytes have come: wait until they are decoded and written."""
        with self._changed:
            self._total = total
            self._changed.notify_all()
            while self._works():
                self._changed.wait(polling.SLICE)
            if self._failure is not None:
                raise self._failure

    def halt(self) -> None:
        """Give up as soon as possible."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """See `ArchiveExtractor.close`."""
        self.halt()
        self._thread.join()
        if self._output is not None:
            self._output.close()

    def _works(self) -> bool:
        return self._failure is None and not self._stopped and self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (piece := self._next()) is not None:
                self._decode(piece)
                self._advance(len(piece))
            if not self._stopped:
                self._decoder.finish()
                (self._output or self._begin_output()).finish(self._decoded)
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._waiting.clear()
        finally:
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> bytes | None:
        """Return the piece at the front, waiting for it; None at the end or when halted."""
        with self._changed:
            while not self._stopped:
                piece = self._waiting.take(self.window.horizon)
                if piece is not None:
                    return piece[1]
                if self._total == self.window.horizon:
                    return None
                self._changed.wait()
        return None

    def _decode(self, piece: bytes) -> None:
        view = memoryview(piece)
        if self._digest is not None:
            self._digest.update(view)
        for decoded in self._decoder.feed(view):
            if self._stopped:
                return
            self._check_ratio(len(decoded), self.window.horizon + len(piece))
            self._write(memoryview(decoded))

    def _write(self, decoded: memoryview) -> None:
        """Hand `decoded` to the output, which is chosen once the first header is complete."""
        if self._output is not None:
            self._output.write(self._decoded, decoded)
        else:
            self._beginning += decoded
            if len(self._beginning) >= _TELLING:
                self._begin_output()
        self._decoded += len(decoded)

    def _begin_output(self) -> Output:
        beginning = bytes(self._beginning)
        output = self._output = self._choose(beginning)
        output.write(0, memoryview(beginning))
        return output

    def _check_ratio(self, size: int, consumed: int) -> None:
        """Raise if `consumed` bytes have made too many; before they are written."""
        if self._limits.exceeds_ratio(self._decoded + size, consumed):
            raise LimitExceededError("ratio", self._limits.ratio, (self._decoded + size) / consumed)

    def _advance(self, count: int) -> None:
        with self._changed:
            self.window.horizon += count
            self._changed.notify_all()


class SingleFile:
    """The output for a file that was compressed by itself, such as `model.bin.zst`."""

    remarks = ()

    def __init__(self, folder: MemberFolder, policy: MemberPolicy, name: str) -> None:
        self._folder = folder
        entry = policy.admit(Member(name, Kind.FILE, mode=0o666, mtime=time.time_ns()))
        assert entry is not None
        file = folder.make(entry, large=False)
        assert file is not None
        self._file: MemberFile = file
        self._most = policy.limits.total_bytes

    def write(self, pos: int, data: memoryview) -> None:
        """Take `data`, the file's bytes from `pos` on."""
        if self._most is not None and pos + len(data) > self._most:
            raise LimitExceededError("total_bytes", self._most, pos + len(data))
        self._file.write(pos, data)

    def finish(self, total: int) -> None:
        """All bytes have come."""
        self._folder.finish(self._file)

    def close(self) -> None:
        """Close the file as it is."""
        self._folder.close(self._file)
