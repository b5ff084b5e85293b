"""Where a user's own files go when nothing says otherwise. Who has no home is given a folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pgetpy.errors import BadSettingError, CacheError
from pgetpy.errors.reasons import system_reason


def home() -> Path | None:
    """Return the user's home folder; None for a uid without a name where HOME is not set.

    Containers say that such a uid lives in /, which belongs to root.
    """
    found = os.path.expanduser("~")
    if found == "~" or (found == "/" and os.geteuid() != 0):
        return None
    return Path(found)


def default_cache_folder() -> Path:
    """Return where the cache of weights is unless an option says otherwise."""
    found = home()
    return temporary_folder() / "cache" if found is None else found / ".cache" / "pgetpy"


def default_hub_cache_base() -> Path:
    """Return what holds huggingface_hub's cache unless a variable says otherwise.

    Raises:
        CacheError: there is no home, and the folder in its place may be another user's.
    """
    found = home()
    if found is not None:
        return found / ".cache"
    claim(temporary_folder())
    return temporary_folder()


def state_folder(environ: Mapping[str, str]) -> Path | None:
    """Return where to keep what is of use to a later run (XDG_STATE_HOME); None without a home."""
    base, found = environ.get("XDG_STATE_HOME", ""), home()
    if os.path.isabs(base):
        return Path(base) / "pgetpy"
    return found / ".local" / "state" / "pgetpy" if found is not None else None


def expand_user(path: str, name: str) -> Path:
    """Return `path` with its ~ written out.

    Raises:
        BadSettingError: there is no such user, or no home; `name` says what gave the path.
    """
    found = os.path.expanduser(path)
    if found.startswith("~") and not os.path.lexists(found):
        raise BadSettingError(name, path, "there is no home folder that ~ stands for")
    return Path(found)


def temporary_folder() -> Path:
    """Return what stands in for the home of this uid."""
    # Takes some time, and few have no home.
    import tempfile

    return Path(tempfile.gettempdir()) / f"pgetpy-{os.geteuid()}"


def claim(folder: Path) -> None:
    """Make the folder that stands in for a home if `folder` is it or below it, and check it.

    Raises:
        CacheError: others may write to it.
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
        reason = "cannot be used: others own it or may look into it"
        raise CacheError(str(base), reason, hint="set HOME, or choose a folder")
    _tell(base)


@lru_cache(maxsize=4)
def _tell(folder: Path) -> None:
    # Once a process.
    import logging

    logging.getLogger(__name__).warning("this user has no home folder: the cache is in %s", folder)
