"""What is asked for: one object and where it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pgetpy.core.http.answers import Identity
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.urls import Link
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.reference import Reference


class Follower(Protocol):
    """Looks at a file while it is fetched. Called from any thread; returns at once."""

    def began(self, fd: int, size: int) -> None:
        """The bytes of a file of `size` bytes are going to what `fd` is open on, until `lost`."""

    def landed(self, spans: Spans) -> None:
        """All of `spans` is there."""

    def lost(self) -> None:
        """It is another object, or has to come again: what has come counts no more."""


@dataclass(frozen=True)
class Job:
    """One object to fetch.

    Attributes:
        url: an http or https URL, user and password allowed.
        dest: a path; `-` for standard output; an existing folder or a path with a trailing slash
            takes the name from the URL or the answer; None throws the bytes away.
        checksum: what the bytes must hash to.
        mirrors: URLs of the same bytes elsewhere, tried in order when `url` fails.
        extract: the object is an archive; `dest` is the folder that its members go to.
        reference: what `url` was read as, where that has been done already.
        link: where the bytes are, and what opens them; None as long as nobody has said so.
        place: where it was named, as errors put it in brackets; empty where no manifest did.
        name: what a service calls the file, for a `dest` that is a folder.
        admit: is told which version comes, and its size, before a byte of it is kept; from any
            thread. What it raises ends the transfer.
        follow: is shown the file while it is fetched, where it is one with a known size.
    """

    url: str = field(repr=False)
    dest: str | None
    checksum: Checksum | None = None
    mirrors: tuple[str, ...] = field(default=(), repr=False)
    extract: bool = False
    reference: Reference | None = field(default=None, compare=False, repr=False)
    link: Link | None = field(default=None, compare=False, repr=False)
    name: str = ""
    place: str = field(default="", compare=False)
    admit: Callable[[Identity], object] | None = field(default=None, compare=False)
    follow: Follower | None = field(default=None, compare=False)
