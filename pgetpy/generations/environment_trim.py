"""What uv's cache keeps: the wheels of environments that are there.

uv keeps every wheel that it ever installed, unpacked. Its files are links to those of environments,
so what an environment leaves when it is pruned would stay on the disk under uv's name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from pgetpy.errors import MissingPackageError
from pgetpy.generations.environment_files import hash_file, unpacked_wheels
from pgetpy.generations.environment_uv import Uv, UvError
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("generations")


def trim_uv_cache(cache: Path, environments: Iterable[Path]) -> None:
    """Have uv forget the packages of which it keeps a wheel that no environment has.

    It forgets all wheels of such a package, and downloads again what it is asked for. Nothing is
    done while uv is at work, or where it is not installed.

    Args:
        cache: the folder of uv's cache.
        environments: the folders of all environments, unfinished ones included.
    """
    if _is_busy(cache):
        return
    used = {wheel for folder in environments for wheel in _wheels(folder)}
    kept = {wheel for folder in unpacked_wheels(cache) for wheel in _wheels(folder)}
    names = sorted({name.partition("-")[0] for name, _ in kept - used})
    if names:
        try:
            Uv(cache).forget(*names)
        except (MissingPackageError, UvError) as error:
            _LOG.warning("uv keeps packages that no environment has: %s", error)


def _is_busy(cache: Path) -> bool:
    try:
        fd = os.open(cache / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # of a uv that does not lock it
    with closing_fd(fd):
        return not try_lock(fd)


def _wheels(folder: Path) -> set[tuple[str, str]]:
    """Return the name and version of each package in a folder, and what tells its builds apart."""
    found = set()
    for path in folder.glob("*.dist-info/WHEEL"):
        with contextlib.suppress(OSError):
            found.add((path.parent.name, hash_file(path)))
    return found
