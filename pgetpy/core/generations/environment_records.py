"""RECORD files of installed packages: what was installed, and which files may be shared.

The format is that of the core metadata: `PATH,sha256=BASE64,SIZE`, a CSV line for each file
(packaging.python.org, "Recording installed projects"). Byte code is listed with its digest too, so
that the RECORDs of an environment cover all its files but themselves.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pgetpy.errors import IntegrityError

# No file name is longer, and a RECORD is read from folders that other programs have written.
_LONGEST_PATH = 4096
_SHA256 = "sha256="
_COMPILED = "__pycache__"


class RecordLine(NamedTuple):
    """A file of an installed package.

    Attributes:
        path: below the folder that the package was installed to.
        digest: `sha256=BASE64`, without padding; empty if the wheel has none.
        size: in bytes; None if the wheel does not say.
    """

    path: str
    digest: str
    size: int | None


class SharingKey(NamedTuple):
    """What two files must have in common to be one: links share the permissions too."""

    digest: str
    executable: bool


@dataclass(frozen=True)
class InstalledFile:
    """A file of an environment as it is on the disk.

    Attributes:
        path: where.
        key: what it must have in common with a file that takes its place.
        size: in bytes.
        inode: of the file, to tell whether two paths are one file already.
    """

    path: str
    key: SharingKey
    size: int
    inode: int


class Replacement(NamedTuple):
    """A file that becomes a link to another one with the same content."""

    file: InstalledFile
    target: InstalledFile


def record_digest(sha256: bytes) -> str:
    """Return a sha256 the way that RECORD writes it."""
    return f"{_SHA256}{base64.urlsafe_b64encode(sha256).rstrip(b'=').decode()}"


def parse_record(text: str, name: str) -> tuple[RecordLine, ...]:
    """Return the lines of a RECORD.

    Args:
        text: of the file.
        name: what errors call it.

    Raises:
        IntegrityError: it is damaged, or names a file outside its folder.
    """
    try:
        return tuple(_lines(text, name))
    except (csv.Error, ValueError):
        raise IntegrityError(f"{name} is damaged") from None


def _lines(text: str, name: str) -> Iterator[RecordLine]:
    for row in csv.reader(io.StringIO(text, newline="")):
        if not row:
            continue
        path, digest, size = row
        if not is_inside(path):
            raise IntegrityError(f"{name} names a file outside its folder: {path[:100]!r}")
        yield RecordLine(path, digest, int(size) if size else None)


def is_inside(path: str) -> bool:
    """Whether `path` is a plain path that stays below a folder."""
    parts = path.split("/")
    plain = not path.startswith("/") and "\0" not in path and len(path) <= _LONGEST_PATH
    return plain and not any(part in ("", ".", "..") for part in parts)


def format_record(lines: Iterable[RecordLine]) -> str:
    """Return the text of a RECORD, in the order of the paths."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for line in sorted(lines):
        writer.writerow((line.path, line.digest, "" if line.size is None else line.size))
    return text.getvalue()


def listed_digests(records: Mapping[str, Iterable[RecordLine]]) -> dict[str, set[str]]:
    """Return the digests of each listed file. Packages that share a path may give several."""
    found: dict[str, set[str]] = {}
    for lines in records.values():
        for line in lines:
            found.setdefault(line.path, set()).add(line.digest)
    return found


def differing_files(
    records: Mapping[str, Iterable[RecordLine]], actual: Mapping[str, str]
) -> list[str]:
    """Return the files that are missing, or are not what any RECORD says.

    Args:
        records: the lines of all RECORDs, by their paths.
        actual: the digests of the files that are there; RECORDs may be left out.
    """
    return [
        path
        for path, digests in listed_digests(records).items()
        if path not in records and not _is_one_of(actual.get(path), digests)
    ]


def _is_one_of(digest: str | None, listed: set[str]) -> bool:
    # A wheel may leave a digest out, or have one of another kind.
    comparable = all(each.startswith(_SHA256) for each in listed)
    return digest is not None and (digest in listed or not comparable)


def package_of(path: str, records: Mapping[str, Iterable[RecordLine]]) -> str:
    """Return the name of the package that lists a file."""
    found = (name for name, lines in records.items() if any(each.path == path for each in lines))
    return next(found, "").partition("/")[0].partition("-")[0]


def corrected_records(
    records: Mapping[str, Iterable[RecordLine]], files: Mapping[str, tuple[str, int]]
) -> dict[str, tuple[RecordLine, ...]]:
    """Return RECORDs that list every file of an environment with its digest.

    Args:
        records: as they were installed.
        files: digest and size of each file that is there, byte code included.
    """
    owners: dict[str, str] = {}
    for name, lines in records.items():
        for line in lines:
            owners.setdefault(line.path, name)
    first = min(records, default="")
    found: dict[str, list[RecordLine]] = {name: [RecordLine(name, "", None)] for name in records}
    for path, (digest, size) in files.items():
        owner = owners.get(path) or owners.get(source_path(path)) or first
        found[owner].append(RecordLine(path, digest, size))
    return {name: tuple(sorted(lines)) for name, lines in found.items()}


def compiled_path(source: str, tag: str) -> str:
    """Return where the byte code of a source is, for the Python that `tag` is of (PEP 3147)."""
    folder, _, name = source.rpartition("/")
    return f"{folder}/{_COMPILED}/".lstrip("/") + f"{name.removesuffix('.py')}.{tag}.pyc"


def source_path(compiled: str) -> str:
    """Return the path of the source whose byte code is at `compiled`; empty for other files."""
    folder, _, name = compiled.rpartition("/")
    above, _, last = folder.rpartition("/")
    if last != _COMPILED or not name.endswith(".pyc"):
        return ""
    stem = name.removesuffix(".pyc").rpartition(".")[0]
    return f"{above}/{stem}.py".lstrip("/")


def plan_sharing(
    files: Iterable[InstalledFile], known: dict[SharingKey, InstalledFile]
) -> tuple[Replacement, ...]:
    """Return which of `files` become links to what is known; the others become known.

    Empty files take no room, and so many packages have one that they would exhaust the links that
    a file may have.
    """
    plan = []
    for file in files:
        if not file.size:
            continue
        target = known.setdefault(file.key, file)
        if target.inode != file.inode:
            plan.append(Replacement(file, target))
    return tuple(plan)
