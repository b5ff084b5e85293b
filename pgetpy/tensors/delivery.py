"""The tensors of one safetensors file, as its bytes land."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from pgetpy.core.choices import Choice
from pgetpy.core.ranges import Spans
from pgetpy.core.safetensors import SafetensorsHeader, head_size, parse_head
from pgetpy.errors import BadSafetensorsError, NotWeightsError
from pgetpy.tensors.arriving import Arriving
from pgetpy.tensors.base import Array, Holding, News
from pgetpy.tensors.devices import Device
from pgetpy.tensors.readers import Readers

_PREFIX = 8
Check = Callable[[SafetensorsHeader], None]


@dataclass(frozen=True)
class Source:
    """Where the bytes come from.

    Attributes:
        label: what to call the file in errors.
        arriving: what of it has landed.
        outcome: is done when the file is whole and verified; its path, or None where there is
            none, for only what was wanted has come.
    """

    label: str
    arriving: Arriving
    outcome: Future[Path] | Future[Path | None]


class Delivery:
    """Gives out the tensors of one file.

    Args:
        check: is given the header before a tensor is given out, and may raise.

    Attributes:
        order: the names of the tensors that are wanted, in the order of the file, once known.
    """

    def __init__(
        self,
        source: Source,
        choice: Choice,
        device: Device,
        check: Check,
        news: News,
    ) -> None:
        self.order: tuple[str, ...] = ()
        self._label = source.label
        self._arriving = source.arriving
        self._outcome = source.outcome
        self._choice = choice
        self._device = device
        self._check = check
        self._news = news
        self._verified = False
        self._life = -1
        self._readers: Readers | None = None
        source.outcome.add_done_callback(lambda _: news.tell())

    @property
    def done(self) -> bool:
        """Whether every tensor has been taken, and the file is verified."""
        return self._verified and self._readers is not None and not self._readers.unfinished

    def take(self) -> tuple[list[tuple[str, Array]], bool]:
        """Return what has become whole since the last call, and whether all before is void: another
        file has taken the place of the one that it was of.

        Raises:
            PgetError: the file cannot be had, or is not what it should be.
            OSError: what has landed cannot be read.
        """
        holding = self._held()
        if holding is None:
            return [], False
        anew = holding.life != self._life
        void = anew and self._life >= 0
        if anew:
            self._begin_anew(holding)
        if self._readers is None and not self._understood(holding):
            return [], void
        assert self._readers is not None
        self._readers.offer(holding.landed)
        return self._readers.take(), void

    def close(self) -> None:
        """Want nothing any more."""
        self._outcome.cancel()
        if self._readers is not None:
            self._readers.close()

    def _held(self) -> Holding | None:
        """What there is of the file: once it is verified, all that is wanted."""
        if not self._outcome.done():
            return self._arriving.holding
        path = self._outcome.result()
        if self._verified:
            return self._arriving.holding
        self._verified = True
        return self._arriving.found(path) if path is not None else self._arriving.holding

    def _begin_anew(self, holding: Holding) -> None:
        self._life = holding.life
        if self._readers is not None:
            self._readers.close()
        self._readers = None
        self.order = ()

    def _understood(self, holding: Holding) -> bool:
        """Whether the header has landed; if so get ready for its tensors."""
        try:
            header = header_of(holding)
        except BadSafetensorsError as error:
            if not self._verified:
                return False  # the cache says more exactly what it is
            what = f"a broken safetensors file: {error.reason}"
            raise NotWeightsError(self._label, what) from error
        if header is None:
            return False
        self._check(header)
        self._choice.check((tensor.name for tensor in header.tensors), self._label)
        wanted = [tensor for tensor in header.tensors if tensor.name in self._choice]
        for tensor in wanted:
            self._device.framework.check(tensor)
        self.order = tuple(tensor.name for tensor in wanted)
        mover = self._device.mover(holding.file, holding.size)
        self._readers = Readers(mover, wanted, self._news, self._device.threads)
        return True


def header_of(holding: Holding) -> SafetensorsHeader | None:
    """Return the header of a file if it has landed; see `head_of`."""
    found = head_of(holding.file.fd, holding.size, holding.landed)
    return found if isinstance(found, SafetensorsHeader) else None


def head_of(fd: int, size: int, landed: Spans) -> SafetensorsHeader | int | None:
    """Return the header of a file of `size` bytes; as far as has landed, its length or nothing.

    Raises:
        BadSafetensorsError: it is no safetensors file.
    """
    if not landed.covers(0, min(size, _PREFIX)):
        return None
    length = head_size(os.pread(fd, _PREFIX, 0), size)
    return parse_head(os.pread(fd, length, 0), size) if landed.covers(0, length) else length
