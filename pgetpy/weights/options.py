"""What callers pass beside a URL: which files they mean, and what opens them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, TypedDict

from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.patterns import EVERYTHING, Patterns
from pgetpy.core.references.reference import Reference
from pgetpy.core.text.values import read_token
from pgetpy.errors import BadSettingError
from pgetpy.settings import SourceSettings

Chosen = str | Sequence[str] | None


class Secret(Protocol):
    """The interface of the secret types of pydantic and Cog."""

    def get_secret_value(self) -> str | None:
        """Return the secret as plain text."""


class ReferenceOptions(TypedDict, total=False):
    """Options beside a URL; see `WeightsDownloadCache.ensure`."""

    wanted: str
    allow_patterns: Chosen
    ignore_patterns: Chosen
    hf_api_token: str | Secret | None
    civitai_api_token: str | Secret | None


def named(
    url: str,
    sources: SourceSettings,
    *,
    wanted: str = "auto",
    allow_patterns: Chosen = None,
    ignore_patterns: Chosen = None,
    hf_api_token: str | Secret | None = None,
    civitai_api_token: str | Secret | None = None,
) -> Reference:
    """Parse a URL and the options beside it.

    Raises:
        UsageError: no source knows the URL, or an option is invalid.
    """
    # Imported here: the sources take time to import.
    from pgetpy.sources.table import parse_reference, with_tokens

    tokens = {"hf_api_token": hf_api_token, "civitai_api_token": civitai_api_token}
    given = {name: revealed(token, name) for name, token in tokens.items() if token is not None}
    patterns = _patterns(allow_patterns, ignore_patterns)
    return parse_reference(url, wanted, with_tokens(sources, given), patterns)


@lru_cache(maxsize=4096)
def parse_digest(digest: str | None) -> Checksum | None:
    """Return `sha256:HEX`, or HEX alone, as a checksum; None for None.

    Raises:
        BadSettingError: it is something else.
    """
    if digest is None:
        return None
    checksum = Checksum.parse(digest if ":" in digest else f"sha256:{digest}", name="digest")
    if checksum.algorithm != "sha256":
        raise BadSettingError("digest", digest, "is not a sha256 digest")
    return checksum


def revealed(token: str | Secret, name: str) -> str | None:
    """Return a caller's token as plain text; None if it is empty.

    Args:
        name: the argument that it was passed as, for errors.

    Raises:
        BadSettingError: it contains characters that no token has.
    """
    secret = token if isinstance(token, str) else token.get_secret_value()
    return read_token(secret or "", name)


def _patterns(allow: Chosen, ignore: Chosen) -> Patterns:
    if allow is None and ignore is None:
        return EVERYTHING
    return Patterns.of(allow, ignore)
