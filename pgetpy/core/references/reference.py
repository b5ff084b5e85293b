"""What a caller names, and what of it is to be kept."""

from __future__ import annotations

import hashlib
from enum import Enum

from pgetpy.core.archives.formats import ARCHIVE_SUFFIXES
from pgetpy.core.http.urls import Link
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.references.patterns import EVERYTHING, Patterns
from pgetpy.errors import BadReferenceError, BadSettingError


class Wanted(Enum):
    """What is wanted of an object."""

    FILE = "file"  # the object itself
    WEIGHTS = "weights"  # of an archive or a repository the one .safetensors that it holds
    FOLDER = "folder"  # all members


@dataclass(frozen=True)
class Reference:
    """One object of a source, or what is wanted of it.

    Attributes:
        source: the name of the source that knows where it is.
        text: the object as that source spells it; it may bear a signature or a password.
        name: what the object is called, as far as the reference tells.
        shown: `text` without secrets: what is printed and recorded. A source recognises it.
        key: 64 hex digits, by which the cache knows it.
        scope: whose it is, as a hash of the secrets that open it; empty if it is public.
        wanted: what of it is kept.
        token: opens it at its source; None where there is none.
        local: whether it is on this machine, so that no network is asked.
        several: whether it is several files, of which patterns may choose.
        patterns: those that choose.
        by_content: whether the key is that of its bytes, which cannot become others.
        service: URL of the operator's endpoint that is asked for it; empty where the reference
            itself says who is asked.
        link: where the bytes are, if the reference itself says so.
    """

    source: str
    text: str = field(repr=False)
    shown: str
    name: str
    key: str
    scope: str = ""
    wanted: Wanted = Wanted.FILE
    token: str | None = field(default=None, repr=False)
    local: bool = False
    several: bool = False
    patterns: Patterns = EVERYTHING
    by_content: bool = False
    service: str = ""
    link: Link | None = field(default=None, repr=False)

    @property
    def is_folder(self) -> bool:
        """Whether all of several files are wanted."""
        return self.several and self.wanted is Wanted.FOLDER

    def __str__(self) -> str:
        return self.shown


def wanted_of(name: str, wanted: str) -> Wanted:
    """Return what is wanted of an object called `name`.

    Args:
        wanted: `file`, `weights`, `folder`, or `auto`: `weights` where it is called like an
            archive, else `file`.

    Raises:
        BadSettingError: `wanted` is none of these.
    """
    if wanted == "auto":
        return Wanted.WEIGHTS if is_archive_name(name) else Wanted.FILE
    try:
        return Wanted(wanted)
    except ValueError:
        allowed = ", ".join(["auto", *(each.value for each in Wanted)])
        raise BadSettingError("wanted", wanted, f"is not one of {allowed}") from None


def is_archive_name(name: str) -> bool:
    """Whether `name`, of a file or the path of a URL, is that of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def choosing(reference: Reference, patterns: Patterns) -> Reference:
    """Return those files of `reference` that `patterns` choose.

    Raises:
        BadReferenceError: it is one file, or has patterns already.
    """
    if not patterns:
        return reference
    if not reference.several:
        reason = "patterns select files of a repository, and it is not one"
        raise BadReferenceError(reference.shown, reason)
    if reference.patterns:
        raise BadReferenceError(reference.shown, "it contains patterns of its own")
    shown = f"{reference.shown}?{patterns.query}"
    key = hashlib.sha256(f"{reference.key}+{patterns.query}".encode()).hexdigest()
    return replace(reference, shown=shown, key=key, patterns=patterns)


def key_for(named: str, wanted: Wanted) -> str:
    """Return the key of what is wanted of the object that hashes to, or is called, `named`."""
    text = named if wanted is Wanted.FILE else f"{named}+{wanted.value}"
    return hashlib.sha256(text.encode()).hexdigest()


def scope_for(*secrets: str | None) -> str:
    """Return whose an object is that `secrets` open; empty where there are none."""
    given = [secret for secret in secrets if secret]
    if not given:
        return ""
    return hashlib.sha256("\0".join(["scope", *given]).encode()).hexdigest()
