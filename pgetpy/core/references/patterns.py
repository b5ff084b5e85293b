"""Patterns that choose files of a repository, with the rules of huggingface_hub.

Its `filter_repo_objects` uses fnmatch, case-sensitively: `*` also matches slashes, and `folder/`
means everything in the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from urllib.parse import parse_qsl, quote

from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.errors import BadSettingError

_CONTROL = r"[\x00-\x1f\x7f]"
_INCLUDE, _EXCLUDE = "include", "exclude"


@dataclass(frozen=True)
class Patterns:
    """A choice of files. It is falsy if it chooses all.

    Attributes:
        allow: a file must match one of these; empty allows all.
        ignore: a file must match none of these.
    """

    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, allow: str | Iterable[str] | None = None, ignore: str | Iterable[str] | None = None
    ) -> Patterns:
        """Return the patterns for two arguments; order and repetition do not matter.

        Raises:
            BadSettingError: a pattern is invalid, or `allow` is given but empty.
        """
        allowed = _listed("allow_patterns", allow)
        if allow is not None and not allowed:
            raise BadSettingError("allow_patterns", allow, "allows no file at all")
        return cls(allowed, _listed("ignore_patterns", ignore))

    @classmethod
    def parse(cls, query: str) -> Patterns:
        """Parse the output of `query`; other parameters are ignored."""
        fields = parse_qsl(query, keep_blank_values=True)
        allow = [value for name, value in fields if name == _INCLUDE]
        return cls.of(allow or None, [value for name, value in fields if name == _EXCLUDE])

    def admits(self, name: str) -> bool:
        """Whether the file `name`, a relative path, is chosen."""
        path = name.replace("\\", "/")
        if self.allow and not any(fnmatchcase(path, _whole(each)) for each in self.allow):
            return False
        return not any(fnmatchcase(path, _whole(each)) for each in self.ignore)

    @property
    def query(self) -> str:
        """The patterns as the query of a URL."""
        named = [(_INCLUDE, each) for each in self.allow]
        named += [(_EXCLUDE, each) for each in self.ignore]
        return "&".join(f"{name}={quote(each, safe='/*!,')}" for name, each in named)

    def __bool__(self) -> bool:
        return bool(self.allow or self.ignore)


EVERYTHING = Patterns()


def _listed(name: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    each = [given] if isinstance(given, str) else list(given or ())
    for pattern in each:
        if not isinstance(pattern, str) or not pattern or re.search(_CONTROL, pattern):
            raise BadSettingError(name, pattern, "is not a pattern such as *.safetensors")
    return tuple(sorted(set(each)))


def _whole(pattern: str) -> str:
    pattern = pattern.replace("\\", "/")
    return f"{pattern}*" if pattern.endswith("/") else pattern
