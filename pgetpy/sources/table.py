"""The sources, in the order in which they are asked whether a reference is theirs."""

from __future__ import annotations

from functools import lru_cache

from pgetpy.core.links import parse_link
from pgetpy.core.patterns import EVERYTHING, Patterns
from pgetpy.core.references import Reference, choosing
from pgetpy.settings import SourceSettings
from pgetpy.sources.base import Source
from pgetpy.sources.huggingface import HuggingFace
from pgetpy.sources.plain import Plain

SOURCES: tuple[Source, ...] = (HuggingFace(), Plain())

_USUAL = SourceSettings()
_GROUP = "pgetpy.sources"


@lru_cache(maxsize=4096)
def parse_reference(
    text: str,
    wanted: str = "auto",
    settings: SourceSettings = _USUAL,
    patterns: Patterns = EVERYTHING,
) -> Reference:
    """Return what `text` refers to.

    Args:
        wanted: `file`, `weights`, `folder`, or `auto`: `weights` of what is called like an archive
            and of a repository, else `file`.
        settings: bear the tokens to open it with.
        patterns: which files of a repository are meant.

    Raises:
        BadReferenceError: no source knows what it is, or patterns make no sense for it.
        BadSettingError: `wanted` is none of these.
    """
    for source in SOURCES:
        found = source.recognise(text, wanted, settings)
        if found is not None:
            return choosing(found, patterns)
    for source in _registered().values():
        found = source.recognise(text, wanted, settings)
        if found is not None:
            return choosing(found, patterns)
    parse_link(text)  # raises, for it is no URL
    raise AssertionError("unreachable")


def source_of(reference: Reference) -> Source:
    """Return the source that has recognised `reference`."""
    for source in SOURCES:
        if source.name == reference.source:
            return source
    return _registered()[reference.source]


@lru_cache(maxsize=1)
def _registered() -> dict[str, Source]:
    """Sources of other packages: the entry points of group `pgetpy.sources`, each a class."""
    from importlib.metadata import entry_points

    sources = [point.load()() for point in sorted(entry_points(group=_GROUP))]
    return {source.name: source for source in sources}
