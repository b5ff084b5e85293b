"""The links of a tree: where they lead, and whether that is still what it was.

An artifact that was computed here has files of its own instead: they are links that lead nowhere.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pgetpy.core.pipelines.build_manifest import LONGEST_MANIFEST, is_safe_path
from pgetpy.errors import IntegrityError


class TreeSource(NamedTuple):
    """A file that a tree is to have.

    Attributes:
        path: where, below the tree.
        target: the file to link to.
        reference: the cache's entry to pin; empty for a file that is not the cache's.
        wanted: what the cache keeps of `reference`.
    """

    path: str
    target: Path
    reference: str = ""
    wanted: str = "auto"


@dataclass(frozen=True)
class TreeLink:
    """A link, and what its target was like when it was made.

    `target` is empty for a file of the tree's own.
    """

    path: str
    target: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class TreeLinks:
    """All links of one tree.

    Attributes:
        owner: of its pins in the cache: another one for each tree that is made.
        links: the links.
    """

    owner: str
    links: tuple[TreeLink, ...]

    def to_json(self) -> bytes:
        """Return the content of a links.json."""
        return json.dumps(asdict(self)).encode()


def link_to(source: TreeSource, size: int, *, move: bool = False) -> TreeLink:
    """Return the link to `source`, which the manifest says has `size` bytes.

    Args:
        source: the file.
        size: its bytes.
        move: whether it becomes a file of the tree's own.

    Raises:
        IntegrityError: it is not there, or not what the manifest says.
    """
    if not is_safe_path(source.path):
        raise IntegrityError(f"a pipeline cannot have a file {source.path!r}")
    try:
        status = os.stat(source.target)
    except OSError:
        raise IntegrityError(f"{source.path} is gone from the cache") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        raise IntegrityError(f"{source.path} has {status.st_size} bytes instead of {size}")
    target = "" if move else os.path.abspath(source.target)
    return TreeLink(source.path, target, status.st_size, status.st_mtime_ns)


def holds(tree: Path, link: TreeLink) -> bool:
    """Whether a link is there, and leads to the file that it led to when it was made."""
    path = tree / link.path
    if link.target and os.readlink(path) != link.target:
        return False
    status = os.stat(path) if link.target else os.lstat(path)
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (
        link.size,
        link.mtime_ns,
    )


def parse_links(data: bytes) -> TreeLinks:
    """Return the links in a links.json.

    Raises:
        IntegrityError: it is damaged.
    """
    try:
        found = json.loads(data)
        links = tuple(TreeLink(**each) for each in found["links"])
        owner = found["owner"]
    except (TypeError, ValueError, LookupError, RecursionError):
        raise IntegrityError("links.json is damaged") from None
    for link in links:
        texts = isinstance(link.path, str) and isinstance(link.target, str)
        if not (texts and type(link.size) is type(link.mtime_ns) is int):
            raise IntegrityError("links.json is damaged")
        if not is_safe_path(link.path):
            raise IntegrityError("links.json names a file outside its folder")
    if not isinstance(owner, str) or not (owner.isascii() and owner.isalnum()):
        raise IntegrityError("links.json is damaged")
    return TreeLinks(owner, links)


def read_small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LONGEST_MANIFEST + 1)


def write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Have the content of a file on stable storage."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
