"""The record of a cache entry, as a value and as the lines of its file.

    pgetpy entry 1 {"key": …, "generation": …, "name": …, "size": …, …} CRC
    arrived STAMP CRC          what its content's times were when it was published
    digest sha256:HEX CRC      what its content hashes to
    flushed CRC                content and record are on stable storage
    damaged CRC                its content was found to be something else

The first line is there when the record appears; the others are appended, to the same inode, so that
what is learnt about one content never ends up in the record of another.
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
    UNFLUSHED = "unflushed"  # the machine went down before it was on the disk: verify it first
    DAMAGED = "damaged"


@dataclass(frozen=True)
class About:
    """What who fills an entry tells of it; the cache stores it and reads nothing into it.

    Attributes:
        reference: for people to read, without secrets.
        validator: the version of the object (an ETag, say).
        scope: whose credentials or signature it was fetched by, as a hash.
        details: whatever else belongs to it.
    """

    reference: str
    validator: str = ""
    scope: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What the cache knows of an entry.

    Attributes:
        key: 64 hex digits.
        generation: tells this content from what stood under the key before.
        name: how the last component of its path ends, behind the key and a point.
        folder: whether the content is a folder.
        boot: which boot of the machine wrote it.
        created: seconds since the epoch.
        digest: `sha256:HEX`; empty where it is still to be computed.
        arrived: shows whether the content was written since it was published, which a digest that
            is computed later depends on.
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
        """Return whether its content may be handed out in boot `boot` of the machine."""
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
    """Return what is appended when something has become known: a `digest`, or that all of it is
    `flushed` to stable storage, or `damaged`: found to be something else."""
    # A line of its own, in case the one before was cut off.
    return b"\n" + checked_line(f"{kind} {value}" if isinstance(value, str) else kind)


def parse_record(data: bytes) -> Record | None:
    """Return the record in a file's `data`; None where its first line is damaged or another's."""
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
