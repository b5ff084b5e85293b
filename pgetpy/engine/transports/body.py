"""A body that is not simply the object's bytes: framed, coded, or ended by the connection.

Layers are undone from the outside in:

    socket --> framing --------------> transfer codings --> content coding --> object's bytes
               chunks, a length, or    last applied first   (gzip, deflate)
               the end of connection

The framing alone says where the body ends. Without chunks or a length that is the end of the
connection, which a broken line looks like as well: `open_ended` tells, and only a coding that marks
its own end can notice that bytes are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pgetpy.core.http.content_codings import CodingError, ContentDecoder
from pgetpy.core.http.heads import Head
from pgetpy.errors import ConnectionFailedError, TransferError

if TYPE_CHECKING:
    from pgetpy.core.http.chunked import ChunkedDecoder

_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})


class BodyDecoder:
    """Takes what a connection delivers after `head` and gives the object's bytes.

    Args:
        url: for errors.
        head: says how the body is framed.
        coding: the content coding to undo; empty for none.
    """

    def __init__(self, url: str, head: Head, coding: str) -> None:
        self._url = url
        *inner, outer = transfer_codings(head) or ("",)
        self._chunks: ChunkedDecoder | None = None
        if outer == "chunked":
            from pgetpy.core.http.chunked import ChunkedDecoder

            self._chunks = ChunkedDecoder()
        length = None if outer else head.headers.get("content-length")
        self._left = int(length) if length is not None else None
        codings = [*([] if outer in ("", "chunked") else [outer]), *reversed(inner), coding]
        self._decoders = [ContentDecoder(each) for each in codings if each]
        self._surplus = False

    @property
    def complete(self) -> bool:
        """Whether the end that the framing marks has come; never, if it marks none."""
        return self._chunks.complete if self._chunks is not None else self._left == 0

    @property
    def open_ended(self) -> bool:
        """Whether only the end of the connection marks the end of the body."""
        return self._chunks is None and self._left is None

    @property
    def surplus(self) -> bool:
        """Whether bytes have come after the end, so that the connection cannot be used again."""
        return self._surplus or (self._chunks is not None and self._chunks.surplus > 0)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the bytes of the object that `data`, the next bytes of the body, contains.

        Raises:
            ConnectionFailedError: the framing is broken; another try may do better.
            TransferError: the coded bytes are broken, which is how the server has them.
        """
        if self._chunks is not None:
            from pgetpy.core.http.chunked import ChunkError

            try:
                data = self._chunks.feed(data)
            except ChunkError as error:
                reason = f"the chunked body is malformed ({error})"
                raise ConnectionFailedError(self._url, reason) from None
        elif self._left is not None:
            self._surplus |= len(data) > self._left
            data = data[: self._left]
            self._left -= len(data)
        if data:
            try:
                yield from _decode(data, self._decoders)
            except CodingError as error:
                reason = f"the body is not what its Content-Encoding says ({error})"
                raise TransferError(self._url, reason) from None

    def end(self) -> None:
        """Check that the body is complete, after its end or that of the connection.

        Raises:
            ConnectionFailedError: part of it is missing.
        """
        if not self.complete and not self.open_ended:
            what = f"{self._left} bytes before" if self._left is not None else "before"
            reason = f"closed by the server {what} the end of the answer"
            raise ConnectionFailedError(self._url, reason)
        if not all(decoder.complete for decoder in self._decoders):
            raise ConnectionFailedError(self._url, "the coded body was cut off")


def transfer_codings(head: Head) -> tuple[str, ...]:
    """Return the transfer codings of the body in lower case, in the order they were applied."""
    names = head.headers.get("transfer-encoding", "").lower().split(",")
    return tuple(name.strip() for name in names if name.strip())


def check_transfer_coding(url: str, head: Head, *, most: int = 2) -> None:
    """Raise where the body has transfer codings that are not undone here.

    At most `most` are: chunks and, within them, one compression. No request asks for that (there is
    no TE header), but some servers compress all the same.

    Raises:
        TransferError: there are others.
    """
    codings = transfer_codings(head)
    inner = codings[:-1] if codings[-1:] == ("chunked",) else codings
    if len(codings) > most or len(inner) > 1 or not set(inner) <= _COMPRESSIONS:
        coding = head.headers["transfer-encoding"]
        reason = (
            f"the server used Transfer-Encoding {coding!r}, unrequested and impossible to decode,"
        )
        raise TransferError(url, reason, hint="ask the server's operator for the plain bytes")


def _decode(data: bytes, decoders: Sequence[ContentDecoder]) -> Iterator[bytes]:
    """Yield `data` passed through all `decoders` in turn, a piece at a time."""
    if not decoders:
        yield data
        return
    first, *others = decoders
    for piece in first.feed(data):
        yield from _decode(piece, others)
