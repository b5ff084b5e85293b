"""The record of a built generation: generation.json, written before the generation has its name.

    {"format": 1, "number": 7, "digest": ..., "lock": ..., "created": ...,
     "files": [[path, size, mtime_ns, sha256], ...], "links": [[path, target], ...],
     "environments": [[name, files, size, digest], ...]}

Paths are those below the generation's tree: `files/...`. Sizes and times let readiness be checked
without reading a byte; digests are for `verify`. The files of an environment are listed in its own
folder, which later generations share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgetpy.core.generations.lock import GenerationLock, digest_of_text
from pgetpy.core.generations.manifest import parse_lock
from pgetpy.errors import IntegrityError

FORMAT = 1
# The folders of a tree.
FILES = "files"
ENVIRONMENTS = "environments"


class RecordedFile(NamedTuple):
    """A file as it was when it was published; `mtime_ns` is its modification time."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


class RecordedLink(NamedTuple):
    """A symbolic link, such as an archive may contain."""

    path: str
    target: str


class RecordedEnvironment(NamedTuple):
    """A Python environment.

    Attributes:
        name: of its folder.
        files: how many it has.
        size: bytes of its files, shared or not.
        digest: of its mark (`core/generations/environment_marks`), as RECORDs write digests.
    """

    name: str
    files: int
    size: int
    digest: str


@dataclass(frozen=True)
class GenerationRecord:
    """What a generation was when it was published.

    Attributes:
        number: of the generation.
        digest: its identity.
        lock_text: the canonical text of what it was built from. Parsing it takes longer than
            everything else, and few need it.
        files: all of its files.
        links: all of its symbolic links.
        created: seconds since the epoch.
        environments: its Python environments.
    """

    number: int
    digest: str
    lock_text: str
    files: tuple[RecordedFile, ...]
    links: tuple[RecordedLink, ...]
    created: float
    environments: tuple[RecordedEnvironment, ...] = ()

    @property
    def lock(self) -> GenerationLock:
        """What it was built from."""
        return parse_lock(self.lock_text, f"the lock of generation {self.number}")

    @property
    def size(self) -> int:
        """Bytes of all files, shared or not."""
        of_environments = sum(each.size for each in self.environments)
        return sum(each.size for each in self.files) + of_environments

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.files) + sum(each.files for each in self.environments)

    def to_json(self) -> bytes:
        """Return the content of a generation.json."""
        value = {
            "format": FORMAT,
            "number": self.number,
            "digest": self.digest,
            "lock": self.lock_text,
            "created": self.created,
            "files": self.files,
            "links": self.links,
            "environments": self.environments,
        }
        return json.dumps(value).encode()


def parse_generation_record(data: bytes, path: str) -> GenerationRecord:
    """Return the record in `data`.

    Args:
        data: of a generation.json.
        path: what errors call it.

    Raises:
        IntegrityError: it is damaged, or of another format.
    """
    try:
        value: Any = json.loads(data)
        if value["format"] != FORMAT:
            raise IntegrityError(f"{path} has a format that this release does not know")
        number, digest, text = int(value["number"]), value["digest"], str(value["lock"])
        files = tuple(_file(each) for each in value["files"])
        links = tuple(RecordedLink(str(each[0]), str(each[1])) for each in value["links"])
        created = float(value["created"])
        environments = tuple(_environment(each) for each in value["environments"])
    except (TypeError, ValueError, LookupError, RecursionError):
        raise IntegrityError(f"{path} is damaged") from None
    if digest_of_text(text) != digest:
        raise IntegrityError(f"{path} is damaged: its lock has another digest")
    return GenerationRecord(number, digest, text, files, links, created, environments)


def _file(fields: Sequence[Any]) -> RecordedFile:
    path, size, mtime_ns, sha256 = fields
    if not (type(size) is type(mtime_ns) is int and isinstance(path, str)):
        raise ValueError(path)
    return RecordedFile(path, size, mtime_ns, str(sha256))


def _environment(fields: Sequence[Any]) -> RecordedEnvironment:
    name, files, size, digest = fields
    if not (type(files) is type(size) is int and isinstance(name, str) and "/" not in name):
        raise ValueError(name)
    return RecordedEnvironment(name, files, size, str(digest))
