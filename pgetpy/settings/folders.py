"""Where a user's files go by default, and where they go for a user without a home folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pgetpy.errors import BadSettingError, CacheError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("settings")
# The folder inside a user's folders for caches and for state.
_OWN = "pgetpy"


def home() -> Path | None:
    """Return the user's home folder; None for a uid without a name when HOME is not set.

    Containers often report / as the home of such a uid, which belongs to root.
    """
    found = os.path.expanduser("~")
    if found == "~" or (found == "/" and os.geteuid() != 0):
        return None
    return Path(found)


def default_cache_folder() -> Path:
    """Return the default folder of the weights cache, where XDG_CACHE_HOME is not set."""
    found = home()
    return temporary_folder() / "cache" if found is None else found / ".cache" / _OWN


def read_cache_home(text: str, name: str) -> Path:
    """Return the default folder of the weights cache where XDG_CACHE_HOME is `text`."""
    return Path(text) / _OWN


def default_hub_cache_base() -> Path:
    """Return the default folder that contains huggingface_hub's cache.

    Raises:
        CacheError: there is no home folder, and its replacement may belong to another user.
    """
    found = home()
    if found is not None:
        return found / ".cache"
    claim(temporary_folder())
    return temporary_folder()


def state_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the folder for data of use to later runs (XDG_STATE_HOME); None without a home."""
    base, found = environ.get("XDG_STATE_HOME", ""), home()
    if os.path.isabs(base):
        return Path(base) / _OWN
    return found / ".local" / "state" / _OWN if found is not None else None


def expand_user(path: str, name: str) -> Path:
    """Return `path` with ~ expanded.

    Args:
        name: the option that gave the path, for errors.

    Raises:
        BadSettingError: the user or the home folder does not exist.
    """
    found = os.path.expanduser(path)
    if found.startswith("~") and not os.path.lexists(found):
        raise BadSettingError(name, path, "there is no home folder to replace ~ with")
    return Path(found)


def temporary_folder() -> Path:
    """Return the replacement for a home folder of this uid."""
    # Imported here: it is slow, and few users lack a home.
    import tempfile

    return Path(tempfile.gettempdir()) / f"pgetpy-{os.geteuid()}"


def claim(folder: Path) -> None:
    """Create and check the home replacement, if `folder` is in it.

    Anyone can create files in the shared temporary folder, so the replacement must belong to this
    user and be closed to others.

    Raises:
        CacheError: others could write to it.
    """
    if home() is not None or temporary_folder() not in (folder, *folder.parents):
        return
    base = temporary_folder()
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(base, 0o700)
        status = os.lstat(base)
    except OSError as error:
        reason = f"cannot be made: {system_reason(error)}"
        raise CacheError(
            str(base), reason, hint="set HOME, or choose a folder", code=error.errno or 0
        ) from None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & 0o077:
        reason = "cannot be used: other users own it or can read it"
        raise CacheError(str(base), reason, hint="set HOME, or choose a folder")
    _tell(base)


@lru_cache(maxsize=4)
def _tell(folder: Path) -> None:
    # Cached, so that it warns once a process.
    _LOG.warning("this user has no home folder: the cache is in %s", folder)
