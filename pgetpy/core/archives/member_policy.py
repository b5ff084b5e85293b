"""Judges which members of an archive may be written into a folder that starts out empty, and where.

An archive can be made to write outside its folder. Checking names for `..` is not enough, because
a symbolic link changes the meaning of every name below it:

    a -> /etc              then  a/passwd            a name that leads through a link
    d/                     then  d/up -> ..          harmless alone: the folder itself
    e -> d/up/..                                     a target that leads through a link: outside
    x -> y/..              then  y -> .              harmless until a later member makes y a link

Looking at the disk before each write would answer only for that moment. Members are made by several
threads, and a later run or a later member may change what a path means.

So the policy looks at names alone. It is told the members in the archive's order, and holds two
invariants over everything that it has admitted:

1. No path leads through a symbolic link.
2. No target of a symbolic link leads through another one before its last component. The last
   may be a link (`libx.so -> libx.so.1 -> libx.so.1.2`).

Together they say that `..` in a target means the folder that it seems to mean, whenever it is
followed and in whatever order members are made: reasoning about text is enough. For the second
one, later members count as well. `_expected` remembers the paths that admitted targets lead
through, and a member that would put a link there is refused.

What each path holds is kept by its folded name: on a file system that ignores case, `A` and `a`
are one path, and a link `A` would turn `a/x` into a way out.

Names are taken as POSIX takes them (POSIX.1-2017, 4.13 "Pathname Resolution"): a slash separates, a
backslash is a character like any other. File names are taken to be encoded in UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.destinations.names import OWN_PREFIX, OWN_SUFFIXES
from pgetpy.errors import LimitExceededError, UnsafeMemberError

Parts = tuple[str, ...]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# `C:`, `C:\name` and `\\server\share`. POSIX takes them for plain names, but no archive means a
# folder called `C:`.
_WINDOWS_ROOT = re.compile(r"(?:\./+)*(?:[A-Za-z]:(?:[/\\]|\Z)|\\\\)")
# A last component that needs no further look below a folder that has been looked at.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_ADMITTED_KINDS = frozenset({Kind.FILE, Kind.FOLDER, Kind.SYMLINK, Kind.HARDLINK})


class AdmittedMember(NamedTuple):
    """A member that may be written.

    Attributes:
        parts: its path below the folder, never empty; folders missing on it are to be made.
        member: what the archive states of it.
        target: for a hard link the path of the file or symbolic link to link to, as it is when
            the members before this one are made; None for all others.
        replaces: a file or link of an earlier member has that path and gives way. It has to be
            unlinked, not written into, as other names may lead to it; and bytes of it that are
            still to come belong to the file, not to the path.
    """

    parts: Parts
    member: Member
    target: Parts | None = None
    replaces: bool = False


class _Node(NamedTuple):
    """A member at a path, which is spelled `parts`."""

    parts: Parts
    kind: Kind


def permissions(mode: int, umask: int) -> int:
    """Return the permission bits to set for a stated mode: set-ID and sticky bits are dropped."""
    return mode & 0o777 & ~umask


class MemberPolicy:
    """Admits members one by one, in the archive's order, and remembers those it admitted.

    Args:
        limits: how much may come out.
        fold: maps a component to one form for all names that the file system takes for the same:
            `str.casefold` after Unicode normalisation, say.

    Attributes:
        limits: what may come out.
        top: what the archive states of the folder itself (`./`), None where it does not.
        total_bytes: the sizes of all files admitted.
    """

    def __init__(self, limits: Limits, fold: Callable[[str], str] = str) -> None:
        self.top: Member | None = None
        self.total_bytes = 0
        self.limits = limits
        self._fold = fold
        self._own_prefix = fold(OWN_PREFIX)
        self._own_suffixes = tuple(map(fold, OWN_SUFFIXES))
        self._count = 0
        # By folded path. If a path is here, so are all folders above it.
        self._nodes: dict[Parts, _Node] = {}
        # Files by key that are spelled like it, and not in `_nodes`: most members of large
        # archives, and the garbage collector would walk a node for each.
        self._plain_files: set[Parts] = set()
        # Of the names of admitted files, as stated, all but the last component; and the folders
        # that it leads through.
        self._prefixes: dict[str, Parts] = {}
        self._folders: dict[Parts, AdmittedMember] = {}
        # The targets of the symbolic links among them, as stated.
        self._texts: dict[Parts, str] = {}
        # Folded paths that symbolic links go through, and that do not exist yet as folders, with
        # the name of the link.
        self._expected: dict[Parts, str] = {}

    def admit(self, member: Member) -> AdmittedMember | None:
        """Return how to write `member`, or None where there is nothing to make.

        Nothing is to be made for the folder itself (`./`), and for a hard link to its own name: GNU
        tar writes that when one file is named twice on its command line.

        Raises:
            UnsafeMemberError: it would reach beyond the folder, or cannot be made in it.
            LimitExceededError: it is one too many or too large.

        All checks come before the first change of state, so an error leaves the policy unchanged.
        """
        if member.kind is Kind.FILE and (plain := self._admit_plain(member)) is not None:
            return plain
        if member.kind not in _ADMITTED_KINDS:
            _refuse(member, f"it is a {member.kind.value}")
        parts = self._path(member, member.name, "its name")
        if not parts:
            self._admit_top(member)
            return None
        self._refuse_own(member, parts)
        key = self._key(parts)
        present = self._present(member, parts, key)
        linked = self._linked(member) if member.kind is Kind.HARDLINK else None
        target = linked.parts if linked is not None else None
        text = self._link_text(member, linked)
        expected = self._expectations(member, key, text) if text is not None else {}
        added = self._missing_folders(member, parts, key)
        self._account(member, 1 + len(added) + len(expected))
        for folder in added:
            self._nodes[folder] = _Node(parts[: len(folder)], Kind.FOLDER)
        self._expected |= expected
        if target == parts:
            return None
        entry = AdmittedMember(
            parts, member, target, present is not None and present.kind is not Kind.FOLDER
        )
        self._nodes[key] = _Node(parts, member.kind if text is None else Kind.SYMLINK)
        if text is not None:
            self._texts[key] = text
        if member.kind is Kind.FOLDER:
            self._folders[key] = entry
        elif member.kind is Kind.FILE and key is parts and len(parts) > 1:
            prefix = member.name[: member.name.rindex("/") + 1]
            if prefix + parts[-1] == member.name:
                self._prefixes[prefix] = parts[:-1]
        return entry

    def _admit_plain(self, member: Member) -> AdmittedMember | None:
        """Admit a file beside one that was admitted, if only its last component is new."""
        name = member.name
        cut = name.rfind("/") + 1
        folder = self._prefixes.get(name[:cut])
        if folder is None:
            return None
        last = name[cut:]
        limits = self.limits
        if not _PLAIN_NAME.fullmatch(last) or len(last) > limits.component_bytes:
            return None
        # A folded name has another key. What is not ASCII in the prefix is longer when encoded.
        if self._fold(last) != last or 4 * cut + len(last) > limits.name_bytes:
            return None
        parts = (*folder, last)
        if parts in self._plain_files or parts in self._nodes:
            return None
        self._account(member, 1)
        self._plain_files.add(parts)
        return AdmittedMember(parts, member)

    def folders(self) -> list[AdmittedMember]:
        """Return the folders that the archive states, deepest first, each as stated last.

        Their modes and times can be set in this order once everything else is written: a folder
        that may not be entered no longer hides one below it. Folders that are only implied by the
        names of others have neither.
        """
        return sorted(self._folders.values(), key=lambda entry: -len(entry.parts))

    def expected(self) -> Iterator[Parts]:
        """Yield the folded paths that symbolic links lead through and that are not folders so far.

        The rules hold for a folder that starts out empty. If the members are then moved into one
        that is not, the caller has to see that none of these paths is a symbolic link there.
        """
        return (path for path in self._expected if not self._is(path, Kind.FOLDER))

    def _admit_top(self, member: Member) -> None:
        if member.kind is not Kind.FOLDER:
            _refuse(member, f"it is a {member.kind.value} that would replace the folder itself")
        self._account(member, 1)
        self.top = member

    def _path(self, member: Member, name: str, what: str) -> Parts:
        """Return the components of a member's name, or of a hard link's target, which is one."""
        text = self._text(member, name, what)
        parts = tuple(text.split("/"))
        if "" in parts or "." in parts:
            parts = tuple(part for part in parts if part not in ("", "."))
        if ".." in parts:
            _refuse(member, f"{what} leads out of a folder by '..'")
        self._limit(member, "depth", self.limits.depth, len(parts))
        return parts

    def _text(self, member: Member, text: str, what: str) -> str:
        """Return a name or target in the one form that reading it back from a folder would give.

        A name may hold surrogate escapes that together are valid UTF-8. It would be another text
        than the plain spelling and the same file on disk, so that no comparison would see it.
        """
        if not text:
            _refuse(member, f"{what} is empty")
        try:
            raw = text.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            _refuse(member, f"{what} cannot be encoded")
        if not text.isascii():
            text = raw.decode(errors="surrogateescape")
        if _CONTROL.search(text):
            _refuse(member, f"there are control characters in {what}")
        if text.startswith("/"):
            _refuse(member, f"{what} is absolute")
        if _WINDOWS_ROOT.match(text):
            _refuse(member, f"{what} is absolute on Windows")
        self._limit(member, "name_bytes", self.limits.name_bytes, len(raw))
        if len(raw) > self.limits.component_bytes:
            longest = max(map(len, raw.split(b"/")))
            self._limit(member, "component_bytes", self.limits.component_bytes, longest)
        return text

    def _refuse_own(self, member: Member, parts: Parts) -> None:
        name = self._fold(parts[0])
        if name.startswith(self._own_prefix) or name.endswith(self._own_suffixes):
            _refuse(member, f"the name {parts[0]!r} is reserved for transfers")

    def _present(self, member: Member, parts: Parts, key: Parts) -> _Node | None:
        """Return what has this path already, if the member may have it too."""
        node = self._node(key)
        if node is None:
            return None
        _refuse_other_spelling(member, parts, node)
        if (node.kind is Kind.FOLDER) != (member.kind is Kind.FOLDER):
            _refuse(member, f"an earlier member of this name is a {node.kind.value}")
        return node

    def _missing_folders(self, member: Member, parts: Parts, key: Parts) -> list[Parts]:
        """Return the folded paths of the folders to make for a member, deepest first."""
        missing = []
        for depth in range(len(parts) - 1, 0, -1):
            node = self._node(key[:depth])
            if node is not None:
                _refuse_other_spelling(member, parts, node)
                if node.kind is not Kind.FOLDER:
                    _refuse(member, f"it lies below {_path_of(node)}, a {node.kind.value}")
                break
            missing.append(key[:depth])
        return missing

    def _expectations(self, member: Member, key: Parts, target: str) -> dict[Parts, str]:
        """Return the paths that may not become symbolic links, as this one leads through them.

        This is invariant 2, both ways: no link is admitted where an earlier target leads through,
        and no target leads through an earlier link. `target` is the text of the link.
        """
        if key in self._expected:
            _refuse(member, f"the symbolic link {self._expected[key]!r} leads through it")
        expected = {}
        for path in self._passages(member, key[:-1], target):
            if path == key or self._is(path, Kind.SYMLINK):
                _refuse(member, f"its target leads through the symbolic link {'/'.join(path)!r}")
            if path not in self._expected and not self._is(path, Kind.FOLDER):
                expected[path] = member.name
        return expected

    def _passages(self, member: Member, folder: Parts, target: str) -> Iterator[Parts]:
        """Yield the folded paths that a symbolic link's target leads through.

        The last component is left out: it may be a link itself. `folder` is the link's own.
        """
        text = self._text(member, target, "its target")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        self._limit(member, "depth", self.limits.depth, len(parts))
        path = list(folder)
        for last, part in enumerate(parts, 1 - len(parts)):
            if part != "..":
                path.append(self._fold(part))
                if last:
                    yield tuple(path)
            elif path:
                path.pop()
            else:
                _refuse(member, f"its target {target!r} is outside the folder")

    def _link_text(self, member: Member, linked: _Node | None) -> str | None:
        """Return the target's text if the member is a symbolic link, else None.

        A hard link to a symbolic link is that link under another name. Its target is relative to
        the folder of the new name, so it has to be judged again from there.
        """
        if linked is not None and linked.kind is Kind.SYMLINK:
            return self._texts[self._key(linked.parts)]
        return member.target if member.kind is Kind.SYMLINK else None

    def _linked(self, member: Member) -> _Node:
        """Return the file or symbolic link that a hard link links to."""
        parts = self._path(member, member.target, "its target")
        key = self._key(parts)
        for depth in range(1, len(key)):
            if self._is(key[:depth], Kind.SYMLINK):
                path = "/".join(parts[:depth])
                _refuse(member, f"its target leads through the symbolic link {path!r}")
        node = self._node(key)
        if node is None and parts:
            _refuse(member, f"its target {member.target!r} is not an earlier member")
        if node is None or node.kind is Kind.FOLDER:
            _refuse(member, f"its target {member.target!r} is a folder")
        return node

    def _account(self, member: Member, count: int) -> None:
        """Add a member to the sums, unless it exceeds a limit."""
        size = member.size if member.kind is Kind.FILE else 0
        if size < 0:
            _refuse(member, "its size is negative")
        self._limit(member, "members", self.limits.members, self._count + count)
        self._limit(member, "total_bytes", self.limits.total_bytes, self.total_bytes + size)
        self._count += count
        self.total_bytes += size

    def _limit(self, member: Member, limit: str, allowed: int | None, found: int) -> None:
        if allowed is not None and found > allowed:
            raise LimitExceededError(limit, allowed, found, member.name)

    def _key(self, parts: Parts) -> Parts:
        key = tuple(map(self._fold, parts))
        # Mostly nothing is changed by folding: one tuple for a million members, not two.
        return parts if key == parts else key

    def _node(self, key: Parts) -> _Node | None:
        """Return the node at a folded path."""
        node = self._nodes.get(key)
        if node is None and key in self._plain_files:
            return _Node(key, Kind.FILE)
        return node

    def _is(self, path: Parts, kind: Kind) -> bool:
        node = self._node(path)
        return node is not None and node.kind is kind


def _refuse(member: Member, reason: str) -> NoReturn:
    raise UnsafeMemberError(member.name, reason)


def _refuse_other_spelling(member: Member, parts: Parts, node: _Node) -> None:
    if node.parts != parts[: len(node.parts)]:
        clash = f"differs from {_path_of(node)} only in ways that the file system ignores"
        _refuse(member, f"its name {clash}")


def _path_of(node: _Node) -> str:
    return repr("/".join(node.parts))
