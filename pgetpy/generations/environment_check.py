"""Published environments: what it takes to use them, and whether they are what was built.

They are checked at a glance, by sizes and times, or byte by byte.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pgetpy.core.generations.environment_marks import MARK, EnvironmentMark, parse_mark
from pgetpy.core.generations.environment_records import differing_files
from pgetpy.core.generations.environment_requirements import short_version
from pgetpy.core.generations.environment_variables import EnvironmentFolders
from pgetpy.errors import BadEnvironmentError, IntegrityError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.environment_files import FINISHED_NS, files_below, hash_file, records_of
from pgetpy.system.filesystem import names_in, read_regular


def read_mark(folder: Path) -> EnvironmentMark:
    """Return the mark of a complete environment.

    Raises:
        FileNotFoundError: there is none.
        IntegrityError: it is damaged.
    """
    return parse_mark(read_regular(folder / MARK))


def digests_of(folder: Path, mark: EnvironmentMark) -> dict[str, str]:
    """Return the digests of all files of an environment but its mark.

    Raises:
        IntegrityError: a RECORD is missing or damaged.
    """
    records = records_of(folder)
    if records.keys() != mark.records.keys():
        raise IntegrityError(f"packages of {folder} are missing, or were added")
    lines = {each.path: each.digest for lines in records.values() for each in lines}
    return lines | dict(mark.records)


def glance_environment(folder: Path) -> dict[str, str]:
    """Return what is wrong with an environment by the names, sizes and times of its files.

    Args:
        folder: of the environment.

    Returns:
        A clause that begins with a verb, by the path of each file.
    """
    try:
        mark = read_mark(folder)
        records = records_of(folder)
    except (OSError, IntegrityError) as error:
        return {MARK: _unusable(error)}
    sizes: dict[str, set[int | None]] = {}
    for lines in records.values():
        for line in lines:
            sizes.setdefault(line.path, set()).add(line.size)
    for path in (*mark.records, MARK):
        sizes[path] = {None}
    found = {path: _difference(folder / path, known) for path, known in sizes.items()}
    return {path: reason for path, reason in found.items() if reason}


def _difference(path: Path, sizes: set[int | None]) -> str:
    try:
        status = os.lstat(path)
    except OSError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file any more"
    if None not in sizes and status.st_size not in sizes:
        return f"has {status.st_size} bytes instead of {max(filter(None, sizes), default=0)}"
    return "" if status.st_mtime_ns == FINISHED_NS else "was written to"


def check_environment(
    folder: Path, digest: str, hashed: dict[int, str] | None = None
) -> dict[str, str]:
    """Return what is wrong with an environment by the digests in its RECORDs.

    Args:
        folder: of the environment.
        digest: of its mark.
        hashed: digests by inode, which spare files with several names in one check; gets those of
            the files that are read.

    Returns:
        A clause that begins with a verb, by the path of each file.
    """
    hashed = {} if hashed is None else hashed
    try:
        mark = read_mark(folder)
        records = records_of(folder)
    except (OSError, IntegrityError) as error:
        return {MARK: _unusable(error)}
    actual = {}
    for path in files_below(folder):
        inode = os.lstat(folder / path).st_ino
        if inode not in hashed:
            with contextlib.suppress(OSError):
                hashed[inode] = hash_file(folder / path)
        actual[path] = hashed.get(inode, "")
    changed = differing_files(records, actual)
    vouched = {**mark.records, MARK: digest}
    changed += [path for path, known in vouched.items() if actual.get(path) != known]
    listed = {line.path for lines in records.values() for line in lines}
    found = {
        path: "was changed: it has another digest" if path in actual else "is missing"
        for path in changed
    }
    return found | {path: "was added" for path in actual if path not in listed and path != MARK}


def _unusable(error: OSError | IntegrityError) -> str:
    words = system_reason(error) if isinstance(error, OSError) else str(error)
    return f"cannot be used: {words}"


def environment_folders(above: Path, names: Iterable[str]) -> list[EnvironmentFolders]:
    """Return what it takes to use environments.

    Args:
        above: the folder of all environments of a generation.
        names: of those to use.

    Raises:
        BadEnvironmentError: there is none with such a name, or it is damaged.
    """
    there = names_in(str(above))
    found = []
    for name in names:
        # Looked up, because a name from a variable may be a path.
        if name not in there:
            reason = f"the generation has {', '.join(there) or 'no environments'}"
            raise BadEnvironmentError(name, f"it is not there: {reason}")
        try:
            mark = read_mark(above / name)
        except (OSError, IntegrityError) as error:
            raise BadEnvironmentError(name, str(error)) from None
        found.append(
            EnvironmentFolders(
                name,
                str(above / name),
                short_version(mark.python),
                mark.compiled,
                mark.scripts,
                mark.libraries,
            )
        )
    return found
