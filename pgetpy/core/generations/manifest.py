"""The manifest of a generation, and its lock: a manifest that leaves nothing open.

    generation 7 [sha256:HEX]
    REF DEST [sha256:HEX] [-x]                          a file, a repository, or an archive (-x)
    env NAME PYTHON REQUIREMENT [sha256:HEX...] ...     a Python environment

Fields are separated and quoted as in the manifest of `pgetpy multifile`. DEST is a path inside the
generation; it is a folder for an archive or a repository. Several `env` lines of one NAME add up,
and hashes belong to the requirement before them.

A lock has the sha256 of every file and hashes for every requirement. It needs no format of its own:
a manifest that has all of these is a lock. The identity of a generation is the digest of its lock,
computed from the canonical text, so that comments, blank lines and the order of lines do not count.
A lock that gives it in its first line has to have it, which shows that no line is missing.

Locks are checked in and copied to every node, so a URL with a secret is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pgetpy.core.generations.lock import (
    EXTRACT,
    EnvironmentLine,
    FileLine,
    GenerationLock,
    LockedEnvironment,
    LockedRequirement,
)
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.local_urls import is_data
from pgetpy.core.references.manifest import split_fields
from pgetpy.errors import BadManifestError, UsageError
from pgetpy.errors.redact import redact, redact_text

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# PEP 508: a name, then perhaps extras, versions, a URL or a marker.
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*([\[(<>=!~;@][^\x00-\x1f\x7f-\x9f]*)?")
_PYTHON = re.compile(r"[0-9]+\.[0-9]+(?:\.[0-9]+)?")
# C0 and C1 controls, the line ends of Unicode, and what reverses text: they steer terminals, break
# listings, and make a name look like another.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SHA256 = "sha256:"
# Linux takes paths of 4096 bytes, and the folder of generations has a path as well. A folder is
# removed by a function that calls itself for each folder in it.
_LONGEST_COMPONENT, _LONGEST_DEST, _DEEPEST = 255, 2000, 256
# How much of a long text an error shows.
_SHOWN = 100
_NOT_AS_WRITTEN = (
    "it does not have the lines that it was written with, as its first line shows: it was cut, or "
    "changed by hand; copy it again, or write it anew with pgetpy generation lock"
)


@dataclass(frozen=True)
class GenerationManifest:
    """A manifest as it was read.

    Attributes:
        number: of the generation.
        files: in the order of the lines.
        environments: in the order of their first lines.
        digest: the identity that the first line gives, as `sha256:HEX`; empty if it gives none.
    """

    number: int
    files: tuple[FileLine, ...]
    environments: tuple[EnvironmentLine | LockedEnvironment, ...]
    digest: str = ""

    def locked(self) -> GenerationLock | None:
        """Return the lock that this manifest is; None if it leaves something open."""
        known = tuple(each for each in self.environments if isinstance(each, LockedEnvironment))
        if len(known) < len(self.environments) or not all(each.digest for each in self.files):
            return None
        return GenerationLock(self.number, self.files, known)


def parse_lock(text: str, path: str) -> GenerationLock:
    """Return the lock in `text`; see `parse_manifest`.

    Raises:
        BadManifestError: a line is malformed, or has no digest or hashes, or lines are missing.
    """
    try:
        manifest = parse_manifest(text, path)
    except BadManifestError as error:
        if error.line > text.count("\n"):  # the last line, and it does not end
            error.hint = "the file ends in this line: it may have been cut"
        raise
    lock = manifest.locked()
    if manifest.digest and (lock is None or manifest.digest != f"sha256:{lock.digest}"):
        raise BadManifestError(path, 0, _NOT_AS_WRITTEN)
    if lock is not None:
        return lock
    line = min(
        [each.line for each in manifest.files if not each.digest]
        + [each.line for each in manifest.environments if isinstance(each, EnvironmentLine)]
    )
    reason = "it has no sha256, so this is not a lock; pgetpy generation lock MANIFEST writes one"
    raise BadManifestError(path, line, reason)


def parse_manifest(
    text: str, path: str, *, check: Callable[[str], object] = redact
) -> GenerationManifest:
    """Return the manifest in `text`.

    Args:
        text: of the manifest.
        path: what errors call it.
        check: gets each reference, and raises BadReferenceError for what is not one.

    Raises:
        BadManifestError: a line is malformed, two lines want the same path, the number is missing,
            or nothing comes after it.
    """
    reading = _GenerationReader(check)
    for line, content in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        try:
            fields = split_fields(content)
            if fields:
                reading.take(fields, line)
        except UsageError as error:
            raise BadManifestError(path, line, str(error)) from None
    if reading.number is None:
        raise BadManifestError(path, 0, "it is empty; it begins with `generation N`")
    if not reading.files and not reading.environments:
        # Perhaps half written; its number could not be used again.
        raise BadManifestError(path, 0, "it names no files and no environments")
    try:
        environments = tuple(map(_environment, reading.environments.values()))
    except _LineError as error:
        raise BadManifestError(path, error.line, str(error)) from None
    files = tuple(reading.files)
    return GenerationManifest(reading.number, files, environments, reading.digest)


def check_lines(files: Iterable[FileLine], path: str) -> None:
    """Check that no two of `files` have the same path, or a file where another needs a folder.

    Raises:
        BadManifestError: two have; `path` is the manifest's.
    """
    claims = _PathClaims()
    for file in files:
        try:
            claims.take(file)
        except UsageError as error:
            raise BadManifestError(path, file.line, str(error)) from None


class _LineError(UsageError):
    """Something is wrong with an earlier line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


@dataclass
class _OpenEnvironment:
    """An environment of which more lines may come."""

    name: str
    python: str
    line: int
    requirements: list[tuple[str, list[str]]] = field(default_factory=list)


class _PathClaims:
    """The paths that lines want, and the lines."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._folders: dict[str, int] = {}

    def take(self, file: FileLine) -> None:
        """Take the path of a line.

        Raises:
            UsageError: another line has it, or has a file where a folder has to be.
        """
        path = file.dest.rstrip("/")
        earlier = self._files.get(path) or self._folders.get(path)
        above = _folders_above(path)
        for folder in above:
            earlier = earlier or self._files.get(folder)
        # The files of a repository are not known before it is asked: several may share a folder.
        if earlier is not None and not _is_open_folder(file):
            raise UsageError(f"{file.dest} is in the way of line {earlier}, or the same path")
        if not _is_open_folder(file):
            self._files[path] = file.line
        for folder in above:
            self._folders.setdefault(folder, file.line)


class _GenerationReader:
    """A manifest half read."""

    def __init__(self, check: Callable[[str], object]) -> None:
        self.number: int | None = None
        self.digest = ""
        self.files: list[FileLine] = []
        self.environments: dict[str, _OpenEnvironment] = {}
        self._check = check
        self._claims = _PathClaims()

    def take(self, fields: list[str], line: int) -> None:
        if self.number is None:
            self.number = _number(fields)
            self.digest = _sha256(fields[2]) if len(fields) == 3 else ""
        elif fields[0] == "generation":
            raise UsageError("the number of the generation is given twice")
        elif fields[0] == "env":
            self._take_environment(fields[1:], line)
        else:
            file = _file(fields, line)
            self._check(file.url)
            self._claims.take(file)
            self.files.append(file)

    def _take_environment(self, fields: list[str], line: int) -> None:
        if len(fields) < 3:
            raise UsageError("expected env NAME PYTHON REQUIREMENT [sha256:HEX...] ...")
        name, python, *rest = fields
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be the name of an environment")
        if not _PYTHON.fullmatch(python):
            raise UsageError(f"{python!r} is not a version of Python such as 3.12")
        own = self.environments.setdefault(name, _OpenEnvironment(name, python, line))
        if own.python != python:
            raise UsageError(f"environment {name} has Python {own.python} in line {own.line}")
        for each in rest:
            if not each.startswith(_SHA256):
                _check_requirement(each)
                own.requirements.append((each, []))
            elif own.requirements:
                own.requirements[-1][1].append(_sha256(each))
            else:
                raise UsageError("a hash comes after the requirement that it is for")


def _check_requirement(text: str) -> None:
    if not _REQUIREMENT.fullmatch(text):
        raise UsageError(
            f"{redact_text(text)!r} is not a requirement such as numpy>=2: options of pip are "
            "given to uv in variables, and files are found by UV_FIND_LINKS"
        )
    if redact_text(text) != text:
        raise UsageError(f"{redact_text(text)} contains a secret, and locks are handed around")


def _number(fields: Sequence[str]) -> int:
    if fields[0] != "generation" or not 2 <= len(fields) <= 3:
        raise UsageError("expected `generation N` before anything else, N being a number")
    if not _NUMBER.fullmatch(fields[1]):
        raise UsageError(
            f"{fields[1]!r} cannot be the number of a generation: expected `generation N`, "
            "N being at most 18 digits without leading zeros"
        )
    return int(fields[1])


def _file(fields: list[str], line: int) -> FileLine:
    extract = fields[-1] == EXTRACT
    if extract:
        fields = fields[:-1]
    if not 2 <= len(fields) <= 3:
        raise UsageError(f"expected REF DEST [sha256:HEX] [-x], found {len(fields)} fields")
    url, dest = fields[:2]
    if redact(url) != url and not is_data(url):
        raise UsageError(
            f"{redact(url)} contains a secret, and locks are handed around; "
            "give tokens in environment variables"
        )
    if _CONTROL.search(url):
        raise UsageError(f"{url!r} contains a control character")
    digest = _sha256(fields[2]) if len(fields) == 3 else ""
    check_dest(dest)
    if digest and dest.endswith("/") and not extract:
        raise UsageError(f"the digest is that of one file, and {dest} is a folder")
    return FileLine(url, dest.rstrip("/") if extract else dest, digest, extract, line)


def _sha256(text: str) -> str:
    checksum = Checksum.parse(text, name="digest")
    if checksum.algorithm != "sha256":
        raise UsageError("a digest in this manifest is sha256:HEX")
    return str(checksum)


def check_dest(dest: str) -> None:
    """Check that `dest` is a plain path inside a generation; it may end with one slash.

    Raises:
        UsageError: it is not.
    """
    parts = dest.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or _CONTROL.search(dest):
        raise UsageError(f"{dest!r} is not a plain path inside the generation")
    if any(len(part.encode(errors="surrogateescape")) > _LONGEST_COMPONENT for part in parts):
        raise UsageError(f"{dest[:_SHOWN]!r} contains a name that is too long")
    if len(parts) > _DEEPEST or len(dest.encode(errors="surrogateescape")) > _LONGEST_DEST:
        raise UsageError(f"{dest[:_SHOWN]!r} is the beginning of a path that is too long")


def _is_open_folder(file: FileLine) -> bool:
    return file.dest.endswith("/") and not file.extract


def _folders_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _environment(found: _OpenEnvironment) -> EnvironmentLine | LockedEnvironment:
    hashed = [text for text, hashes in found.requirements if hashes]
    if not hashed:
        texts = tuple(text for text, _ in found.requirements)
        return EnvironmentLine(found.name, found.python, texts, found.line)
    bare = next((text for text, hashes in found.requirements if not hashes), None)
    if bare is not None:
        reason = f"environment {found.name} has hashes for some requirements and none for {bare}"
        raise _LineError(found.line, reason)
    locked = tuple(LockedRequirement(text, tuple(hashes)) for text, hashes in found.requirements)
    return LockedEnvironment(found.name, found.python, locked, found.line)
