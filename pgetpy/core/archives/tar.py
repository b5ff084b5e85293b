"""Reads a tar archive's headers and says which of its bytes are which member's data.

A tar has no index. It is a chain: each header tells the size of the data behind it, and so where
the next header is.

    | header | data, in whole blocks | L header | long name | header | data | zeros | zeros |
    ^------- one member -----------^ ^------- one member, three parts ----^ ^- end marker --^

The reader never sees the data. It says which bytes it wants, is fed exactly those, and its `wanted`
moves on behind the data of the member that they describe. So the chain is followed by 512 bytes at
a time, while the data between goes to its files by other ways, in any order.

What is wanted next is a state, held as the function that will take it (`_step`):

    _header ----> a member: want the header behind its data
      |  |------> L, K, g, x: want the body -> _body -> _header, which applies what was collected
      |  |------> sparse: want more of the map -> _old_map or _data_map -> a member
      |  '------> a hard link with a size -> _header_or_link_data, whether data follows or not
      '---------> a block of zeros -> _second_zero_block -> ended

Forms: v7, ustar, star, GNU tar (its manual, "Tar Internals") and pax (POSIX.1-2001 and later, "pax
Interchange Format").

If readers disagree on which bytes come next, one archive would be two: a scanner sees one, the user
gets the other. Such archives are refused. Nothing else that a header states is judged here: names
may be absolute, links may point anywhere. `member_policy` decides about those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pgetpy.core.archives.members import Extent, Kind, Member
from pgetpy.core.archives.remarks import Remarks
from pgetpy.core.archives.tar_fields import (
    BLOCK,
    LARGEST,
    ZERO_BLOCK,
    Header,
    MalformedError,
    as_text,
    is_header,
    parse_header,
    parse_plain_file,
    round_up,
    text_field,
)
from pgetpy.core.archives.tar_overrides import REGULAR_TYPES, TYPES, Overrides, TarEntry
from pgetpy.core.archives.tar_sparse import DataMap, OldMap, Pairs, PaxSparse, extents
from pgetpy.core.http.ranges import Span
from pgetpy.errors import ArchiveError, LimitExceededError, TruncatedArchiveError

_LABEL, _CONTINUED, _SPARSE, _DUMPED_FOLDER = b"V", b"M", b"S", b"D"
_LINKS = (Kind.SYMLINK, Kind.HARDLINK)
# Bytes with which some writers fill the last record, and editors end a file.
_FILLING = b"\0\r\n\t "

_Step = Callable[[bytes], Member | None]


def is_tar(block: bytes) -> bool:
    """Whether an archive's first 512 bytes are a header, or the end marker of an empty one."""
    return block == ZERO_BLOCK or is_header(block)


class TarReader:
    """Reads the headers of one archive, in order.

    Oddities whose meaning is clear are accepted if GNU tar accepts them, and noted in `remarks`.

    Args:
        longest_header: most bytes that may describe one member: extended headers, long names,
            sparse maps. They are held in memory.
        delimited: whether the end of the archive is known by other means, a Content-Length say.
            Then a missing end marker is only odd; otherwise it may mean that the rest was cut off.

    Attributes:
        wanted: the bytes of the archive that `feed` takes next; empty once `ended`.
        ended: whether the end marker has been seen.
        remarks: what is odd about the archive.
    """

    def __init__(self, *, longest_header: int = 1 << 20, delimited: bool = True) -> None:
        self.wanted = Span(0, BLOCK)
        self.ended = False
        self.remarks = Remarks()
        self._longest = longest_header
        self._delimited = delimited
        self._step: _Step = self._header
        self._overrides = Overrides()
        # How long the description of the next member is so far.
        self._length = 0
        # Whether the header that is wanted would begin a member: the archive may end here.
        self._between = True
        self._zero_block = False
        # Whether what is wanted is a header that nothing before it has a say in.
        self._plain = True
        # For errors: what was read last.
        self._name = ""
        self._position = 0

    def feed(self, data: bytes) -> Member | None:
        """Take exactly the bytes of `wanted`; return the member they complete, if they do.

        Raises:
            ArchiveError: they are not headers, or their values are impossible.
            LimitExceededError: a member's description is longer than `longest_header`.
        """
        assert not self.ended
        assert len(data) == self.wanted.size
        try:
            return self._step(data)
        except MalformedError as error:
            raise ArchiveError(f"{self._place}: {error}") from error

    def feed_file(self, data: memoryview, most: int) -> Member | None:
        """Take a file's header at the start of `data`, which holds all of the file as well.

        `data` begins where `wanted` does. None, and nothing is taken, where it begins with anything
        but a plain file's only header, or the file is not all in `data`, or has `most` bytes or
        more: `feed` takes that.
        """
        if not self._plain or len(data) < BLOCK:
            return None
        found = parse_plain_file(data)
        if found is None:
            return None
        name, size, mode, mtime = found
        if size >= most or BLOCK + size > len(data):
            return None
        position = self.wanted.start
        start = position + BLOCK
        stop = start + size
        self._name, self._position = name, position
        # As `_want_member` has it: all else is so already.
        following = round_up(stop)
        self.wanted = Span(following, following + BLOCK)
        extents = (Extent(start, stop, 0),) if size else ()
        return Member(name, Kind.FILE, size, mode, mtime, "", extents, position)

    def finish(self, total: int, rest: bytes = b"") -> None:
        """Check that the archive may end after `total` bytes.

        Args:
            total: bytes of the archive.
            rest: the bytes of `wanted` received so far.

        Raises:
            TruncatedArchiveError: it ends within a member, or may have been cut off between two.
        """
        if total < self.wanted.start:
            reason = f"member {self._name!r} continues up to byte {self.wanted.start}"
            raise TruncatedArchiveError(total, reason)
        if self.ended:
            return
        if self._zero_block:
            # GNU tar takes one zero block for two.
            if rest.strip(b"\0"):
                self._remark_lone_block()
            self._end(self.wanted.start)
            return
        if self._overrides.start is not None:
            reason = f"the member described at byte {self._overrides.start} is missing"
            raise TruncatedArchiveError(total, reason)
        if not self._between or rest.strip(_FILLING):
            raise TruncatedArchiveError(total, "the header of a member is incomplete")
        if not self._delimited:
            reason = "the end marker is missing, so members may be missing too"
            raise TruncatedArchiveError(total, reason)
        self.remarks.add("the tar has no end marker; everything that was sent has been extracted")
        self._end(self.wanted.start)

    @property
    def _place(self) -> str:
        return f"member {self._name!r} at byte {self._position}"

    def _want(self, start: int, size: int, step: _Step) -> None:
        if start + size > LARGEST:
            raise MalformedError("its size is impossible")
        self._plain = False
        self.wanted = Span(start, start + size)
        self._step = step

    def _want_more(self, size: int, step: _Step) -> None:
        """Want what follows, as a further part of the next member's description."""
        self._between = False
        self._length += size
        if self._length > self._longest:
            raise LimitExceededError("header_bytes", self._longest, self._length, self._name)
        self._want(self.wanted.stop, round_up(size), step)

    def _want_member(self, stop: int) -> None:
        """Want the header behind data that goes up to `stop`."""
        self._overrides.forget()
        self._length = 0
        self._between = True
        self._want(round_up(stop), BLOCK, self._header)
        self._plain = not self._overrides.any_global

    def _end(self, stop: int) -> None:
        self.wanted = Span(stop, stop)
        self.ended = True

    def _header(self, block: bytes) -> Member | None:
        self._position = self.wanted.start
        if block == ZERO_BLOCK:
            self._first_zero_block()
            return None
        if not is_header(block):
            raise ArchiveError(f"not a tar header at byte {self._position}")
        self._name = as_text(self._overrides.long_name or text_field(block[:100]))
        header = parse_header(block)
        if header.type == _CONTINUED:
            raise MalformedError(
                "it continues from another volume, and multi-volume archives are not supported"
            )
        if header.type == _LABEL:
            self._want_member(self.wanted.stop + header.size)
            return None
        if header.type in TYPES:
            self._want_more(header.size, partial(self._body, header))
            # An empty span would never be fed, so an empty body is taken at once.
            return None if header.size else self._body(header, b"")
        entry = self._overrides.entry(header, self._position)
        self._name = entry.name
        for oddity in entry.oddities:
            self.remarks.add(oddity, self._place)
        return self._entry(entry, block)

    def _first_zero_block(self) -> None:
        if self._overrides.start is not None:
            self.remarks.add(f"the header at byte {self._overrides.start} belongs to no member")
        self._zero_block = True
        self._want(self.wanted.stop, BLOCK, self._second_zero_block)

    def _second_zero_block(self, block: bytes) -> Member | None:
        if block != ZERO_BLOCK:
            self._remark_lone_block()
        self._end(self.wanted.stop)
        return None

    def _remark_lone_block(self) -> None:
        where = f"the tar ends with a single zero block at byte {self._position}"
        self.remarks.add(f"{where}; what follows was ignored, as other programs do")

    def _body(self, header: Header, data: bytes) -> Member | None:
        self._overrides.take(header.type, data[: header.size], self._position)
        self._between = self._overrides.start is None
        self._want(self.wanted.stop, BLOCK, self._header)
        return None

    def _entry(self, entry: TarEntry, block: bytes) -> Member | None:
        """Return the member, unless more must be read for it."""
        start = self.wanted.stop
        if entry.header.type == _SPARSE:
            if entry.sparse is not None or not entry.header.gnu:
                raise MalformedError("it is a sparse file of an unknown format")
            return self._old_map(entry, OldMap(block))
        if entry.sparse is not None:
            return self._pax_sparse(entry, entry.sparse)
        if entry.kind is Kind.FILE:
            data = (Extent(start, start + entry.size, 0),) if entry.size else ()
            return self._complete(entry, start + entry.size, entry.size, data)
        if entry.header.type in REGULAR_TYPES and entry.size:
            raise MalformedError("it is a folder by its name and a file by its size")
        if entry.header.type == _DUMPED_FOLDER:
            return self._complete(entry, start + entry.size)
        member = self._complete(entry, start)
        if entry.kind is Kind.HARDLINK and entry.size and entry.header.posix:
            data_stop = start + entry.size
            self._plain = False
            self._step = partial(self._header_or_link_data, data_stop, self._overrides.pax)
        return member

    def _header_or_link_data(self, data_stop: int, pax: bool, block: bytes) -> Member | None:
        """Take what follows a hard link with a size: its data, or the next header.

        POSIX forbade data behind a hard link before 2001 and allows it since. Some writers state
        the file's size and write no data. So the block itself has to tell: with the checksum of
        a header it is one, and zeros are the end marker unless the archive uses pax headers.
        """
        if is_header(block) or (block == ZERO_BLOCK and not pax):
            return self._header(block)
        self._want_member(data_stop)
        return None

    def _pax_sparse(self, entry: TarEntry, sparse: PaxSparse) -> Member | None:
        if entry.kind is not Kind.FILE:
            raise MalformedError(f"it is sparse and a {entry.kind.value}")
        if sparse.pairs is not None:
            return self._sparse_file(entry, sparse.pairs, sparse.size)
        reading = DataMap()
        data_stop = self.wanted.stop + entry.size
        step = partial(self._data_map, entry, sparse.size, reading, data_stop)
        self._want_more(reading.missing, step)
        return None

    def _data_map(
        self, entry: TarEntry, size: int, reading: DataMap, data_stop: int, data: bytes
    ) -> Member | None:
        reading.feed(data)
        if self.wanted.stop + reading.missing > data_stop:
            raise MalformedError("its sparse map exceeds its data")
        if reading.missing:
            self._want_more(reading.missing, self._step)
            return None
        return self._sparse_file(entry, reading.pairs, size, data_stop)

    def _old_map(self, entry: TarEntry, reading: OldMap, block: bytes = b"") -> Member | None:
        if block:
            reading.feed(block)
        if reading.missing:
            self._want_more(reading.missing, partial(self._old_map, entry, reading))
            return None
        return self._sparse_file(entry, reading.pairs, reading.size)

    def _sparse_file(
        self, entry: TarEntry, pairs: Pairs, size: int, data_stop: int | None = None
    ) -> Member:
        """Return a file whose data begins where its map ends."""
        start = self.wanted.stop
        stop = start + entry.size if data_stop is None else data_stop
        return self._complete(entry, stop, size, extents(pairs, size, start, stop))

    def _complete(
        self, entry: TarEntry, stop: int, size: int = 0, data: tuple[Extent, ...] = ()
    ) -> Member:
        self._want_member(stop)
        return Member(
            name=entry.name,
            kind=entry.kind,
            size=size,
            mode=entry.header.mode,
            mtime=entry.mtime,
            target=entry.target if entry.kind in _LINKS else "",
            extents=data,
            position=entry.position,
        )
