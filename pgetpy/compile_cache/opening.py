"""Which kind of location a user's text names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.compile_cache.folder import FolderLocation
from pgetpy.compile_cache.locations import CacheLocation
from pgetpy.errors import BadSettingError

if TYPE_CHECKING:
    from pgetpy.settings import Settings


def open_location(
    location: str | os.PathLike[str], settings: Settings, *, signed: bool
) -> CacheLocation:
    """Return the location that a user named.

    Args:
        location: a folder, `s3://BUCKET/PREFIX` (or another object store), or an http(s) URL.
        settings: for what is asked over the network.
        signed: whether seals are signed, so that others may have access to a folder.

    Raises:
        BadSettingError: it names nothing that can be used.
    """
    text = os.fspath(location)
    if not text:
        raise BadSettingError("location", text, "is empty; name a folder, s3://... or https://...")
    scheme, found, _ = text.partition("://")
    if not found:
        return FolderLocation(Path(os.path.expanduser(text)).absolute(), trusted=signed)
    from pgetpy.compile_cache.remote import RemoteLocation

    if scheme.lower() not in ("http", "https", "s3", "b2", "gs"):
        raise BadSettingError("location", scheme, "is not a folder, s3://... or https://...")
    return RemoteLocation(text, settings)
