"""What a part file already holds, as a value, and as the lines that say so.

A part file has its full size from the start and is written in any order, so its size says nothing.
The journal says which bytes are there. It is text, one fact a line, each with a checksum, so that a
line that was cut off by a kill or a power cut is recognised. Facts are only appended:

    pgetpy 1 {"key": …, "total": …, "etag": …, "boot": …} CRC    which object, which boot
    w START STOP CRC                                             these bytes are written
    f START STOP CRC                                             … and on stable storage
    m CRC                                                        its members are being moved
    p CRC                                                        the file was published

Bytes that were written survive a kill, because the kernel has them, but not a power cut. So a
journal of this boot is believed in its `w` lines, and one of another boot in its `f` lines only.
Reading stops at the first line that is damaged, so nothing may be appended behind one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pgetpy.core.destinations.checked_lines import checked_line, text_of
from pgetpy.core.http.answers import Identity
from pgetpy.core.http.ranges import Spans
from pgetpy.core.lazy_dataclass import dataclass, field

_MAGIC = "pgetpy 1"
_SPAN = r"(?a)(\d{1,19}) (\d{1,19})"


class Subject(NamedTuple):
    """What a journal is about.

    Attributes:
        key: a hash of the URL without user, password and signature.
        identity: the version of the object.
        boot: which boot of the machine wrote it; empty where the system does not tell.
    """

    key: str
    identity: Identity
    boot: str


@dataclass
class Journal:
    """A journal as read.

    Attributes:
        subject: None if the journal is empty, or was written by another release.
        written: spans that survive a kill.
        flushed: spans that survive a power cut as well.
        published: whether the run said that it was done.
        moving: whether an archive's members are being moved to their folder.
        size: bytes of the journal up to the first damaged line; facts are appended there.
    """

    subject: Subject | None = None
    written: Spans = field(default_factory=Spans)
    flushed: Spans = field(default_factory=Spans)
    published: bool = False
    moving: bool = False
    size: int = 0

    def trusted(self, boot: str) -> Spans:
        """Return the bytes that are there, seen from boot `boot`."""
        same = self.subject is not None and boot != "" and self.subject.boot == boot
        return self.written if same else self.flushed


def subject_line(subject: Subject) -> bytes:
    """Return the first line of a journal about `subject`."""
    import json

    value = {"key": subject.key, "boot": subject.boot, **vars(subject.identity)}
    return checked_line(f"{_MAGIC} {json.dumps(value, sort_keys=True)}")


def written_line(start: int, stop: int) -> bytes:
    """Return the line that says the bytes from `start` up to `stop` are written."""
    return checked_line(f"w {start} {stop}")


def flushed_line(start: int, stop: int) -> bytes:
    """Return the line that says the bytes from `start` up to `stop` are on stable storage."""
    return checked_line(f"f {start} {stop}")


def moving_line() -> bytes:
    """Return the line that says an archive is whole and its members go to their places now."""
    return checked_line("m")


def published_line() -> bytes:
    """Return the line that says the file is at its destination."""
    return checked_line("p")


def parse_journal(data: bytes) -> Journal:
    """Return what `data` says up to its first line that is cut off or damaged."""
    journal = Journal()
    for raw in data.split(b"\n")[:-1]:
        text = text_of(raw)
        if text is None or not _apply(journal, text):
            break
        journal.size += len(raw) + 1
    return journal


def _apply(journal: Journal, text: str) -> bool:
    """Take one fact into `journal`; False if it makes no sense. Unknown kinds are ignored."""
    kind, _, rest = text.partition(" ")
    if journal.subject is None:
        journal.subject = _subject(text)
        return journal.subject is not None
    if kind in ("w", "f"):
        span = re.fullmatch(_SPAN, rest)
        if span is None:
            return False
        spans = journal.written if kind == "w" else journal.flushed
        spans.add(int(span[1]), int(span[2]))
    elif kind == "p":
        journal.published = True
    elif kind == "m":
        journal.moving = True
    return True


def _subject(text: str) -> Subject | None:
    if not text.startswith(f"{_MAGIC} "):
        return None
    import json

    try:
        value = json.loads(text[len(_MAGIC) :])
        key, boot = value.pop("key"), value.pop("boot")
        return Subject(key, Identity(**value), boot)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # another release wrote it
