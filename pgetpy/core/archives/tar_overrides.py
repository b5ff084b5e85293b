"""What overrides a tar header: extended headers and long names that precede it.

The fields of a header are too short for long names and large sizes. So a member may have further
headers before its own, whose bodies replace single fields. In rising order of precedence:

1. the member's own header;
2. a long name or target of GNU tar's (types `L` and `K`);
3. global pax records (type `g`), which hold for all members that follow;
4. the member's own pax records (`x`, Solaris `X`);
5. among those, the name of a sparse file: `path` is then a name for readers that know no sparse
   files.

An empty value takes back a global one (POSIX.1-2001, "pax Extended Header").
"""

from __future__ import annotations

from typing import NamedTuple

from pgetpy.core.archives.members import Kind
from pgetpy.core.archives.tar_fields import (
    Header,
    MalformedError,
    as_text,
    parse_decimal,
    parse_records,
    parse_seconds,
    text_field,
)
from pgetpy.core.archives.tar_sparse import PaxSparse, is_sparse_record, parse_pax_sparse

_LONG_NAME, _LONG_TARGET, _GLOBAL = b"L", b"K", b"g"
_EXTENDED = (b"x", b"X")
TYPES = frozenset((_LONG_NAME, _LONG_TARGET, _GLOBAL, *_EXTENDED))
_KEPT_GLOBALS = (b"path", b"linkpath", b"size", b"mtime")

REGULAR_TYPES = frozenset((b"\0", b"0", b"7"))
# A type that is not here is a file (POSIX: "any other value ... treated as a regular file").
_KINDS = {
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER_DEVICE,
    b"4": Kind.BLOCK_DEVICE,
    b"5": Kind.FOLDER,
    b"6": Kind.FIFO,
    b"D": Kind.FOLDER,
}


class TarEntry(NamedTuple):
    """A member's header with all that overrides it.

    Attributes:
        position: where the first of its headers begins.
        size: what the archive holds of it; for a sparse file without the holes.
        sparse: what pax records say of a sparse file.
        oddities: clauses about what cannot be read and was replaced by a usual value.
    """

    position: int
    header: Header
    name: str
    target: str
    kind: Kind
    size: int
    mtime: int
    sparse: PaxSparse | None = None
    oddities: tuple[str, ...] = ()


class Overrides:
    """Collects what precedes a member's own header.

    Attributes:
        pax: whether any extended header has been seen in this archive.
        start: where the first header that waits for its member begins, None where none does.
        long_name: the name that waits for its member, if any.
    """

    def __init__(self) -> None:
        self.pax = False
        self._globals: dict[bytes, bytes] = {}
        self.forget()

    @property
    def any_global(self) -> bool:
        """Whether anything holds for the whole archive."""
        return bool(self._globals)

    def forget(self) -> None:
        """Begin with the next member: keep only the global records."""
        self.start: int | None = None
        self.long_name = b""
        self._long_target = b""
        self._records: list[tuple[bytes, bytes]] | None = None
        self._oddities: tuple[str, ...] = ()

    def take(self, flag: bytes, body: bytes, position: int) -> None:
        """Take in the body of a header whose type is one of `TYPES`."""
        self.pax = self.pax or flag not in (_LONG_NAME, _LONG_TARGET)
        if flag == _GLOBAL:
            self._take_globals(parse_records(body))
            return
        if self.start is None:
            self.start = position
        if flag == _LONG_NAME:
            self.long_name = text_field(body)
        elif flag == _LONG_TARGET:
            self._long_target = text_field(body)
        else:
            if self._records is not None:
                # As in GNU tar, the later one replaces the earlier one as a whole.
                self._oddities = ("it has several extended headers; the last one was used",)
            self._records = parse_records(body)

    def entry(self, header: Header, position: int) -> TarEntry:
        """Return the member whose own header is `header`."""
        own = self._records or ()
        records = self._globals | dict(own) if own else self._globals
        sparse = parse_pax_sparse(own) if own else None
        sparse_name = sparse.name if sparse is not None else b""
        name = as_text(sparse_name or records.get(b"path") or self.long_name or header.name)
        size, stated = records.get(b"size"), records.get(b"mtime")
        mtime = parse_seconds(stated) if stated else None
        oddities = self._oddities + (header.oddities if mtime is None else ())
        if stated and mtime is None:
            oddities += (
                "the time in its extended header is not a number; the plain header's was used",
            )
        return TarEntry(
            position=position if self.start is None else self.start,
            header=header,
            name=name,
            target=as_text(records.get(b"linkpath") or self._long_target or header.target),
            kind=_kind(header.type, name),
            size=parse_decimal(size, "size") if size else header.size,
            mtime=header.mtime if mtime is None else mtime,
            sparse=sparse,
            oddities=oddities,
        )

    def _take_globals(self, records: list[tuple[bytes, bytes]]) -> None:
        for keyword, value in records:
            if is_sparse_record(keyword):
                raise MalformedError("it has a sparse map for all members")
            if keyword in _KEPT_GLOBALS:
                self._globals[keyword] = value


def _kind(flag: bytes, name: str) -> Kind:
    # Before there was a type for folders, a slash behind the name said it.
    if flag in REGULAR_TYPES and name.endswith("/"):
        return Kind.FOLDER
    return _KINDS.get(flag, Kind.FILE)
