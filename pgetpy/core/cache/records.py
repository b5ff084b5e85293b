"""The record of a cache entry, as a value and as the lines of its file.

    pgetpy entry 1 {"key": …, "generation": …, "name": …, "size": …, …} CRC
    arrived STAMP CRC          the file times of its content when it was published
    digest sha256:HEX CRC      the digest of its content
    flushed CRC                content and record are on stable storage
    damaged CRC                the content was found to be damaged

The first line is written when the record appears. The others are appended later, to the same inode,
so that a fact about one content never ends up in the record of its replacement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum

from pgetpy.core.destinations.checked_lines import checked_line, text_of

_MAGIC = "pgetpy entry 1"
_FACTS = ("arrived", "digest", "flushed", "damaged")
_VALUED = ("arrived", "digest")


class State(Enum):
    """Whether an entry's content may be handed out."""

    SOUND = "sound"
    UNFLUSHED = "unflushed"  # the machine went down before it was flushed: verify it first
    DAMAGED = "damaged"


@dataclass(frozen=True)
class About:
    """What the fetching code notes about an entry; the cache stores it without interpreting it.

    Attributes:
        reference: for people to read, without secrets.
        validator: the version of the object, such as an ETag.
        scope: a hash of the credentials or signature that it was fetched with.
        details: anything else.
    """

    reference: str
    validator: str = ""
    scope: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What the cache knows about an entry.

    Attributes:
        key: 64 hex digits.
        generation: tells this content from earlier ones under the key.
        name: the end of its file name, after key and generation.
        size: bytes of the content.
        folder: whether the content is a folder.
        boot: the boot of the machine in which it was written.
        created: seconds since the epoch.
        about: where it came from.
        digest: `sha256:HEX`; empty if not computed yet.
        flushed: whether it is on stable storage.
        damaged: whether the content was found to be damaged.
        arrived: a hash of the content's file times at publication. A digest is computed later only
            if they are unchanged.
    """

    key: str
    generation: str
    name: str
    size: int
    folder: bool
    boot: str
    created: float
    about: About
    digest: str = ""
    flushed: bool = False
    damaged: bool = False
    arrived: str = ""

    def state(self, boot: str) -> State:
        """Return whether the content may be used, in the boot `boot` of the machine."""
        if self.damaged:
            return State.DAMAGED
        survived = self.flushed or (boot != "" and self.boot == boot)
        return State.SOUND if survived else State.UNFLUSHED


def record_lines(record: Record) -> bytes:
    """Return the file of a new record."""
    value = asdict(record)
    known = {kind: value.pop(kind) for kind in _FACTS}
    first = checked_line(f"{_MAGIC} {json.dumps(value, sort_keys=True)}")
    facts = (fact(kind, found) for kind, found in known.items() if found)
    return first + b"".join(facts)


def fact(kind: str, value: str | bool = True) -> bytes:
    """Return the line to append when something becomes known: `digest`, `flushed` or `damaged`."""
    # A leading newline, in case the line before was cut off.
    return b"\n" + checked_line(f"{kind} {value}" if isinstance(value, str) else kind)


def parse_record(data: bytes) -> Record | None:
    """Return the record in `data`; None if its first line is damaged or not a record's."""
    first, *rest = data.split(b"\n")
    text = text_of(first)
    if text is None or not text.startswith(_MAGIC):
        return None
    facts: dict[str, object] = {}
    for raw in rest:
        kind, _, value = (text_of(raw) or "").partition(" ")
        if kind in _VALUED:
            facts[kind] = value
        elif kind in _FACTS:
            facts[kind] = True
    try:
        fields = json.loads(text[len(_MAGIC) :])
        return Record(**{**fields, "about": About(**fields["about"]), **facts})
    except (KeyError, TypeError, ValueError):
        return None
