"""The sources, in the order in which they are asked whether a reference is theirs.

This package's own come first, then those of other packages (see `sources.base.Source`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import quote, urlsplit

from pgetpy.core.http.urls import parse_link
from pgetpy.core.references.patterns import EVERYTHING, Patterns
from pgetpy.core.references.reference import Reference, choosing
from pgetpy.errors import BadReferenceError, PgetError
from pgetpy.errors.redact import redact_text
from pgetpy.settings import SourceSettings
from pgetpy.sources.base import OwnSource, Source
from pgetpy.sources.civitai import Civitai
from pgetpy.sources.data import Data
from pgetpy.sources.huggingface import HuggingFace
from pgetpy.sources.plain import Plain
from pgetpy.sources.replicate import Replicate

_PLAIN = Plain()
_OWN: tuple[OwnSource, ...] = (Data(), HuggingFace(), Civitai(), Replicate())
SOURCES: tuple[Source, ...] = (*_OWN, _PLAIN)

_USUAL = SourceSettings()
_GROUP = "pgetpy.sources"
# Longer ones (data: URIs bear megabytes) are read anew each time instead of being kept.
_LONGEST_KEPT = 4096
# What is meant for a path, on any system.
_PATH = re.compile(r"[/.~\\]|[A-Za-z]:[/\\]|[^:]*\.safetensors\Z", re.IGNORECASE | re.DOTALL)


def parse_reference(
    text: str,
    wanted: str = "auto",
    settings: SourceSettings = _USUAL,
    patterns: Patterns = EVERYTHING,
) -> Reference:
    """Return what `text` refers to; blanks around it, pasted with it, mean nothing.

    Args:
        wanted: `file`, `weights`, `folder`, or `auto`: `weights` of what is called like an archive
            and of a repository, else `file`.
        settings: bear the tokens to open it with.
        patterns: which files of a repository are meant.

    Raises:
        BadReferenceError: no source knows what it is, or patterns make no sense for it.
        BadSettingError: `wanted` is none of these.
    """
    text = text.strip()
    parse = _remembered if len(text) <= _LONGEST_KEPT else _parsed
    found = parse(text, wanted, settings)
    return found if patterns is EVERYTHING else choosing(found, patterns)


def with_tokens(settings: SourceSettings, given: Mapping[str, str | None]) -> SourceSettings:
    """Return `settings` with the tokens that a caller has given, by the names of the arguments."""
    changes = {each.token: given[each.argument] for each in _OWN if each.argument in given}
    return replace(settings, **changes) if changes else settings  # type: ignore[arg-type]


def source_of(reference: Reference) -> Source:
    """Return the source that has recognised `reference`."""
    for source in SOURCES:
        if source.name == reference.source:
            return source
    return _registered().sources[reference.source]


def _parsed(text: str, wanted: str, settings: SourceSettings) -> Reference:
    for source in (_PLAIN,) if _is_plain(text, settings) else SOURCES:
        found = source.recognise(text, wanted, settings)
        if found is not None:
            return found
    registered = _registered()
    failures = list(registered.failures)
    for name, source in registered.sources.items():
        try:
            found = source.recognise(text, wanted, settings)
        except PgetError:
            raise
        except Exception as error:
            failures.append(f"{name} ({_words(error)})")
            continue
        if found is not None:
            return found
    if failures:
        reason = f"no source knows it, and these do not work: {', '.join(failures)}"
        raise BadReferenceError(text, reason)
    if _PATH.match(text):
        reason = f"it is no URL; a file of this machine is {_file_url(text)}"
        raise BadReferenceError(text, reason)
    parse_link(text)  # raises, for it is no URL
    raise AssertionError("unreachable")


def _is_plain(text: str, settings: SourceSettings) -> bool:
    """Whether `text` is an http or https URL of a host that belongs to no service."""
    if not text[:8].lower().startswith(("http://", "https://")):
        return False
    try:
        netloc = urlsplit(text).netloc
    except ValueError:
        return False
    return _bare_host(netloc) not in _service_hosts(settings)


@lru_cache(maxsize=16)
def _service_hosts(settings: SourceSettings) -> frozenset[str]:
    endpoints = [getattr(settings, source.endpoint) for source in _OWN if source.endpoint]
    named = {_bare_host(urlsplit(endpoint).netloc) for endpoint in endpoints}
    return frozenset(named.union(*(source.hosts for source in _OWN)))


def _bare_host(netloc: str) -> str:
    return netloc.rpartition("@")[2].partition(":")[0].lower()


def _file_url(path: str) -> str:
    return f"file://{quote(path)}" if path.startswith("/") else "file:// and its whole path"


_remembered = lru_cache(maxsize=4096)(_parsed)


@dataclass(frozen=True)
class _Registered:
    """Sources of other packages, by name, and why some of them are none."""

    sources: dict[str, Source]
    failures: tuple[str, ...]


@lru_cache(maxsize=1)
def _registered() -> _Registered:
    """Load the entry points, each a class."""
    from importlib.metadata import entry_points

    sources: dict[str, Source] = {}
    failures = []
    taken = {source.name for source in SOURCES}
    for point in sorted(entry_points(group=_GROUP), key=lambda point: (point.name, point.value)):
        try:
            source: Source = point.load()()
            name = source.name
        except Exception as error:
            failures.append(f"{point.name} of {point.value} ({_words(error)})")
            continue
        if name in taken:
            failures.append(f"{point.name} of {point.value} (the name {name!r} is taken)")
            continue
        taken.add(name)
        sources[name] = source
    return _Registered(sources, tuple(failures))


def _words(error: Exception) -> str:
    return redact_text(f"{type(error).__name__}: {error}")
