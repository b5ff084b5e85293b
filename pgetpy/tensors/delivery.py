"""The tensors of one safetensors file, as its bytes land."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pgetpy.core.http.ranges import Span, Spans, whole_units
from pgetpy.core.tensors.choices import Choice
from pgetpy.core.weights.safetensors import (
    LONGEST_HEADER,
    SafetensorsHeader,
    Tensor,
    head_size,
    parse_head,
)
from pgetpy.errors import BadSafetensorsError
from pgetpy.tensors.base import Array, FileSnapshot, Wakeup
from pgetpy.tensors.devices import Device
from pgetpy.tensors.growing_file import GrowingFile
from pgetpy.tensors.readers import Readers

_PREFIX = 8
Check = Callable[[SafetensorsHeader], None]


@dataclass(frozen=True)
class ByteSource:
    """Where the bytes come from.

    Attributes:
        label: what to call the file in errors.
        growing: what of it has landed.
        outcome: is done when the file is whole and verified; its path, or None where there is
            none, for only what was wanted has come.
        longest_header: bytes of the longest header that is read while the file arrives.
        release: is called when nothing of it is wanted any more.
    """

    label: str
    growing: GrowingFile
    outcome: Future[Path] | Future[Path | None]
    longest_header: int = LONGEST_HEADER
    release: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Delivery:
    """Gives out the tensors of one file.

    Attributes:
        choice: which of them.
        device: where they are to be.
        check: is given the header before a tensor is given out, and may raise.
        wakeup: is told when something may have become whole.
        order: the names of the tensors that are wanted, in the order of the file, once known.
        life: the number of the file that tensors come from; it rises when another one takes its
            place, and what came of the one before is void.
    """

    source: ByteSource
    choice: Choice
    device: Device
    check: Check
    wakeup: Wakeup
    order: tuple[str, ...] = ()
    life: int = -1
    _ended: list[object] = field(default_factory=list)
    _verified: bool = False
    _seen: FileSnapshot | None = None
    _unwanted: Spans = field(default_factory=Spans)
    _readers: Readers | None = None

    def __post_init__(self) -> None:
        self.source.outcome.add_done_callback(partial(_tell, self._ended, self.wakeup))

    @property
    def done(self) -> bool:
        """Whether every tensor has been taken, and the file is verified."""
        return self._verified and self._readers is not None and not self._readers.unfinished

    def take(self) -> list[tuple[str, Array]]:
        """Return what has become whole since the last call, all of it of the present `life`.

        Raises:
            PgetError: the file cannot be had, or is not what it should be.
            OSError: what has landed cannot be read.
        """
        snapshot = self._snapshot()
        if snapshot is None:
            return []
        if snapshot.life != self.life:
            self._begin_anew(snapshot)
        if self._readers is None and not self._read_header(snapshot):
            return []
        assert self._readers is not None
        if snapshot is not self._seen:
            self._readers.offer(self._usable(snapshot))
            self._seen = snapshot
        return self._readers.take()

    def close(self) -> None:
        """Want nothing any more; the threads end."""
        self.source.release()
        self.source.outcome.cancel()
        if self._readers is not None:
            self._readers.close()

    def _snapshot(self) -> FileSnapshot | None:
        """Return what there is of the file: once it is verified, all that is wanted."""
        # Not by asking the future, whose lock is Python's; see `Wakeup`.
        if not self._ended:
            return self.source.growing.snapshot
        path = self.source.outcome.result()
        if not self._verified and path is not None:
            self.source.growing.adopt(path)
        self._verified = True
        return self.source.growing.snapshot

    def _begin_anew(self, snapshot: FileSnapshot) -> None:
        self.life = snapshot.life
        if self._readers is not None:
            self._readers.close()
        self._readers = self._seen = None
        self.order = ()

    def _read_header(self, snapshot: FileSnapshot) -> bool:
        """Whether the header has landed; if so get ready for its tensors."""
        try:
            longest = LONGEST_HEADER if self._verified else self.source.longest_header
            header = head_of(snapshot.file.fd, snapshot.size, snapshot.landed, longest)
        except BadSafetensorsError as error:
            if not self._verified:
                return False  # the cache says more exactly what it is
            raise error.of(self.source.label) from error
        if not isinstance(header, SafetensorsHeader):
            return False
        self.check(header)
        self.choice.check((tensor.name for tensor in header.tensors), self.source.label)
        wanted = [tensor for tensor in header.tensors if tensor.name in self.choice]
        try:
            for tensor in wanted:
                self.device.framework.check(tensor)
        except BadSafetensorsError as error:
            raise error.of(self.source.label) from error
        if os.fstat(snapshot.file.fd).st_size < snapshot.size:
            return False  # a small one grows as it is written, and could not be mapped yet
        self.order = tuple(tensor.name for tensor in wanted)
        self._unwanted = _all_but(wanted, snapshot.size)
        copier = self.device.copier(snapshot.file, snapshot.size)
        self._readers = Readers(copier, wanted, self.wakeup)
        return True

    def _usable(self, snapshot: FileSnapshot) -> Spans:
        """What has landed, in whole pages: who changes a mapped tensor gets a copy of its pages as
        they are then, in which the neighbours that share one with it have to be there already."""
        known = Spans([*self._unwanted, *snapshot.landed])
        return whole_units(known, mmap.PAGESIZE, snapshot.size)


def _tell(ended: list[object], wakeup: Wakeup, outcome: object) -> None:
    ended.append(outcome)
    wakeup.tell()


def _all_but(tensors: Iterable[Tensor], size: int) -> Spans:
    """Return the bytes of a file of `size` bytes in which none of `tensors` lies."""
    taken = Spans(Span(tensor.start, tensor.stop) for tensor in tensors)
    return Spans(taken.missing(0, size))


def head_of(
    fd: int, size: int, landed: Spans, longest: int = LONGEST_HEADER
) -> SafetensorsHeader | int | None:
    """Return the header of a file of `size` bytes; as far as has landed, its length or nothing.

    Args:
        longest: bytes of the longest header that is read.

    Raises:
        BadSafetensorsError: it is no safetensors file, or its header is longer.
    """
    if not landed.covers(0, min(size, _PREFIX)):
        return None
    length = head_size(os.pread(fd, _PREFIX, 0), size)
    if length - _PREFIX > longest:
        raise BadSafetensorsError(f"its header has {length - _PREFIX} bytes")
    return parse_head(os.pread(fd, length, 0), size) if landed.covers(0, length) else length
