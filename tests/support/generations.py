"""Generations for tests: a node with a cache and a server, and locks of what that serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pgetpy import WeightsDownloadCache
from pgetpy.core.generations.lock import FileLine, GenerationLock
from pgetpy.generations import Generations
from tests.support.resources import Resource
from tests.support.server import Server


def digest(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


@dataclass
class Node:
    """A machine that serves many models.

    Attributes:
        root: the folder of its generations.
        cache: where their files come from.
        server: what the cache downloads from.
    """

    root: Path
    cache: WeightsDownloadCache
    server: Server
    _urls: dict[bytes, str] = field(default_factory=dict)

    @property
    def generations(self) -> Generations:
        return Generations(self.root, self.cache, fsync=False)

    def url(self, data: bytes) -> str:
        """Serve `data`, and return the URL, the same each time."""
        if data not in self._urls:
            path = f"/{len(self._urls)}.bin"
            self._urls[data] = self.server.add(path, Resource(data))
        return self._urls[data]

    def lock(self, number: int, files: Mapping[str, bytes]) -> GenerationLock:
        """Return the lock of a generation with these contents by path."""
        lines = [FileLine(self.url(data), path, digest(data)) for path, data in files.items()]
        return GenerationLock(number, tuple(lines))

    def files(self, number: int) -> dict[str, bytes]:
        """Return what readers of a generation find in it, by path."""
        folder = self.root / "ids" / str(number) / "files"
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def left_over(self) -> list[str]:
        """Return what is being built or removed."""
        return sorted(path.name for path in (self.root / "staging").iterdir())

    def pinned(self) -> int:
        """Return how many pins generations have in the cache."""
        return sum(len(keys) for owner, keys in self.cache.pins_by_owner().items() if owner)
