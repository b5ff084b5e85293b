"""The mark of a complete environment: what it was built from, and what it takes to use it.

It is the file `environment.json` in the environment's folder. It names the digests of the RECORDs,
which have the digests of all other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pgetpy.core.generations.environment_records import is_inside
from pgetpy.errors import IntegrityError

MARK = "environment.json"
_SCHEMA = 1


@dataclass(frozen=True)
class EnvironmentMark:
    """What is known about an environment.

    Attributes:
        python: the version of Python that it was built for, such as `3.12`.
        digest: of its locked requirements.
        compiled: whether byte code is there.
        scripts: whether it has a folder `bin`.
        files: how many files it has, without this mark.
        size: bytes of all files.
        libraries: folders with shared libraries that are loaded by name.
        records: the digest of each RECORD, as RECORDs write digests.
    """

    python: str
    digest: str
    compiled: bool
    scripts: bool
    files: int
    size: int
    libraries: tuple[str, ...]
    records: Mapping[str, str]

    def to_json(self) -> bytes:
        """Return the content of an environment.json."""
        return json.dumps({"schema": _SCHEMA, **asdict(self)}, sort_keys=True).encode()


def parse_mark(data: bytes) -> EnvironmentMark:
    """Return what is in an environment.json.

    Raises:
        IntegrityError: it is damaged, or of a later version of pgetpy.
    """
    try:
        found = json.loads(data)
        schema = found.pop("schema")
        mark = EnvironmentMark(**found | {"libraries": tuple(found["libraries"])})
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise IntegrityError(f"{MARK} is damaged") from None
    if schema != _SCHEMA:
        raise IntegrityError(f"{MARK} is of another version of pgetpy")
    if not _is_sound(mark):
        raise IntegrityError(f"{MARK} is damaged")
    return mark


def _is_sound(mark: EnvironmentMark) -> bool:
    texts = (mark.python, mark.digest, *mark.libraries)
    flags = (mark.compiled, mark.scripts)
    return (
        all(isinstance(each, str) for each in texts)
        and all(isinstance(each, bool) for each in flags)
        and all(map(is_inside, mark.libraries))
        and type(mark.files) is type(mark.size) is int
        and isinstance(mark.records, dict)
        and all(map(is_inside, mark.records))
        and all(isinstance(each, str) for each in mark.records.values())
    )
