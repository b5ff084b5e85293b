"""Generations: build, look, compare, prune, verify. The class that programs on a node call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pgetpy.core.generations.comparison import GenerationDiff, diff_of
from pgetpy.core.generations.lock import GenerationLock
from pgetpy.core.generations.manifest import parse_lock
from pgetpy.core.generations.record import GenerationRecord
from pgetpy.core.generations.retention import removable, wanted_numbers
from pgetpy.errors import (
    BadManifestError,
    GenerationIncompleteError,
    IntegrityError,
    UsageError,
)
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.building import GenerationBuilder, distrust
from pgetpy.generations.checking import VerifiedGeneration, faults_of, verify
from pgetpy.generations.layout import GenerationPaths
from pgetpy.generations.readers import alone_with, readers_of
from pgetpy.generations.removal import TreeRemover
from pgetpy.system.filesystem import read_regular
from pgetpy.weights.cache import WeightsDownloadCache


class GenerationState(NamedTuple):
    """One number, and what is wrong with it.

    Attributes:
        number: of the generation.
        digest: its identity; empty if nothing has the number.
        why: why it is not whole; empty if it is.
    """

    number: int
    digest: str
    why: str

    @property
    def whole(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class Readiness:
    """Whether the wanted generations are there.

    Attributes:
        states: of each wanted number, in order.
        latest: what `latest` leads to.
    """

    states: tuple[GenerationState, ...]
    latest: int | None

    @property
    def ready(self) -> bool:
        """Whether there is a wanted generation, and all of them are whole."""
        return bool(self.states) and all(each.whole for each in self.states)

    @property
    def why(self) -> str:
        """Why not, in words; empty if it is ready."""
        if not self.states:
            return "there are no generations"
        return "; ".join(f"generation {e.number} {e.why}" for e in self.states if not e.whole)

    def to_json(self) -> dict[str, Any]:
        """Return what probes are told: whether all is there, and why not."""
        generations = [{**each._asdict(), "whole": each.whole} for each in self.states]
        return {
            "ready": self.ready,
            "why": self.why,
            "latest": self.latest,
            "generations": generations,
        }


class ListedGeneration(NamedTuple):
    """A generation as listings show it.

    Attributes:
        number: of the generation.
        digest: its identity.
        size: bytes of its files, shared or not.
        files: how many it has.
        created: seconds since the epoch.
        latest: whether `latest` leads to it.
        readers: the processes that read it, as far as the system shows them.
        damaged: whether its record cannot be read, which would give the size and the time.
    """

    number: int
    digest: str
    size: int
    files: int
    created: float
    latest: bool
    readers: tuple[str, ...]
    damaged: bool = False


class KeptGeneration(NamedTuple):
    """A generation that could not be pruned, and the processes that read it."""

    number: int
    readers: tuple[str, ...]


class Pruned(NamedTuple):
    """What `prune` did: the numbers that are gone, and those that are read."""

    removed: tuple[int, ...]
    in_use: tuple[KeptGeneration, ...]


class Generations:
    """The generations in one folder.

    Args:
        root: the folder. It is created when the first generation is built.
        cache: has the files; it has to be on the same file system, and of the same user. None is
            enough for looking.
        copies: copy files that cannot be linked, which takes space for each generation.
        fsync: publish a generation only when it is on stable storage.
        clean_uv_cache: empty the cache of uv before environments are built.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        cache: WeightsDownloadCache | None = None,
        *,
        copies: bool = False,
        fsync: bool = True,
        clean_uv_cache: bool = False,
    ) -> None:
        self._paths = GenerationPaths(root)
        self._cache = cache
        self._copies = copies
        self._fsync = fsync
        self._clean_uv_cache = clean_uv_cache

    @property
    def root(self) -> Path:
        """The folder."""
        return self._paths.root

    def build(
        self, lock: GenerationLock | str | os.PathLike[str], *, maximum: int | None = None
    ) -> GenerationRecord:
        """Publish the generation of a lock, unless it is there already; return what it is.

        Args:
            lock: a lock, or the path of its file.
            maximum: `latest` leads to no higher number than this.

        Raises:
            GenerationTakenError: its number has other content.
            GenerationInUseError: it is there, damaged, and read.
            NotOneFileSystemError: a file cannot be linked, and copies were not asked for.
            BadManifestError: the file is not a lock.
            PgetError: a file cannot be fetched, or an environment cannot be built.
        """
        found = lock if isinstance(lock, GenerationLock) else read_lock(lock)
        cache = self._writing()
        remover = TreeRemover(self._paths, cache)
        builder = GenerationBuilder(
            self._paths,
            cache,
            remover,
            copies=self._copies,
            fsync=self._fsync,
            clean_uv_cache=self._clean_uv_cache,
        )
        return builder.build(found, maximum)

    def ready(self, minimum: int | None = None, maximum: int | None = None) -> Readiness:
        """Return whether all numbers from `minimum` to `maximum` are there and whole.

        Names, sizes and times are compared, and no bytes. With neither, it is about the highest
        number that is there.

        Raises:
            UsageError: the range is empty.
        """
        with self._paths.errors():
            numbers = self._paths.numbers()
            wanted = wanted_numbers(numbers, minimum, maximum)
            states = tuple(self._state(number, numbers.get(number, "")) for number in wanted)
            return Readiness(states, self._paths.latest_number())

    def _state(self, number: int, digest: str) -> GenerationState:
        if not digest:
            return GenerationState(number, "", "is not there")
        faults = faults_of(self._paths, digest)
        if not faults:
            return GenerationState(number, digest, "")
        if not faults[0].path:
            return GenerationState(number, digest, faults[0].reason)
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        return GenerationState(number, digest, f"is not whole: {faults[0]}{more}")

    def point_latest(self, maximum: int | None = None) -> int | None:
        """Let `latest` lead to the highest number that is there; return it.

        Args:
            maximum: higher numbers do not count.

        Raises:
            GenerationError: the folder cannot be written.
        """
        with self._paths.errors():
            return self._paths.point_latest(maximum)

    def listed(self) -> list[ListedGeneration]:
        """Return all generations, the highest number first.

        Raises:
            GenerationError: the folder is not there, or cannot be read.
        """
        self._paths.check()
        with self._paths.errors():
            return self._listed()

    def _listed(self) -> list[ListedGeneration]:
        latest = self._paths.latest_number()
        found = []
        for number, digest in self._paths.numbers().items():
            if not self._paths.tree(digest).is_dir():
                continue
            with alone_with(self._paths.tree(digest)) as alone:
                readers = () if alone else readers_of(self._paths.tree(digest))
            is_latest = number == latest
            try:
                record = self._paths.record(digest)
                facts = (record.size, record.count, record.created)
                row = ListedGeneration(number, digest, *facts, is_latest, readers)
            except IntegrityError:
                row = ListedGeneration(number, digest, 0, 0, 0.0, is_latest, readers, damaged=True)
            found.append(row)
        return found[::-1]

    def record(self, number: int) -> GenerationRecord:
        """Return what a generation was when it was published.

        Raises:
            GenerationIncompleteError: there is none with this number.
            IntegrityError: its record is damaged.
        """
        digest = self._paths.digest_of(number)
        if not digest or not self._paths.tree(digest).is_dir():
            raise GenerationIncompleteError(str(self.root), number, "is not there")
        return self._paths.record(digest)

    def diff(self, before: int, after: int) -> GenerationDiff:
        """Return what the generation `after` has that `before` has not, and the other way round.

        Raises:
            GenerationIncompleteError: one of them is not there.
        """
        return diff_of(self.record(before).lock, self.record(after).lock)

    def verify(self, number: int) -> VerifiedGeneration:
        """Hash all files of a generation, and find the others that have the same damaged files.

        What is damaged is not ready any more until it is built again. If there is a cache, its
        entries of damaged files are checked too, so that they are fetched again.

        Raises:
            GenerationIncompleteError: there is none with this number.
        """
        with self._paths.errors():
            found = verify(self._paths, number)
        if found.faults and self._cache is not None:
            # Without its record it cannot be said which entries these are.
            with contextlib.suppress(IntegrityError):
                distrust(self._cache, self.record(number).lock, found.faults)
        return found

    def prune(
        self,
        *,
        keep: int | None = None,
        minimum: int | None = None,
        needed: Collection[int] = (),
    ) -> Pruned:
        """Remove generations that no rule keeps and no process reads.

        What `latest` leads to always stays. What is read is taken next time.

        Args:
            keep: how many of the highest numbers stay.
            minimum: this number and higher ones stay.
            needed: other numbers that stay.

        Raises:
            UsageError: neither `keep` nor `minimum` is given.
            GenerationError: the folder is not there, or cannot be written.
        """
        if keep is None and minimum is None:
            raise UsageError("nothing says what stays: give keep, minimum or both")
        self._paths.check()
        remover = TreeRemover(self._paths, self._writing())
        with self._paths.errors():
            self._paths.make()
            remover.sweep()
            latest = self._paths.point_latest(self._paths.latest_number())
            numbers = self._paths.numbers()
            removed, in_use = [], []
            for number in removable(numbers, keep=keep, minimum=minimum, latest=latest):
                if number in needed:
                    continue
                tree = self._paths.tree(numbers[number])
                if remover.remove(numbers[number]) or not tree.is_dir():
                    self._paths.release(number, numbers[number])
                    removed.append(number)
                else:
                    in_use.append(KeptGeneration(number, readers_of(tree)))
            named = set(self._paths.numbers().values())
            for digest in self._paths.digests():
                if digest not in named:
                    remover.remove(digest)
            if removed:
                self._trim_uv_cache()
        return Pruned(tuple(removed), tuple(in_use))

    def _trim_uv_cache(self) -> None:
        """Remove the packages that only removed generations had."""
        if self._paths.uv_cache.is_dir():
            from pgetpy.generations.environment_trim import trim_uv_cache

            trim_uv_cache(self._paths.uv_cache, self._paths.environments())

    def _writing(self) -> WeightsDownloadCache:
        if self._cache is None:
            raise UsageError("building and pruning need the cache that the files are linked from")
        return self._cache


def read_lock(path: str | os.PathLike[str]) -> GenerationLock:
    """Return the lock in a file.

    Raises:
        BadManifestError: it cannot be read, or is not a lock.
    """
    try:
        text = read_regular(path).decode(errors="surrogateescape")
    except FileNotFoundError:
        raise BadManifestError(os.fspath(path), 0, "there is no such file") from None
    except OSError as error:
        raise BadManifestError(os.fspath(path), 0, system_reason(error)) from None
    return parse_lock(text, os.fspath(path))
