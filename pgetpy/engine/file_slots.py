"""How many files are fetched at a time."""

from __future__ import annotations

import asyncio

# More files at a time pay only while they are small, so that latency is what limits.
_LARGE_FILES = 20
# A file up to this size is small: with 100 ms to its first byte, 64 of them at a time still fill
# 40 Gbit/s.
_SMALL = 8 << 20


class FileSlots:
    """Lets so many files be fetched at a time as pays, up to `most`.

    It begins with what is enough for large files. Each small file that is fetched adds a slot; each
    one that turns out to be large takes one of these away again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = self._limit = min(most, _LARGE_FILES)
        self._free = asyncio.Semaphore(self._limit)
        self._superfluous = 0

    @property
    def crowded(self) -> bool:
        """Whether more files are being fetched than pays: a slot should be given back."""
        return self._superfluous > 0

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, *_: object) -> None:
        if self._superfluous:
            self._superfluous -= 1
        else:
            self._free.release()

    def note(self, size: int | None) -> None:
        """A file of `size` bytes is being fetched; None for not known."""
        (self.note_small if size is not None and size <= _SMALL else self.note_large)()

    def note_small(self) -> None:
        """A file was small: latency may be what limits."""
        if self._limit < self._most:
            self._limit += 1
            self._free.release()

    def note_large(self) -> None:
        """A file that is being fetched is large."""
        if self._limit > self._least:
            self._limit -= 1
            self._superfluous += 1
