"""What a caller names, and what of it is to be kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from pgetpy.core.cachekeys import cache_key
from pgetpy.errors import BadSettingError
from pgetpy.redact import redact

# Names of archives that hold files; a compressed single file has its own name before the suffix.
_ARCHIVES = (".tar", ".zip", ".tgz", ".tbz2", ".txz", ".tzst", ".tlz4", ".tlz",
             ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".tar.lzma")  # fmt: skip


class Wanted(Enum):
    """What is wanted of an object."""

    FILE = "file"  # the object itself
    WEIGHTS = "weights"  # of an archive the one .safetensors that it holds
    FOLDER = "folder"  # of an archive all members


@dataclass(frozen=True)
class Reference:
    """One object, or what is wanted of it.

    Attributes:
        url: where it is; an http, https or file URL.
        key: 64 hex digits, by which the cache knows it.
        scope: whose it is, as a hash of the signature or password in the URL; empty for anybody's.
        wanted: what of it is kept.
    """

    url: str
    key: str
    scope: str
    wanted: Wanted

    @property
    def local(self) -> bool:
        """Whether it is a file of this machine."""
        return self.url[:5].lower() == "file:"

    def __str__(self) -> str:
        return redact(self.url)


def parse_reference(url: str, wanted: str = "auto") -> Reference:
    """Return what `url` refers to.

    Args:
        wanted: `file`, `weights`, `folder`, or `auto`: `weights` where the URL's path is called
            like an archive, else `file`.

    Raises:
        BadReferenceError: `url` is no URL that can be fetched.
        BadSettingError: `wanted` is none of these.
    """
    found = cache_key(url)
    if wanted == "auto":
        archive = urlsplit(url).path.lower().endswith(_ARCHIVES)
        chosen = Wanted.WEIGHTS if archive else Wanted.FILE
    else:
        try:
            chosen = Wanted(wanted)
        except ValueError:
            allowed = ", ".join(["auto", *(each.value for each in Wanted)])
            raise BadSettingError("wanted", wanted, f"is not one of {allowed}") from None
    key = found.key
    if chosen is not Wanted.FILE:
        key = hashlib.sha256(f"{found.key}+{chosen.value}".encode()).hexdigest()
    return Reference(url, key, found.signature, chosen)
