"""The manifest of `pgetpy prefetch`: what a cache is to contain, one reference a line.

    REF [KIND] [sha256:HEX]    # and what follows a field that begins with a number sign

KIND says what to keep of an archive or a repository, as `--wanted` does. Fields are separated and
quoted as in the manifest of `pgetpy multifile`. The manifest is read completely before anything is
fetched: a mistake in its last line must not cost an hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.manifest import split_fields
from pgetpy.core.references.reference import Wanted
from pgetpy.errors import BadManifestError, UsageError

# `auto` decides by the name, as everywhere.
_AUTO = "auto"
_KINDS = frozenset({_AUTO, *(kind.value for kind in Wanted)})


@dataclass(frozen=True)
class PrefetchLine:
    """One line of the manifest.

    Attributes:
        url: the reference, as it was written.
        wanted: what to keep of it.
        digest: the expected `sha256:HEX`; None if the line has none.
        line: its number, counted from 1.
    """

    url: str = field(repr=False)
    wanted: str
    digest: str | None
    line: int


def parse_prefetch_manifest(
    text: str, path: str, *, wanted: str = _AUTO
) -> tuple[PrefetchLine, ...]:
    """Return the lines of a manifest; one that repeats another is left out.

    Args:
        text: of the manifest.
        path: what errors call it.
        wanted: the kind of lines that have none.

    Raises:
        BadManifestError: a line is malformed, or two want different bytes for one reference.
    """
    found: dict[tuple[str, str], PrefetchLine] = {}
    for number, content in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        try:
            fields = split_fields(content)
            if not fields:
                continue
            line = _read_line(fields, number, wanted)
            earlier = found.setdefault((line.url, line.wanted), line)
            if earlier.digest != line.digest:
                raise UsageError(
                    f"it has another digest than the same reference in line {earlier.line}"
                )
        except UsageError as error:
            raise BadManifestError(path, number, str(error)) from None
    return tuple(sorted(found.values(), key=attrgetter("line")))


def _read_line(fields: list[str], number: int, wanted: str) -> PrefetchLine:
    kinds = [each for each in fields[1:] if each in _KINDS]
    digests = [each for each in fields[1:] if each not in _KINDS]
    if len(kinds) > 1 or len(digests) > 1:
        raise UsageError(f"expected REF [KIND] [sha256:HEX], found {len(fields)} fields")
    digest = None
    if digests:
        checksum = Checksum.parse(digests[0], name="digest")
        if checksum.algorithm != "sha256":
            raise UsageError("a digest in this manifest is sha256:HEX")
        digest = f"sha256:{checksum.hexdigest}"
    return PrefetchLine(fields[0], kinds[0] if kinds else wanted, digest, number)
