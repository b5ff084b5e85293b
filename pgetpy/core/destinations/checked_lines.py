"""Lines with a checksum each, so that one cut off by a kill or a power cut is seen and ignored."""

from __future__ import annotations

import binascii


def checked_line(text: str) -> bytes:
    """Return `text`, in which there is no line feed, as a line with its checksum."""
    raw = text.encode()
    return b"%b %08x\n" % (raw, binascii.crc32(raw))


def text_of(raw: bytes) -> str | None:
    """Return the text of a line without its line feed; None where it is damaged."""
    text, _, crc = raw.rpartition(b" ")
    if crc != b"%08x" % binascii.crc32(text):
        return None
    return text.decode(errors="replace")
