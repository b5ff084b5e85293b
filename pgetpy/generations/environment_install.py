"""Installs the packages of a lock with uv, and checks what uv made of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pgetpy.core.generations.environment_records import (
    RecordLine,
    differing_files,
    package_of,
)
from pgetpy.core.generations.environment_requirements import requirements_text, short_version
from pgetpy.core.generations.environment_scripts import portable_script
from pgetpy.core.generations.lock import LockedEnvironment
from pgetpy.errors import BadEnvironmentError, NotOneFileSystemError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.environment_files import (
    empty_folder,
    files_below,
    hash_file,
    records_of,
    replace_file,
)
from pgetpy.generations.environment_uv import Uv

_SCRIPTS = "bin/"
# uv locks the folder that it installs to.
_LEFT_BEHIND = ".lock"


def install_packages(
    uv: Uv, locked: LockedEnvironment, folder: Path, *, copy: bool
) -> tuple[dict[str, tuple[RecordLine, ...]], dict[str, str]]:
    """Install the packages of `locked` into an empty folder.

    uv takes a wheel from its cache without another look at its bytes. One that differs from its
    RECORD there is installed anew. If it differs again, then the wheel is so: its hash is in the
    lock, and the bytes count.

    Args:
        uv: the program.
        locked: what to install.
        folder: where.
        copy: whether uv may copy files that it cannot link.

    Returns:
        The RECORDs, and the digests of all other files.

    Raises:
        BadEnvironmentError: a package cannot be part of an environment.
        UvError: uv cannot install it.
        NotOneFileSystemError: uv's cache and `folder` cannot share files.
    """
    records, actual = _install(uv, locked, folder, copy=copy)
    changed = differing_files(records, actual)
    if changed:
        uv.forget(*sorted({package_of(path, records) for path in changed}))
        empty_folder(folder)
        records, actual = _install(uv, locked, folder, copy=copy)
    _make_portable(folder, actual, locked.python)
    return records, actual


def _install(
    uv: Uv, locked: LockedEnvironment, folder: Path, *, copy: bool
) -> tuple[dict[str, tuple[RecordLine, ...]], dict[str, str]]:
    uv.install(requirements_text(locked), locked.python, folder)
    (folder / _LEFT_BEHIND).unlink(missing_ok=True)
    records = records_of(folder)
    paths = [path for path in files_below(folder) if path not in records]
    for path in paths:
        if (folder / path).is_symlink():
            raise BadEnvironmentError(locked.name, f"{path} is a symbolic link")
    if not copy and _copied(folder, paths):
        assert uv.cache is not None
        _check_links(uv.cache, folder)
    return records, {path: hash_file(folder / path) for path in paths}


def _copied(folder: Path, paths: Iterable[str]) -> list[str]:
    """Return the files that should be links into uv's cache and are not."""
    return [
        path
        for path in paths
        if not path.startswith(_SCRIPTS)
        and ".dist-info/" not in path  # uv writes some of these itself
        and os.lstat(folder / path).st_nlink == 1
    ]


def _check_links(cache: Path, folder: Path) -> None:
    """Find out why uv, which says nothing, made copies instead of links.

    Raises:
        NotOneFileSystemError: no file of its cache can be linked. It is not raised if one had as
            many links as it may have: that is taken care of.
    """
    with tempfile.NamedTemporaryFile(dir=cache) as file:
        name = folder / f"{os.path.basename(file.name)}.pgetpy-link"
        try:
            os.link(file.name, name)
        except OSError as error:
            reason = f"uv makes copies: {system_reason(error)}"
            raise NotOneFileSystemError(
                str(cache), str(folder), reason, code=error.errno or 0
            ) from None
        name.unlink()


def _make_portable(folder: Path, actual: dict[str, str], python: str) -> None:
    """Have scripts look for their Python in PATH; `actual` gets their new digests."""
    version = short_version(python)
    for path in [each for each in actual if each.startswith(_SCRIPTS)]:
        before = (folder / path).read_bytes()
        after = portable_script(before, version)
        if after != before:
            replace_file(folder / path, after)
            actual[path] = hash_file(folder / path)


def sizes_of(folder: Path, actual: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Return digest and size of each file."""
    return {path: (digest, (folder / path).stat().st_size) for path, digest in actual.items()}
