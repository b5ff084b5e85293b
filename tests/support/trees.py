"""Trees of files as values: read from a folder, and drawn by hypothesis to be archived."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import stat
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.support.bodies import body

SECOND = 10**9
THEN = 1_700_000_000


# ---------------------------------------------------------------------------- what stands there


class Node(NamedTuple):
    """All that is compared of one name."""

    kind: str
    mode: str
    mtime: int | str
    content: str
    links: int
    first_name: str


def tree(root: Path, since: int) -> dict[str, Node]:
    """Everything in `root`, itself included; a time after `since` is one that nobody set.

    What may not be read is made readable, once it has been looked at.
    """
    now = time.time_ns() + SECOND
    found: dict[str, Node] = {}
    first_names: dict[int, str] = {}
    contents: dict[int, str] = {}

    def visit(path: Path, name: str) -> None:
        status = path.lstat()
        kind = stat.filemode(status.st_mode)[0]
        first = first_names.setdefault(status.st_ino, name)
        seen = found[first] if first != name else None
        mode = seen.mode if seen is not None else f"{stat.S_IMODE(status.st_mode):04o}"
        needed = {"d": 0o700, "-": 0o400}.get(kind, 0)
        if status.st_mode & needed != needed:
            path.chmod(needed)
        if seen is None:
            contents[status.st_ino] = _content(path, kind)
        mtime = "now" if since <= status.st_mtime_ns <= now else status.st_mtime_ns
        links = 1 if kind == "d" else status.st_nlink
        found[name] = Node(kind, mode, mtime, contents[status.st_ino], links, first)
        if kind == "d":
            for below in sorted(os.listdir(path)):
                visit(path / below, f"{name}/{below}")

    visit(root, ".")
    return found


def _content(path: Path, kind: str) -> str:
    if kind == "l":
        return os.readlink(path)
    if kind == "-":
        data = path.read_bytes()
        return f"{len(data)} {hashlib.blake2b(data, digest_size=8).hexdigest()}"
    return ""


def bare(found: dict[str, Node]) -> dict[str, Node]:
    return {name: node._replace(mtime=0) for name, node in found.items()}


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def plain_tree(folder: Path) -> dict[str, Any]:
    """What stands below `folder`: bytes of files, targets of links, None for folders."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def without_trials(found: dict[str, Any]) -> dict[str, Any]:
    """What `plain_tree` found, but for what a kill can leave: a file system is tried out by
    making an empty file or folder, which goes at once, and a journal is replaced by a new file.
    """
    trials = (".pgetpy-lock", ".pgetpy-probe")
    return {name: what for name, what in found.items() if what or not name.endswith(trials)}


# ---------------------------------------------------------------------------- what is drawn

# No folder has the name of a leaf, so nothing is drawn that has to be refused.
FOLDERS = ("d", "D", "\u00e9", "e\u0301", "folder" * 12)
LEAVES = ("a", "A", "\u00fc", "\u65e5\u672c\u8a9e", "-x", "with space", "back\\slash", ".hidden",
          "\udce9", "leaf" * 25)  # fmt: skip
MTIMES = (0, 1, THEN, THEN + 0.5, 1_234_567_890.123456, -1, -1.75, 2**33)
SIZES = (0, 1, 511, 512, 513, 5000, 70_001)
MODES = (0o644, 0o755, 0o600, 0o777, 0o444, 0o000, 0o4755, 0o2711, 0o1777)

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """A member to be made; what is of no use to its kind is ignored."""

    kind: bytes
    parts: Parts
    size: int
    mode: int
    mtime: float
    target: Parts

    @property
    def name(self) -> str:
        return "/".join(self.parts) or "."

    @property
    def data(self) -> bytes:
        return body(self.size + len(self.parts))[len(self.parts) :]

    @property
    def way(self) -> str:
        """From the link to its target."""
        start = "/" + "/".join(self.parts[:-1])
        return posixpath.relpath("/" + "/".join(self.target), start)

    def shortened(self) -> Drawn:
        """As it fits into the oldest formats."""

        def short(parts: Parts) -> Parts:
            return tuple(part[:8] for part in parts)

        mtime = min(max(0, self.mtime), 2**33 - 1)
        return replace(self, parts=short(self.parts), target=short(self.target), mtime=mtime)


def _join(folders: list[str], leaf: str) -> Parts:
    return (*folders, leaf)


folders = st.lists(st.sampled_from(FOLDERS), max_size=2)
leaves = st.builds(_join, folders, st.sampled_from(LEAVES))
REST = {
    "size": st.sampled_from(SIZES),
    "mode": st.sampled_from(MODES),
    "mtime": st.sampled_from(MTIMES),
}
FEW = st.sampled_from(LEAVES[:3]).map(lambda leaf: (leaf,))
members = st.one_of(
    st.builds(Drawn, st.just(tarfile.REGTYPE), FEW | leaves, target=st.just(()), **REST),
    st.builds(Drawn, st.just(tarfile.DIRTYPE), folders.map(tuple), target=st.just(()), **REST),
    st.builds(Drawn, st.just(tarfile.SYMTYPE), FEW | leaves, target=FEW | leaves, **REST),
    st.builds(Drawn, st.just(tarfile.SYMTYPE), leaves, target=folders.map(tuple), **REST),
    st.builds(Drawn, st.just(tarfile.LNKTYPE), FEW | leaves, target=FEW | leaves, **REST),
)
drawn_members = st.lists(members, max_size=12)
ranges = st.sampled_from([4096, 50_000, 10**9])


def standing(drawn: list[Drawn]) -> Iterator[Drawn]:
    """Those that can be made in this order: hard links lead to files and symbolic links that stand,
    and those to symbolic links stay in the folder."""
    # How far up from its own folder a link leads.
    files: dict[Parts, int] = {}
    for member in drawn:
        up = 0
        if member.kind == tarfile.LNKTYPE:
            up = files.get(member.target, len(member.parts))
        elif member.kind == tarfile.SYMTYPE:
            up = member.way.split("/").count("..")
        if up >= len(member.parts) > 0:
            continue
        yield member
        files.pop(member.parts, None)
        if member.kind != tarfile.DIRTYPE:
            files[member.parts] = up


def on_disk(drawn: list[Drawn], root: Path) -> None:
    """Make the members; what is made later takes the place of what stands."""
    root.mkdir()
    made_folders: dict[Path, Drawn] = {}
    for member in standing(drawn):
        path = root.joinpath(*member.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == tarfile.DIRTYPE:
            path.mkdir(exist_ok=True)
            made_folders[path] = member
            continue
        if member.kind == tarfile.LNKTYPE and member.target == member.parts:
            continue
        path.unlink(missing_ok=True)
        _make_leaf(member, path, root)
    for path, member in sorted(made_folders.items(), key=lambda made: -len(made[0].parts)):
        path.chmod(member.mode | 0o500)
        _set_time(path, member)


def _make_leaf(member: Drawn, path: Path, root: Path) -> None:
    if member.kind == tarfile.LNKTYPE:
        os.link(root.joinpath(*member.target), path, follow_symlinks=False)
        return
    if member.kind == tarfile.SYMTYPE:
        path.symlink_to(member.way)
    else:
        with path.open("wb") as file:
            # A hole before, between and after, wherever there is room for one.
            for offset in range(member.size * 3 & ~4095, member.size * 20, 70_000):
                os.pwrite(file.fileno(), member.data[:9000], offset)
            os.truncate(path, member.size * 20 if member.mode & 0o100 else member.size)
        path.chmod(member.mode | 0o400)
    _set_time(path, member)


def _set_time(path: Path, member: Drawn) -> None:
    mtime = int(member.mtime * SECOND)
    os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
