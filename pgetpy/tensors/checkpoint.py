"""The files that a reference means, and their tensors, in whatever order they arrive.

A checkpoint is one safetensors file, or several with an index that says which tensor is in which
(`core/weights/shards`). Files are fetched a few at a time; the wanted tensors of each are given out
as soon as they are whole.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pgetpy.cache.contents import digest_of
from pgetpy.core.http.ranges import Span, Spans, joined
from pgetpy.core.tensors.choices import Choice
from pgetpy.core.weights.choosing import are_shards, indices_among, weights_among
from pgetpy.core.weights.safetensors import SafetensorsHeader
from pgetpy.core.weights.shards import INDEX_NAMES, SUFFIX, beside, is_index_name, parse_index
from pgetpy.errors import (
    BadReferenceError,
    BadSafetensorsError,
    BadSettingError,
    DigestMismatchError,
    NotFoundError,
    NotOneFileError,
    NotWeightsError,
)
from pgetpy.errors.reasons import system_reason
from pgetpy.errors.redact import redact
from pgetpy.system import polling
from pgetpy.system.event_loop import done
from pgetpy.tensors.base import Array, Wakeup
from pgetpy.tensors.delivery import ByteSource, Check, Delivery, head_of, misfit
from pgetpy.tensors.devices import Device
from pgetpy.tensors.growing_file import GrowingFile
from pgetpy.weights.cache import WeightsDownloadCache
from pgetpy.weights.options import ReferenceOptions, parse_digest

# Enough for most headers, so that length and header come in one answer. More would often exceed
# what the caller wants, a single small tensor.
_FIRST = 16 << 10
# How many files of a checkpoint are fetched at a time.
_SIDE_BY_SIDE = 4
PathLike = os.PathLike[str]


@dataclass(frozen=True)
class LoadRequest:
    """What a caller asks for.

    Attributes:
        reference: a URL or anything else the cache takes, or a local path.
        choice: which tensors.
        device: where to put them.
        cache: where files are fetched to.
        digest: the expected digest of a single file.
        options: tokens and the like, see `weights.options.ReferenceOptions`.
        check: is called with each file's header before any of its tensors is given out; may raise.
        check_names: is called with all tensor names before any tensor is fetched; may raise.
    """

    reference: str | PathLike
    choice: Choice
    device: Device
    cache: WeightsDownloadCache
    digest: str | None = None
    options: ReferenceOptions = field(default_factory=ReferenceOptions)
    check: Check = lambda _: None
    check_names: Callable[[Iterable[str]], None] = lambda _: None


class ArrivedTensor(NamedTuple):
    """A tensor of the file with the number `file`.

    If `life` differs from before, that file was replaced, and its earlier tensors are void.
    """

    file: int
    life: int
    name: str
    array: Array


class Checkpoint:
    """All wanted tensors, while they arrive. A context manager, for one use."""

    def __init__(self, request: LoadRequest) -> None:
        self._request = request
        self._wakeup = Wakeup()
        self._open: dict[int, Delivery] = {}
        self._begun: dict[int, TensorFile] = {}
        self._orders: dict[int, tuple[str, ...]] = {}

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        for delivery in self._open.values():
            delivery.close()

    @property
    def order(self) -> list[str]:
        """The names of the wanted tensors, file by file."""
        return [name for number in sorted(self._orders) for name in self._orders[number]]

    def arrivals(self) -> Iterator[ArrivedTensor]:
        """Yield tensors as they are completed; end when all files are verified.

        Raises:
            PgetError: a file cannot be fetched, or is not what it should be.
        """
        waiting = deque(enumerate(self._files()))
        while waiting or self._open:
            while waiting and len(self._open) < _SIDE_BY_SIDE:
                number, file = waiting.popleft()
                self._begun[number] = file
                self._open[number] = self._begin(file)
            for number, delivery in list(self._open.items()):
                try:
                    arrived = delivery.take()
                except NotOneFileError as error:
                    waiting.extend(enumerate(self._instead(number, error), number + 1))
                    continue
                for name, array in arrived:
                    yield ArrivedTensor(number, delivery.life, name, array)
                if delivery.done:
                    self._orders[number] = delivery.order
                    delivery.close()
                    del self._open[number]
            if self._open:
                self._wakeup.wait(polling.SLICE)

    def _instead(self, number: int, error: NotOneFileError) -> list[TensorFile]:
        """Return the files of a repository that turned out to have several.

        Raises:
            NotOneFileError: it does not say which of them are meant.
        """
        file = self._begun.pop(number)
        if not file.repository or not are_shards(error.found):
            raise error
        self._open.pop(number).close()
        try:
            return self._listed_shards(file.repository)
        except NotOneFileError as other:
            raise other if other.found else error from error

    # ------------------------------------------------------------------------ which files

    def _files(self) -> list[TensorFile]:
        reference = self._request.reference
        if not isinstance(reference, str):
            return self._at(Path(reference))
        return self._of_reference(reference)

    def _at(self, path: Path) -> list[TensorFile]:
        """Return the files at a local path, which may be a folder."""
        _check_readable(path)
        if not path.is_dir():
            if not is_index_name(path.name):
                return [TensorFile(path, self._request.choice)]
            return self._shards(path, str(path), path.with_name)
        there = sorted(each.name for each in path.iterdir())
        indices = indices_among(there)
        if len(indices) == 1:
            return self._at(path / indices[0])
        files = weights_among(there)
        if indices or len(files) != 1:
            raise NotOneFileError(str(path), SUFFIX, indices or files, hint="name one of them")
        return [TensorFile(path / files[0], self._request.choice)]

    def _of_reference(self, reference: str) -> list[TensorFile]:
        """Return the files that a reference means: those of an index, or the one file it names.

        For a repository, the usual index names are tried before its single file.
        """
        cache, options = self._request.cache, self._request.options
        if is_index_name(urlsplit(reference).path):
            path = cache.ensure(reference, **options)
            return self._shards(path, reference, partial(beside, reference))
        repository = cache.repository(reference, **options).rstrip("/")
        if not repository or cache.lookup(reference, **options) is not None:
            return [TensorFile(reference, self._request.choice)]
        # Cached indexes first: they need no request, and the server may be unreachable.
        indices = [f"{repository}/{name}" for name in INDEX_NAMES]
        indices.sort(key=lambda index: cache.lookup(index, **options) is None)
        for index in indices:
            with contextlib.suppress(NotFoundError):
                return self._shards(cache.ensure(index, **options), index, partial(beside, index))
        # No index under a usual name: the repository has a single file, or `ensure` raises an error
        # that lists its files.
        return [TensorFile(reference, self._request.choice, repository=repository)]

    def _listed_shards(self, repository: str) -> list[TensorFile]:
        """Return the files of a repository whose index has an unusual name.

        Raises:
            NotOneFileError: there is no index, or there are several.
        """
        options: ReferenceOptions = {**self._request.options, "wanted": "folder"}
        listed = f"{repository}/?include=*{SUFFIX}.index*.json"
        folder = self._request.cache.ensure(listed, **options)
        names = indices_among(sorted(each.name for each in folder.iterdir()))
        if len(names) != 1:
            what = f"{SUFFIX}.index.json"
            raise NotOneFileError(repository, what, names, hint="name one of them")
        index = f"{repository}/{names[0]}"
        return self._shards(folder / names[0], index, partial(beside, index))

    def _shards(self, path: Path, name: str, at: Callable[[str], str | Path]) -> list[TensorFile]:
        """Return those files of the index at `path` that hold wanted tensors.

        Args:
            name: what errors call the index.
            at: returns the location of a file by its name.
        """
        request, label = self._request, redact(name)
        try:
            index = parse_index(path.read_bytes())
        except BadSafetensorsError as error:
            raise error.of(label) from error
        if request.digest is not None:
            reason = f"is that of one file, but {label} lists several"
            raise BadSettingError("digest", request.digest, reason)
        names = [name for each in index.tensors.values() for name in each]
        request.choice.check(names, label)
        request.check_names(names)
        files = []
        for shard in index.shards:
            named = index.tensors[shard]
            wanted = frozenset(name for name in named if name in request.choice)
            if wanted:
                files.append(TensorFile(at(shard), Choice(wanted), frozenset(named)))
        return files

    # ------------------------------------------------------------------------ one file

    def _begin(self, file: TensorFile) -> Delivery:
        label = redact(str(file.place))
        check = partial(_check, file, label, self._request)
        if isinstance(file.place, Path):
            _check_readable(file.place)
            outcome = done(_verify(file.place, self._request.digest))
            source = ByteSource(label, GrowingFile(self._wakeup), outcome)
        else:
            source = self._ask(file.place, file.choice, label, check)
        return Delivery(source, file.choice, self._request.device, check, self._wakeup)

    def _ask(self, url: str, choice: Choice, label: str, check: Check) -> ByteSource:
        """Fetch what is wanted of a file through the cache, unless it is there."""
        request, growing = self._request, GrowingFile(self._wakeup)
        cache, options = request.cache, request.options
        longest = cache.longest_header
        # Keep it from being evicted until it is open.
        lease = cache.hold(url, **options)
        outcome: Future[Path | None] | Future[Path]
        if request.choice:
            choose = partial(_choose, choice, label, longest, check)
            outcome = cache.pick(url, choose, _FIRST, growing, **options)
        else:
            outcome = cache.follow(url, growing, digest=request.digest, **options)
        return ByteSource(label, growing, outcome, longest, lease.release)


@dataclass(frozen=True)
class TensorFile:
    """One file of a checkpoint.

    Attributes:
        place: its URL or local path.
        choice: which of its tensors are wanted.
        holds: tensors that it must hold, by its index.
        repository: set if the reference is a repository without an index of a usual name.
    """

    place: str | Path
    choice: Choice
    holds: frozenset[str] = frozenset()
    repository: str = ""


def _choose(
    choice: Choice, label: str, longest: int, check: Check, fd: int, size: int, landed: Spans
) -> tuple[tuple[Span, ...], bool]:
    """Return the spans to fetch next for `choice`, given what has landed.

    Called by the transfer; see `destinations.sinks.parts.Choose`. First the header is fetched, then
    the wanted tensors.

    Args:
        choice: the wanted tensors.
        label: what errors call the file.
        longest: the largest header, in bytes, that is parsed.
        check: is called with the header first; may raise.
        fd: the part file, open for reading.
        size: the size of the whole file in bytes.
        landed: which bytes are there.

    Returns:
        The spans, and whether they are all that will be wanted.

    Raises:
        NotWeightsError: it is not a safetensors file.
        BadSettingError: a wanted tensor is not in it.
    """
    first = Span(0, min(size, _FIRST))
    try:
        head = head_of(fd, size, landed, longest)
    except BadSafetensorsError as error:
        if not landed.covers(*first):
            return (first,), False  # fetch its beginning, to say what it is instead
        raise misfit(fd, label, error) from error
    if not isinstance(head, SafetensorsHeader):
        return (Span(0, head or first.stop),), False
    check(head)
    choice.check((each.name for each in head.tensors), label)
    spans = (Span(each.start, each.stop) for each in head.tensors if each.name in choice)
    return joined(spans, 0), True


def _check_readable(path: Path) -> None:
    """Check that `path` exists and may be read.

    Raises:
        BadReferenceError: it does not, or may not.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        reason = f"it cannot be read: {system_reason(error)}"
        raise BadReferenceError(str(path), reason) from error


def _verify(path: Path, digest: str | None) -> Path:
    """Return `path` after comparing the file with `digest`, if one is given.

    Raises:
        DigestMismatchError: they differ.
    """
    wanted = parse_digest(digest)
    if wanted is not None:
        actual = digest_of(path)
        if actual != str(wanted):
            raise DigestMismatchError(str(path), str(wanted), str(actual))
    return path


def _check(file: TensorFile, label: str, request: LoadRequest, header: SafetensorsHeader) -> None:
    """Check a header against the index and the caller's expectations.

    Raises:
        NotWeightsError: a tensor that the index places in this file is missing.
    """
    names = [tensor.name for tensor in header.tensors]
    missing = sorted(file.holds.difference(names))
    if missing:
        what = f"a file of another version than its index: it lacks {missing[0]}"
        raise NotWeightsError(label, what, hint="download all files of one version")
    if not file.holds:
        request.check_names(names)
    request.check(header)
