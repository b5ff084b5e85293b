"""What is asked for: one object and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from pgetpy.core.digests import Checksum


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
    """

    url: str
    dest: str | None
    checksum: Checksum | None = None
    mirrors: tuple[str, ...] = ()
    extract: bool = False
