"""What a manifest of a generation names, and the lock of it, which leaves nothing open.

The identity of a generation is the digest of its lock's canonical text. It is in the first line of
the file, too, so that one that was cut, or copied in part, is not taken for a smaller generation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

EXTRACT = "-x"
# What can be written without quotes; see `split_fields`.
_BARE = re.compile(r"[^\s\"'#]\S*")


@dataclass(frozen=True)
class FileLine:
    """A line that names a file, a repository or an archive.

    Attributes:
        url: the reference, as it was written.
        dest: where it goes, below the generation's files; it may end with a slash.
        digest: `sha256:HEX` of the file, or of the archive as it is served; empty if it is open.
        extract: whether the members of an archive go to the folder `dest`.
        line: its number, counted from 1.
    """

    url: str
    dest: str
    digest: str = ""
    extract: bool = False
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class EnvironmentLine:
    """A Python environment whose versions are still to be found.

    Attributes:
        name: what `PGET_ENV` calls it.
        python: the version of Python, such as 3.12.
        requirements: as pip takes them.
        line: of its first line, counted from 1.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class LockedRequirement:
    """One package of an environment: `text` pins it, and a file of it has one of `hashes`."""

    text: str
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class LockedEnvironment:
    """A Python environment with the hashes of all its packages; see `EnvironmentLine`."""

    name: str
    python: str
    requirements: tuple[LockedRequirement, ...]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class GenerationLock:
    """What a generation consists of, to the last byte.

    Attributes:
        number: of the generation.
        files: by destination; each has a digest.
        environments: by name.
    """

    number: int
    files: tuple[FileLine, ...]
    environments: tuple[LockedEnvironment, ...] = ()

    @cached_property
    def text(self) -> str:
        """The canonical text: what `parse_manifest` takes, with the lines in order."""
        lines = [f"generation {self.number}"]
        for each in sorted(self.files, key=lambda file: file.dest):
            fields = [each.url, each.dest, each.digest, *([EXTRACT] if each.extract else [])]
            lines.append(joined_fields(fields))
        for environment in sorted(self.environments, key=lambda each: each.name):
            for each_requirement in environment.requirements:
                own = [each_requirement.text, *sorted(each_requirement.hashes)]
                lines.append(joined_fields(["env", environment.name, environment.python, *own]))
        return "".join(f"{line}\n" for line in lines)

    @cached_property
    def digest(self) -> str:
        """The identity: 64 hex digits."""
        return digest_of_text(self.text)

    @property
    def file_text(self) -> str:
        """What is written to a file: the canonical text, with the identity in its first line."""
        first, _, rest = self.text.partition("\n")
        return f"{first} sha256:{self.digest}\n{rest}"


def digest_of_text(text: str) -> str:
    """Return the identity of the lock whose canonical text this is."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def joined_fields(fields: Iterable[str]) -> str:
    """Return a line that `split_fields` takes apart into `fields`."""
    return " ".join(map(_quoted, fields))


def _quoted(text: str) -> str:
    if _BARE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
