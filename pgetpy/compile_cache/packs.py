"""Packs: many files in a row, compressed in frames that can be read one at a time.

A frame (RFC 8878, 3.1.1) holds the next 4 MiB of the row, wherever files begin and end, so that
neither side has more than a few frames in memory, and two threads can compress. zstandard releases
Python's lock while it works, and so does hashing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import zstandard

from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.stages import write_whole
from pgetpy.core.compile_cache.seals import FRAME_BYTES, SealedFile, pack_order
from pgetpy.errors import IntegrityError

# Kernels are variants of a few templates: matching at long distance makes a pack half as large, for
# a tenth of a second each 60 MB. The window covers a frame.
_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(
    3, window_log=22, enable_ldm=True, ldm_min_match=32, ldm_hash_rate_log=5, ldm_hash_log=16
)
_THREADS = 2
_BLOCK = 1 << 20
# A frame may be this large when it claims more, before anything is allocated for it.
_LARGEST_FRAME = FRAME_BYTES + _BLOCK


class PackWriter:
    """Writes a pack.

    Args:
        out: an open file; gets the frames in order.

    Attributes:
        size: raw bytes so far: the offset of the next file.
    """

    def __init__(self, out: io.FileIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self._pending = bytearray()
        self._frames: deque[Future[bytes]] = deque()
        self._pool = ThreadPoolExecutor(_THREADS, "pgetpy-pack")
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append `data` to the row."""
        self.size += len(data)
        self._pending += data
        while len(self._pending) >= FRAME_BYTES:
            self._compress(FRAME_BYTES)

    def finish(self) -> str:
        """Write what is left; return the sha256 of the pack in hex."""
        if self._pending:
            self._compress(len(self._pending))
        while self._frames:
            self._write()
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _compress(self, count: int) -> None:
        raw = bytes(self._pending[:count])
        del self._pending[:count]
        self._frames.append(self._pool.submit(_frame, raw))
        if len(self._frames) > _THREADS:
            self._write()

    def _write(self) -> None:
        frame = self._frames.popleft().result()
        self._digest.update(frame)
        write_whole(self._out, frame)


def _frame(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(compression_params=_PARAMETERS).compress(raw)


def check_pack(path: Path, sha256: str, flag: CancelFlag) -> None:
    """Raise IntegrityError if the file at `path` is not the pack `sha256`."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            flag.check()
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise IntegrityError(f"{path.name} is damaged: its sha256 differs")


def read_pack(
    path: Path,
    wanted: Sequence[SealedFile],
    take: Callable[[SealedFile, Iterator[bytes]], None],
    flag: CancelFlag,
) -> None:
    """Hand the files `wanted` of a pack to `take`, in the order of their offsets.

    Args:
        path: of the pack.
        wanted: files of it.
        take: is given a file and its blocks, which it has to use up.
        flag: stops it.

    Raises:
        IntegrityError: the pack ends early, or cannot be decompressed.
    """
    row = _Row(path, flag)
    with contextlib.closing(row):
        for file in sorted(wanted, key=pack_order):
            row.skip_to(file.offset)
            take(file, row.blocks(file.size))


class _Row:
    """The raw bytes of a pack, from front to end."""

    def __init__(self, path: Path, flag: CancelFlag) -> None:
        self._name = path.name
        self._flag = flag
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed by `close`
        self._blocks = self._decompressed()
        self._block = memoryview(b"")
        self._pos = 0

    def close(self) -> None:
        self._file.close()

    def _decompressed(self) -> Iterator[bytes]:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_FRAME)
        with decompressor.stream_reader(
            self._file, read_size=_BLOCK, read_across_frames=True, closefd=False
        ) as reader:
            while block := reader.read(_BLOCK):
                self._flag.check()
                yield block

    def _next(self) -> bool:
        """Have a block with at least a byte; False at the end."""
        if not self._block:
            try:
                self._block = memoryview(next(self._blocks, b""))
            except zstandard.ZstdError as error:
                raise IntegrityError(f"{self._name} is damaged: {error}") from None
        return bool(self._block)

    def _take(self, most: int) -> memoryview:
        taken, self._block = self._block[:most], self._block[most:]
        self._pos += len(taken)
        return taken

    def skip_to(self, offset: int) -> None:
        """Leave out what comes before `offset`."""
        if offset < self._pos:
            raise IntegrityError(f"{self._name} is damaged: its files overlap")
        while self._pos < offset:
            if not self._next():
                raise IntegrityError(f"{self._name} is damaged: it ends early")
            self._take(offset - self._pos)

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes."""
        end = self._pos + size
        while self._pos < end:
            if not self._next():
                raise IntegrityError(f"{self._name} is damaged: it ends early")
            yield self._take(end - self._pos)  # type: ignore[misc]
