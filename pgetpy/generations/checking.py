"""Whether generations are what was published: at a glance, or byte by byte.

At a glance means names, sizes and modification times: a few microseconds for each file, so that a
readiness probe may ask every second. A change that keeps all of these is found by hashing.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pgetpy.cache.contents import digest_of
from pgetpy.cache.layout import token
from pgetpy.core.generations.record import (
    ENVIRONMENTS,
    FILES,
    GenerationRecord,
    RecordedFile,
)
from pgetpy.errors import GenerationIncompleteError, IntegrityError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.environment_check import check_environment, glance_environment
from pgetpy.generations.layout import IN_USE, RECORD, GenerationPaths, owner_at
from pgetpy.system.filesystem import read_regular

_OWN = frozenset({IN_USE, RECORD})


class Fault(NamedTuple):
    """Something that is not what was published.

    Attributes:
        path: below the tree.
        reason: a clause that begins with a verb.
        poisons: the numbers of other generations that have the same file.
    """

    path: str
    reason: str
    poisons: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclass(frozen=True)
class VerifiedGeneration:
    """What `verify` found of one generation.

    Attributes:
        number: of the generation.
        digest: its identity.
        checked: how many files were hashed.
        faults: what is wrong; empty if all of it is what was published.
    """

    number: int
    digest: str
    checked: int
    faults: tuple[Fault, ...]

    @property
    def sound(self) -> bool:
        return not self.faults


def faults_of(paths: GenerationPaths, digest: str) -> list[Fault]:
    """Return what is wrong with a tree at a glance, and what an earlier `verify` found."""
    tree = paths.tree(digest)
    if not tree.is_dir():
        return [Fault("", "is not there")]
    try:
        record = paths.record(digest)
    except IntegrityError as error:
        return [Fault(RECORD, f"cannot be used: {error}")]
    found = [*_lock_faults(tree), *_differences(tree, record)]
    found += _glance_at_environments(tree, record)
    return found or [Fault(path, reason) for path, reason in _noted(paths, digest)]


def _lock_faults(tree: Path) -> list[Fault]:
    """Without its lock a tree has no readers, and no pins in the cache."""
    return [] if owner_at(tree) else [Fault(IN_USE, "is missing or damaged")]


def _glance_at_environments(tree: Path, record: GenerationRecord) -> Iterator[Fault]:
    for each in record.environments:
        path = f"{ENVIRONMENTS}/{each.name}"
        for name, reason in glance_environment(tree / path).items():
            yield Fault(f"{path}/{name}", reason)


def _differences(tree: Path, record: GenerationRecord) -> Iterator[Fault]:
    base = f"{tree}/"
    for file in record.files:
        try:
            status = os.lstat(base + file.path)
        except OSError:
            yield Fault(file.path, "is missing")
            continue
        reason = _difference(file, status)
        if reason:
            yield Fault(file.path, reason)
    for link in record.links:
        try:
            target = os.readlink(base + link.path)
        except OSError:
            target = ""
        if target != link.target:
            yield Fault(link.path, f"leads elsewhere: {target or 'it is not a link'}")


def _difference(file: RecordedFile, status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "is not a file any more"
    if status.st_size != file.size:
        return f"has {status.st_size} bytes instead of {file.size}"
    return "was written to" if status.st_mtime_ns != file.mtime_ns else ""


# ---------------------------------------------------------------------------------- byte by byte


def verify(paths: GenerationPaths, number: int) -> VerifiedGeneration:
    """Hash all files of a generation, and note what is wrong for `faults_of`.

    It is noted of other generations, too, if they have the same files.

    Raises:
        GenerationIncompleteError: there is no such generation.
    """
    digest = paths.digest_of(number)
    if not digest or not paths.tree(digest).is_dir():
        raise GenerationIncompleteError(str(paths.root), number, "is not there")
    try:
        record = paths.record(digest)
    except IntegrityError as error:
        faults = [Fault(RECORD, f"cannot be used: {error}")]
        return _verified(paths, number, digest, 0, faults)
    tree = paths.tree(digest)
    hashed: dict[int, str] = {}
    changes = [*_changes(tree, record), *_environment_changes(tree, record, hashed)]
    inodes = _inodes(tree, {each.path for each in changes})
    faults = [*_lock_faults(tree), *changes, *_additions(tree, record)]
    shared = _shared_files(paths, digest, set(inodes.values())) if inodes else []
    poisoned: dict[tuple[int, int] | None, list[int]] = {}
    for each in shared:
        poisoned.setdefault(each.inode, []).append(each.number)
        reason = f"was changed: it is the same file as one of generation {number}"
        _note(paths, each.digest, [*_noted(paths, each.digest), (each.path, reason)])
    faults = [
        each._replace(poisons=tuple(dict.fromkeys(poisoned.get(inodes.get(each.path), ()))))
        for each in faults
    ]
    return _verified(paths, number, digest, len(record.files) + len(hashed), faults)


def _verified(
    paths: GenerationPaths, number: int, digest: str, checked: int, faults: list[Fault]
) -> VerifiedGeneration:
    _note(paths, digest, [(each.path, each.reason) for each in faults])
    return VerifiedGeneration(number, digest, checked, tuple(faults))


def _changes(tree: Path, record: GenerationRecord) -> Iterator[Fault]:
    glance = {each.path: each for each in _differences(tree, record)}
    for file in record.files:
        known = glance.pop(file.path, None)
        if known is not None and known.reason != "was written to":
            yield known
            continue
        try:
            found = digest_of(tree / file.path)
        except OSError as error:
            yield Fault(file.path, f"cannot be read: {system_reason(error)}")
            continue
        if found != f"sha256:{file.sha256}":
            yield Fault(file.path, "was changed: it has another digest")
        elif known is not None:
            yield Fault(file.path, "was written to, although its bytes are the same")
    yield from glance.values()


def _environment_changes(
    tree: Path, record: GenerationRecord, hashed: dict[int, str]
) -> Iterator[Fault]:
    for each in record.environments:
        path = f"{ENVIRONMENTS}/{each.name}"
        for name, reason in check_environment(tree / path, each.digest, hashed).items():
            yield Fault(f"{path}/{name}", reason)


def _additions(tree: Path, record: GenerationRecord) -> Iterator[Fault]:
    known = {each.path for each in record.files} | {each.path for each in record.links}
    own = {str(tree / ENVIRONMENTS / each.name) for each in record.environments}
    for folder, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in own]
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*names, *links):
            path = os.path.relpath(os.path.join(folder, name), tree)
            if path not in known and path not in _OWN:
                yield Fault(path, "was added")


def _inodes(tree: Path, names: set[str]) -> dict[str, tuple[int, int]]:
    found = {}
    for name in names:
        try:
            status = os.lstat(tree / name)
        except OSError:
            continue
        found[name] = (status.st_dev, status.st_ino)
    return found


class _SharedFile(NamedTuple):
    """A file of another generation with an inode that was asked for."""

    number: int
    digest: str
    path: str
    inode: tuple[int, int]


def _shared_files(
    paths: GenerationPaths, own: str, inodes: set[tuple[int, int]]
) -> list[_SharedFile]:
    """Return the files of other generations that have one of `inodes`."""
    found = []
    for number, digest in paths.numbers().items():
        if digest == own:
            continue
        tree = paths.tree(digest)
        for folder in (FILES, ENVIRONMENTS):
            for here, _, names in os.walk(tree / folder):
                for name, inode in _inodes(Path(here), set(names)).items():
                    if inode in inodes:
                        path = os.path.relpath(os.path.join(here, name), tree)
                        found.append(_SharedFile(number, digest, path, inode))
    return found


def _note(paths: GenerationPaths, digest: str, faults: list[tuple[str, str]]) -> None:
    """Keep what was found for `faults_of`; a read-only folder keeps nothing."""
    path = paths.damage(digest)
    try:
        if not faults:
            path.unlink(missing_ok=True)
            return
        own = paths.stage(f"damage.{token()}")
        own.write_text(json.dumps(list(dict.fromkeys(faults))))
        os.replace(own, path)
    except OSError:
        pass


def _noted(paths: GenerationPaths, digest: str) -> list[tuple[str, str]]:
    try:
        return [(str(path), str(reason)) for path, reason in json.loads(_read(paths, digest))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        return [("", "was found to be damaged")]


def _read(paths: GenerationPaths, digest: str) -> str:
    return read_regular(paths.damage(digest)).decode()
