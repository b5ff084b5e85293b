"""The files that a reference stands for, and their tensors, in whatever order they come."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pgetpy.background import done
from pgetpy.core.choices import Choice
from pgetpy.core.ranges import Span, Spans, joined
from pgetpy.core.references import path_of
from pgetpy.core.safetensors import SafetensorsHeader
from pgetpy.core.shards import INDEX_SUFFIX, SUFFIX, ShardIndex, beside, is_index_name, parse_index
from pgetpy.errors import BadSafetensorsError, NotFoundError, NotOneFileError, NotWeightsError
from pgetpy.redact import redact
from pgetpy.tensors.arriving import Arriving
from pgetpy.tensors.base import Array, News
from pgetpy.tensors.delivery import Check, Delivery, Source, head_of
from pgetpy.tensors.devices import Device
from pgetpy.weights import Naming, WeightsDownloadCache

# Waiting threads have to see an exception that is injected into them.
_SLICE = 0.05
# The head of most files is in the first answer; more would be more than was asked for where one
# small tensor is wanted.
_FIRST = 16 << 10
# Of the files of one checkpoint so many come at once.
_SIDE_BY_SIDE = 4
PathLike = os.PathLike[str]


@dataclass(frozen=True)
class Wish:
    """What a caller asks for.

    Attributes:
        reference: a URL or what else the cache takes, or a path of this machine.
        choice: which tensors.
        device: where they are to be.
        cache: where the files come from.
        digest: what the one file must hash to.
        naming: tokens and the like, see `weights.Naming`.
        check: is given each file's header before a tensor of it is given out, and may raise.
    """

    reference: str | PathLike
    choice: Choice
    device: Device
    cache: WeightsDownloadCache
    digest: str | None = None
    naming: Naming = field(default_factory=Naming)
    check: Check = lambda _: None


class Arrival(NamedTuple):
    """A tensor that has come; `void` says that those that came before of its file are to be thrown
    away. `file` is the number of the file."""

    file: int
    name: str
    array: Array
    void: bool


class Checkpoint:
    """All tensors that are wanted, while they arrive. Use it once, as a context manager."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._news = News()
        self._open: dict[int, Delivery] = {}
        self._orders: dict[int, tuple[str, ...]] = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        for delivery in self._open.values():
            delivery.close()

    @property
    def order(self) -> list[str]:
        """The names of the tensors that were wanted, file by file."""
        return [name for number in sorted(self._orders) for name in self._orders[number]]

    def arrivals(self) -> Iterator[Arrival]:
        """Yield tensors as they become whole; end when all files are verified.

        Raises:
            PgetError: they cannot be had, or are not what they should be.
        """
        waiting = deque(enumerate(self._files()))
        while waiting or self._open:
            while waiting and len(self._open) < _SIDE_BY_SIDE:
                number, file = waiting.popleft()
                self._open[number] = self._begun(file)
            seen = self._news.count
            for number, delivery in list(self._open.items()):
                yield from _arrived(number, delivery)
                if delivery.done:
                    self._orders[number] = delivery.order
                    del self._open[number]
            if self._open:
                self._news.wait(seen, _SLICE)

    # ------------------------------------------------------------------------ which files

    def _files(self) -> list[File]:
        reference = self._wish.reference
        if not isinstance(reference, str):
            return self._at(Path(reference))
        index = self._index_of(reference)
        if index is None:
            return [File(reference, self._wish.choice)]
        return self._shards(index, lambda shard: beside(index.label, shard))

    def _at(self, path: Path) -> list[File]:
        """Return the files at a path of this machine, which may be a folder of them."""
        if not path.is_dir():
            if not is_index_name(path.name):
                return [File(path, self._wish.choice)]
            return self._shards(_Index.read(path, str(path)), path.with_name)
        indices = sorted(path.glob(f"*{INDEX_SUFFIX}"))
        if len(indices) == 1:
            return self._at(indices[0])
        files = sorted(path.glob(f"*{SUFFIX}"))
        if indices or len(files) != 1:
            names = tuple(file.name for file in indices or files)
            raise NotOneFileError(str(path), SUFFIX, names, hint="name one of them")
        return [File(files[0], self._wish.choice)]

    def _index_of(self, reference: str) -> _Index | None:
        """Return the index that `reference` names, or that is in the repository it names."""
        cache, naming = self._wish.cache, self._wish.naming
        if is_index_name(path_of(reference)):
            return _Index.read(cache.ensure(reference, **naming), reference)
        repository = cache.repository(reference, **naming).rstrip("/")
        if not repository or cache.lookup(reference, **naming) is not None:
            return None
        named = f"{repository}/model{INDEX_SUFFIX}"
        try:
            return _Index.read(cache.ensure(named, **naming), named)
        except NotFoundError:
            return None  # it has one file, or says itself how many

    def _shards(self, index: _Index, at: Callable[[str], str | Path]) -> list[File]:
        """Return those files of an index that hold what is wanted."""
        choice, found = self._wish.choice, index.index
        choice.check((name for names in found.tensors.values() for name in names), index.label)
        files = []
        for shard in found.shards:
            named = found.tensors[shard]
            wanted = frozenset(name for name in named if name in choice)
            if wanted:
                files.append(File(at(shard), Choice(wanted), frozenset(named)))
        return files

    # ------------------------------------------------------------------------ one file

    def _begun(self, file: File) -> Delivery:
        wish, arriving = self._wish, Arriving(self._news)
        label = redact(str(file.place))
        outcome: Future[Path | None] | Future[Path]
        if isinstance(file.place, Path):
            outcome = done(file.place)
        elif wish.choice:
            choose = partial(_chosen, file.choice, label)
            outcome = wish.cache.pick(file.place, choose, _FIRST, arriving, **wish.naming)
        else:
            outcome = wish.cache.follow(file.place, arriving, digest=wish.digest, **wish.naming)
        check = partial(_checked, file, label, wish.check)
        source = Source(label, arriving, outcome)
        return Delivery(source, file.choice, wish.device, check, self._news)


@dataclass(frozen=True)
class File:
    """One file: where it is, what is wanted of it, and what it has to hold."""

    place: str | Path
    choice: Choice
    holds: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Index:
    """An index, and what it is called."""

    index: ShardIndex
    label: str

    @classmethod
    def read(cls, path: Path, label: str) -> _Index:
        """Return the index that is kept at `path`."""
        try:
            return cls(parse_index(path.read_bytes()), label)
        except BadSafetensorsError as error:
            raise _broken(redact(label), error) from error


def _arrived(number: int, delivery: Delivery) -> Iterator[Arrival]:
    found, void = delivery.take()
    for name, array in found:
        yield Arrival(number, name, array, void)
        void = False


def _checked(file: File, label: str, check: Check, header: SafetensorsHeader) -> None:
    missing = sorted(file.holds - {tensor.name for tensor in header.tensors})
    if missing:
        what = f"of another version than its index, which has {missing[0]} in it"
        raise NotWeightsError(label, what, hint="fetch all files of one version")
    check(header)


def _chosen(
    choice: Choice, label: str, fd: int, size: int, landed: Spans
) -> tuple[tuple[Span, ...], bool]:
    """Return what has to come of a file of which `landed` is there; see `sinks.parts.Choose`."""
    try:
        head = head_of(fd, size, landed)
        if head is None or isinstance(head, int):
            return (Span(0, head or min(size, _FIRST)),), False
    except BadSafetensorsError as error:
        raise _broken(label, error) from error
    spans = (Span(each.start, each.stop) for each in head.tensors if each.name in choice)
    return joined(spans, 0), True


def _broken(label: str, error: BadSafetensorsError) -> NotWeightsError:
    return NotWeightsError(label, f"a broken safetensors file: {error.reason}")
