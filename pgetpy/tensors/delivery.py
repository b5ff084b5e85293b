"""The tensors of one safetensors file, given out as its bytes land."""

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
from pgetpy.core.weights.sniffing import TELLING, FileKind, sniff
from pgetpy.errors import BadSafetensorsError, NotWeightsError
from pgetpy.tensors.base import Array, FileSnapshot, Wakeup
from pgetpy.tensors.devices import Device
from pgetpy.tensors.growing_file import GrowingFile
from pgetpy.tensors.readers import Readers

_PREFIX = 8
Check = Callable[[SafetensorsHeader], None]


@dataclass(frozen=True)
class ByteSource:
    """A file that tensors are read from.

    Attributes:
        label: what errors call the file.
        growing: which of its bytes have landed.
        outcome: completes when the file is whole and verified, with its path; None if only the
            wanted parts were fetched.
        longest_header: the largest header, in bytes, that is parsed while the file arrives.
        release: is called when the file is not needed any more.
    """

    label: str
    growing: GrowingFile
    outcome: Future[Path] | Future[Path | None]
    longest_header: int = LONGEST_HEADER
    release: Callable[[], None] = lambda: None


@dataclass(eq=False)
class Delivery:
    """Gives out the tensors of one file.

    Call `take` whenever `wakeup` fires, until `done`.

    Attributes:
        source: the file.
        choice: which of its tensors are wanted.
        device: where to put them.
        check: is called with the header before any tensor is given out; may raise.
        wakeup: is told when a tensor may have been completed.
        order: the wanted tensors' names in the order of the file, once the header is known.
        life: the number of the file that tensors come from. It rises when another file takes its
            place; tensors of the earlier one are then void.
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
        """Whether every tensor has been taken and the file is verified."""
        return self._verified and self._readers is not None and not self._readers.unfinished

    def take(self) -> list[tuple[str, Array]]:
        """Return the tensors that were completed since the last call, all from the present `life`.

        Raises:
            PgetError: the file cannot be fetched, or is not what it should be.
            OSError: landed bytes cannot be read.
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
        """Stop: cancel the download if it still runs, and let the threads end."""
        self.source.release()
        self.source.outcome.cancel()
        if self._readers is not None:
            self._readers.close()

    def _snapshot(self) -> FileSnapshot | None:
        """Return what has landed; everything, once the file is verified."""
        # Not `outcome.done()`: a future has a Python lock, which an interrupted thread would leave
        # locked (see `Wakeup`).
        if not self._ended:
            return self.source.growing.snapshot
        path = self.source.outcome.result()
        if not self._verified and path is not None:
            self.source.growing.adopt(path)
        self._verified = True
        return self.source.growing.snapshot

    def _begin_anew(self, snapshot: FileSnapshot) -> None:
        """Discard everything made from the earlier file."""
        self.life = snapshot.life
        if self._readers is not None:
            self._readers.close()
        self._readers = self._seen = None
        self.order = ()

    def _read_header(self, snapshot: FileSnapshot) -> bool:
        """Whether the header has landed; if so, prepare to read its tensors."""
        try:
            longest = LONGEST_HEADER if self._verified else self.source.longest_header
            header = head_of(snapshot.file.fd, snapshot.size, snapshot.landed, longest)
        except BadSafetensorsError as error:
            if not self._verified:
                return False  # the cache will reject the file
            raise misfit(snapshot.file.fd, self.source.label, error) from error
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
            return False  # a small file grows as it is written; pages past its end cannot be mapped
        self.order = tuple(tensor.name for tensor in wanted)
        self._unwanted = _all_but(wanted, snapshot.size)
        copier = self.device.copier(snapshot.file, snapshot.size)
        self._readers = Readers(copier, wanted, self.wakeup)
        return True

    def _usable(self, snapshot: FileSnapshot) -> Spans:
        """Return what has landed, rounded to whole pages.

        Tensors map the file's pages. Writing to one copies its pages as they are at that moment,
        and a neighbour that shares a page must not be half there then.
        """
        known = Spans([*self._unwanted, *snapshot.landed])
        return whole_units(known, mmap.PAGESIZE, snapshot.size)


def _tell(ended: list[object], wakeup: Wakeup, outcome: object) -> None:
    ended.append(outcome)
    wakeup.tell()


def _all_but(tensors: Iterable[Tensor], size: int) -> Spans:
    """Return the bytes of a file of `size` bytes that belong to none of `tensors`."""
    taken = Spans(Span(tensor.start, tensor.stop) for tensor in tensors)
    return Spans(taken.missing(0, size))


def head_of(
    fd: int, size: int, landed: Spans, longest: int = LONGEST_HEADER
) -> SafetensorsHeader | int | None:
    """Return the header of a file, or how far it is from being readable.

    Args:
        fd: the file, open for reading.
        size: its final size in bytes.
        landed: which of its bytes are there.
        longest: the largest header, in bytes, that is parsed.

    Returns:
        The header; its length in bytes if only the length has landed; None if not even that.

    Raises:
        BadSafetensorsError: it is not a safetensors file, or its header is longer than `longest`.
    """
    if not landed.covers(0, min(size, _PREFIX)):
        return None
    length = head_size(os.pread(fd, _PREFIX, 0), size)
    if length - _PREFIX > longest:
        raise BadSafetensorsError(f"its header has {length - _PREFIX} bytes")
    return parse_head(os.pread(fd, length, 0), size) if landed.covers(0, length) else length


def misfit(fd: int, label: str, error: BadSafetensorsError) -> NotWeightsError:
    """Return the error for a file that is not safetensors, saying what it looks like instead."""
    found = sniff(os.pread(fd, TELLING, 0))
    if found.kind in (FileKind.SAFETENSORS, FileKind.OTHER):
        return error.of(label)
    return NotWeightsError(label, found.kind.value, found.words)
