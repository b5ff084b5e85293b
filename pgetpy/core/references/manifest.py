"""The manifest: which objects go where, one a line. Only its text is looked at, never a disk.

    URL DEST [ALGORITHM:HEX] [-x]    # and what follows a field that begins with a number sign

`-x` says that the object is an archive, whose members go to the folder DEST.

Fields are separated by any white space. A field with blanks is quoted as a whole, with double
quotes (in which `\\"` and `\\\\` are escapes) or single ones. A quote within a field is a character
like any other.

A manifest is read completely before anything is fetched. A line that repeats an earlier one does
no harm, and is skipped with a warning. One destination with two URLs or two checksums is an error:
one of the two files would silently be lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pgetpy.core.destinations.names import check_url
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.reference import Reference
from pgetpy.errors import BadManifestError, UsageError
from pgetpy.errors.redact import redact

_FIELD = re.compile(
    r"""\s*(?:"(?P<double>(?:[^"\\]|\\.)*)"(?=\s|$)|'(?P<single>[^']*)'(?=\s|$)|(?P<bare>\S+))"""
)
_EXTRACT = "-x"
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(frozen=True)
class Manifest:
    """Attributes:
    jobs: in the order of the file.
    warnings: sentences about lines that were passed over.
    """

    jobs: tuple[Job, ...]
    warnings: tuple[str, ...]


def _ends_with_slash(dest: str) -> bool:
    return dest.endswith("/")


def parse_manifest(
    text: str,
    path: str,
    *,
    to_null: bool = False,
    extract: bool = False,
    is_folder: Callable[[str], bool] = _ends_with_slash,
    read: Callable[[str], Reference | None] = check_url,
) -> Manifest:
    """Return the jobs of a manifest.

    Args:
        text: of the manifest.
        path: what errors call it.
        to_null: throw the bytes away; DEST may be left out.
        extract: take every line for that of an archive.
        is_folder: says of a DEST whether it is a folder. A folder may be the DEST of several URLs,
            since each brings its own name.
        read: returns what a URL refers to, and raises BadReferenceError for what is not one.

    Raises:
        BadManifestError: a line is malformed, or one DEST has two URLs or two checksums.
    """
    reading = _Reading(path, is_folder, read, to_null, extract)
    # Not splitlines(), which takes characters for line ends that a path may hold.
    for line, content in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        reading.take(line, content)
    return Manifest(tuple(reading.jobs), tuple(reading.warnings))


@dataclass
class _Reading:
    """A manifest half read."""

    path: str
    is_folder: Callable[[str], bool]
    read: Callable[[str], Reference | None]
    to_null: bool
    extract: bool
    jobs: list[Job] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    # The first job for each destination, and those where there are several.
    first: dict[str, Job] = field(default_factory=dict)
    several: dict[tuple[str, str], Job] = field(default_factory=dict)

    def take(self, line: int, content: str) -> None:
        try:
            fields = split_fields(content)
            job = self._job(fields, f" ({self.path}:{line})") if fields else None
            if job is not None and not self._is_repeated(job, line):
                self.jobs.append(job)
        except UsageError as error:
            raise BadManifestError(self.path, line, str(error)) from None

    def _job(self, fields: list[str], place: str) -> Job:
        extract = self.extract or (fields[-1] == _EXTRACT and not self.to_null)
        if fields[-1] == _EXTRACT:
            fields = fields[:-1]
        least = 1 if self.to_null else 2
        if not least <= len(fields) <= 3:
            expected = "URL [DEST] [DIGEST]" if self.to_null else "URL DEST [DIGEST] [-x]"
            raise UsageError(f"expected {expected}, got {len(fields)} (quote a path with blanks)")
        url = fields[0]
        reference = self.read(url)
        checksum = Checksum.parse(fields[2], name="digest") if len(fields) == 3 else None
        if self.to_null:
            return Job(url, None, checksum, reference=reference, place=place)
        _check_dest(fields[1])
        return Job(url, fields[1], checksum, extract=extract, reference=reference, place=place)

    def _name_in(self, job: Job) -> str:
        """Return what tells `job` from others of its destination: in a folder, the URL."""
        return job.url if not job.extract and self.is_folder(job.dest or "") else ""

    def _is_repeated(self, job: Job, line: int) -> bool:
        if job.dest is None:
            return False
        # Two spellings of one path are one destination.
        spelling = _one_spelling(job.dest)
        first = self.first.setdefault(spelling, job)
        if first is job:
            return False
        self.several.setdefault((spelling, self._name_in(first)), first)
        earlier = self.several.setdefault((spelling, self._name_in(job)), job)
        if earlier is job:
            return False
        if earlier.url != job.url:
            raise UsageError(
                f"duplicate destination {job.dest} with different urls: "
                f"{redact(earlier.url)} and {redact(job.url)}"
            )
        if earlier.checksum != job.checksum:
            raise UsageError(f"duplicate destination {job.dest} with different checksums")
        self.warnings.append(
            f"{self.path}:{line}: {redact(job.url)} to {job.dest} is there already; skipped"
        )
        return True


def _one_spelling(path: str) -> str:
    """Return `path` as pathlib spells it, which takes longer than a line's other parts."""
    usual = not path.endswith("/") and "//" not in path and "./" not in path and path[-2:] != "/."
    return path if usual else str(PurePosixPath(path))


def split_fields(content: str) -> list[str]:
    fields: list[str] = []
    for match in _FIELD.finditer(content.rstrip()):
        bare = match["bare"]
        if bare is not None and bare.startswith("#"):
            break
        if bare is not None and bare[0] in "\"'":
            raise UsageError("a quotation is not closed, or something follows it without a blank")
        if match["double"] is not None:
            fields.append(_ESCAPED.sub(r"\1", match["double"]))
        else:
            fields.append(bare if bare is not None else match["single"])
    return fields


def _check_dest(dest: str) -> None:
    if not dest or "\0" in dest:
        raise UsageError("the destination is empty or holds a null character")
    if dest == "-":
        raise UsageError("several files cannot go to standard output")
