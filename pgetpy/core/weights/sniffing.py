"""What shows in a file's first bytes that is not the weights it was taken for.

Error pages, JSON and pointers are saved as weights by tools that look at nothing but the status;
pickles run whatever code their author put into them when they are loaded.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pgetpy.core.http.heads import Head, words_of

# Enough to find the first member's name in the zips that torch.save makes.
TELLING = 2048
_BLANK = b"\xef\xbb\xbf \t\r\n"
# Protocols 2 to 5 begin with their number (PEP 307, 3154, 574).
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ZIP = b"PK\x03\x04"
_TORCH_MEMBERS = (b"data.pkl", b".data/", b"byteorder", b"constants.pkl")


class FileKind(Enum):
    """What a file looks like."""

    SAFETENSORS = "safetensors"
    PAGE = "a page"
    JSON = "JSON"
    TEXT = "text"
    PICKLE = "a pickle, which may run any code when it is loaded"
    EMPTY = "empty"
    OTHER = "something else"


# What nobody means by weights; the rest may be a format that is not known here.
REFUSED = frozenset({FileKind.PAGE, FileKind.JSON, FileKind.TEXT, FileKind.PICKLE, FileKind.EMPTY})


class SniffResult(NamedTuple):
    """What a file looks like, and the words at its beginning if it holds words."""

    kind: FileKind
    words: str = ""


def sniff(beginning: bytes) -> SniffResult:
    """Return what the file whose first TELLING bytes are `beginning` looks like."""
    if not beginning:
        return SniffResult(FileKind.EMPTY)
    if _is_safetensors(beginning):
        return SniffResult(FileKind.SAFETENSORS)
    if beginning.startswith(_PICKLES) or _is_torch_zip(beginning):
        return SniffResult(FileKind.PICKLE)
    text = beginning.lstrip(_BLANK)
    if text.startswith(b"<"):
        return SniffResult(FileKind.PAGE, _words(text))
    if not _is_text(beginning):
        return SniffResult(FileKind.OTHER)
    kind = FileKind.JSON if text.startswith((b"{", b"[")) else FileKind.TEXT
    return SniffResult(kind, _words(text))


def _is_safetensors(beginning: bytes) -> bool:
    """Whether a header's length and its brace stand where they should."""
    return beginning[8:].lstrip(b" \t\r\n").startswith(b"{") and not any(beginning[4:8])


def _is_torch_zip(beginning: bytes) -> bool:
    # Its members lie in a folder named after the file.
    name_length = int.from_bytes(beginning[26:28], "little")
    name = beginning[30 : 30 + name_length]
    return beginning.startswith(_ZIP) and name.endswith(_TORCH_MEMBERS)


def _is_text(beginning: bytes) -> bool:
    try:
        # The last character may be cut off.
        text = beginning.decode("utf-8", "strict" if len(beginning) < TELLING else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\r\n\ufeff" for char in text)


def _words(text: bytes) -> str:
    return words_of(Head(200, {}), text).words
