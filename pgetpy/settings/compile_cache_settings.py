"""Settings of the commands below `pgetpy compile-cache`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgetpy.settings.sections import Section


@dataclass(frozen=True)
class CompileCacheSettings(Section):
    """Which compile cache a command is about.

    Attributes:
        location: a folder, `s3://BUCKET/PREFIX` or an http(s) URL; empty if none was given.
        name: the user's own part of the key.
        kinds: which compilers' folders; empty for the usual ones.
        secret: signs what is saved, and what is loaded must be signed with it.
        max_bytes: more than that is not saved.
    """

    location: str = ""
    name: str = ""
    kinds: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)
    max_bytes: int = 2 << 30
