"""What is asked for: one object and where it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pgetpy.core.http.answers import Identity
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.http.urls import Link
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.references.reference import Reference

if TYPE_CHECKING:
    from pathlib import Path

    from pgetpy.core.references.checksums import Checksum


class Follower(Protocol):
    """Is told about a file while it is fetched. Called from any thread; must return at once."""

    def began(self, fd: int, size: int) -> None:
        """A file of `size` bytes is being written to what `fd` is open on, until `lost`."""

    def landed(self, spans: Spans) -> None:
        """All bytes of `spans` have been written."""

    def whole(self, fd: int, size: int, real: str) -> None:
        """All `size` bytes of a file have been written to what `fd` is open on: `began` and
        `landed` at once. It is going to be `real`, a path without symbolic links where nothing
        was."""
        self.began(fd, size)
        self.landed(Spans([Span(0, size)]))

    def lost(self) -> None:
        """The object has changed or must be fetched again: discard what was received."""

    def verified(self, path: Path) -> None:
        """The file at `path` is complete and checked; an equal file may replace it from now on."""


@dataclass(frozen=True)
class Job:
    """One object to fetch.

    Attributes:
        url: an http or https URL, which may contain a user and password, or a reference to a
            service.
        dest: a path; `-` for standard output. An existing folder, or a path with a trailing slash,
            takes the file's name from the URL or the answer. None discards the bytes.
        checksum: the expected digest.
        mirrors: further URLs of the same bytes, tried in order if `url` fails.
        extract: the object is an archive; `dest` is the folder for its members.
        reference: `url` as a parsed reference, if that has been done already.
        link: the location of the bytes with its credentials, once the service has been asked.
        version: the service's name for the content, for one file of a folder that was listed.
        place: where the job was named, such as a line of a manifest, for errors.
        name: the service's name for the file, used if `dest` is a folder.
        admit: is called with version and size before any byte is kept, from any thread. If it
            raises, the transfer ends.
        follow: is told about the file while it is fetched, if its size is known.
        claimed: whether the caller keeps other runs away from `dest`. A file of moderate size then
            needs no lock and no journal.
    """

    url: str = field(repr=False)
    dest: str | None
    checksum: Checksum | None = None
    mirrors: tuple[str, ...] = field(default=(), repr=False)
    extract: bool = False
    reference: Reference | None = field(default=None, compare=False, repr=False)
    link: Link | None = field(default=None, compare=False, repr=False)
    name: str = ""
    version: str = ""
    place: str = field(default="", compare=False)
    admit: Callable[[Identity], object] | None = field(default=None, compare=False)
    follow: Follower | None = field(default=None, compare=False)
    claimed: bool = field(default=False, compare=False)
