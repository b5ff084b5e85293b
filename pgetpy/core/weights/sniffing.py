"""What a file looks like by its first bytes, when it is not the weights it should be.

Tools that look at the status alone save error pages, JSON and Git LFS pointers as weights. Pickles
are recognised since loading one runs whatever code its author put into it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pgetpy.core.http.heads import Head, words_of

# Enough to reach the first member's name in the zips that torch.save writes.
TELLING = 2048
_BLANK = b"\xef\xbb\xbf \t\r\n"
# Protocols 2 to 5 begin with their number (PEP 307, 3154 and 574).
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
    OTHER = "data of an unknown kind"


# Never weights. Any other file may be in a format that is not known here.
REFUSED = frozenset({FileKind.PAGE, FileKind.JSON, FileKind.TEXT, FileKind.PICKLE, FileKind.EMPTY})


class SniffResult(NamedTuple):
    """What a file looks like, and the words at its beginning if it is text."""

    kind: FileKind
    words: str = ""


def sniff(beginning: bytes) -> SniffResult:
    """Return what a file looks like by its first TELLING bytes."""
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
    """Whether it begins with a plausible header length and the header's opening brace."""
    return beginning[8:].lstrip(b" \t\r\n").startswith(b"{") and not any(beginning[4:8])


def _is_torch_zip(beginning: bytes) -> bool:
    # The members are in a folder named after the file.
    name_length = int.from_bytes(beginning[26:28], "little")
    name = beginning[30 : 30 + name_length]
    return beginning.startswith(_ZIP) and name.endswith(_TORCH_MEMBERS)


def _is_text(beginning: bytes) -> bool:
    try:
        # The sample may end in the middle of a character.
        text = beginning.decode("utf-8", "strict" if len(beginning) < TELLING else "ignore")
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\t\r\n\ufeff" for char in text)


def _words(text: bytes) -> str:
    return words_of(Head(200, {}), text).words
