"""The sources, in the order in which they are tried.

pgetpy's own come first, then those of other packages (see `sources.base.Source`). A row of the
table tells which references may belong to a source, and its module is imported for those alone:
importing all of them takes as long as a small download. A new source is a module and a row here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pgetpy.core.destinations.names import check_unicode
from pgetpy.core.http.urls import PLAIN_URL, parse_link
from pgetpy.core.lazy_dataclass import dataclass, replace
from pgetpy.core.references.patterns import EVERYTHING, Patterns
from pgetpy.core.references.reference import Reference, choosing
from pgetpy.errors import BadReferenceError, HttpStatusError, PgetError
from pgetpy.errors.redact import redact_text
from pgetpy.settings import SourceSection, SourceSettings
from pgetpy.settings.options import Option
from pgetpy.sources.base import Located, ServiceClient, Source
from pgetpy.system.logs import RoomLog

if TYPE_CHECKING:
    from pgetpy.sources.object_bucket import ObjectStoreSettings

AnySource = Source[Any]


@dataclass(frozen=True)
class SourceRow:
    """Which references may belong to a source; whether they do is up to its `recognise`.

    Attributes:
        name: the source's name.
        home: its module and its class.
        schemes: what its references begin with, before the colon.
        hosts: as in `Source`.
        endpoint: the environment variable of the service's URL; URLs there belong to it, too.
        bare: whether some of its references begin with none of the schemes, such as OWNER/NAME.
    """

    name: str
    home: str
    schemes: tuple[str, ...] = ()
    hosts: Set[str] = frozenset()
    endpoint: str = ""
    bare: bool = False

    @property
    def source(self) -> AnySource:
        """The source, which is imported when it is first asked for."""
        return _load(self.home)


_LOG = RoomLog("sources")
_PLAIN = SourceRow("plain", "pgetpy.sources.plain:Plain", ("http", "https", "file"))
ROWS: tuple[SourceRow, ...] = (
    SourceRow("data", "pgetpy.sources.data:Data", ("data",)),
    SourceRow(
        "huggingface",
        "pgetpy.sources.huggingface:HuggingFace",
        ("hf",),
        frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"}),
        endpoint="HF_ENDPOINT",
        bare=True,
    ),
    SourceRow(
        "civitai",
        "pgetpy.sources.civitai:Civitai",
        ("civitai", "urn"),
        frozenset(
            f"{www}civitai.{domain}" for www in ("", "www.") for domain in ("com", "green", "red")
        ),
        endpoint="PGET_CIVITAI_ENDPOINT",
        bare=True,
    ),
    SourceRow(
        "replicate",
        "pgetpy.sources.replicate:Replicate",
        (),
        frozenset({"replicate.com", "www.replicate.com"}),
        endpoint="PGET_REPLICATE_ENDPOINT",
        bare=True,
    ),
    SourceRow("s3", "pgetpy.sources.s3:S3Source", ("s3",)),
    SourceRow("b2", "pgetpy.sources.s3:B2", ("b2",)),
    SourceRow("gs", "pgetpy.sources.s3:Gs", ("gs",)),
    SourceRow("az", "pgetpy.sources.azure:Az", ("az",)),
    _PLAIN,
)

_USUAL = SourceSettings()
_GROUP = "pgetpy.sources"
# What the metadata folders of distributions named pgetpy-... begin with.
_THEIR_METADATA = "pgetpy_"
# Longer texts (data: URIs of megabytes) are parsed each time instead of being cached.
_LONGEST_KEPT = 4096
# Texts that look like a local path, on any system.
_PATH = r"(?is)[/.~\\]|[A-Za-z]:[/\\]|[^:]*\.safetensors\Z"


def parse_reference(
    text: str,
    wanted: str = "auto",
    settings: SourceSettings = _USUAL,
    patterns: Patterns = EVERYTHING,
) -> Reference:
    """Parse a reference; surrounding blanks, from pasting, are ignored.

    Args:
        text: what the user wrote.
        wanted: `file`, `weights`, `folder` or `auto`. `auto` means `weights` for repositories and
            names of archives, else `file`.
        settings: the settings of sources, including tokens.
        patterns: which files of a repository are meant.

    Raises:
        BadReferenceError: no source recognises it, or patterns make no sense for it.
        BadSettingError: `wanted` is something else.
    """
    if not isinstance(text, str):
        raise BadReferenceError(str(text), _advice(text))
    text = text.strip()
    check_unicode(text)
    parse = _parse_once if len(text) <= _LONGEST_KEPT else _parse
    found = parse(text, wanted, settings)
    return found if patterns is EVERYTHING else choosing(found, patterns)


async def locate(reference: Reference, settings: SourceSettings, client: ServiceClient) -> Located:
    """Return where the source of `reference` says that its bytes are.

    Raises:
        TransferError: the service does not say.
    """
    source = _source_of(reference)
    located = await source.locate(reference, settings.of(source.settings), client)
    if _LOG.wants_debug():
        for remote in located.objects:
            _LOG.debug("%s: source %s leads to %s", reference, source.name, remote.url)
    return located


def explained(reference: Reference, error: HttpStatusError, settings: SourceSettings) -> PgetError:
    """Return what the HTTP error `error` means at the reference's service."""
    source = _source_of(reference)
    return source.explained(reference, error, settings.of(source.settings))


def store_settings(text: str, settings: SourceSettings) -> ObjectStoreSettings:
    """Return what the object store of `text`, the name of an object, goes by.

    Raises:
        BadReferenceError: it is not in a store that objects are written to.
    """
    from pgetpy.sources.object_bucket import ObjectStoreSettings

    scheme, found, _ = text.partition("://")
    for row in _rows_of_scheme(scheme) if found else ():
        section = settings.of(row.source.settings)
        if isinstance(section, ObjectStoreSettings):
            return section
    raise BadReferenceError(text, "objects are written to s3://BUCKET/KEY, b2:// and gs:// only")


def with_tokens(settings: SourceSettings, given: Mapping[str, str | None]) -> SourceSettings:
    """Return `settings` with a caller's tokens, given by argument name."""
    for source in own_sources() if given else ():
        if source.argument in given:
            section = settings.of(source.settings)
            settings = settings.replacing(replace(section, token=given[source.argument]))
    return settings


def check_settings(settings: SourceSettings) -> None:
    """Read the settings of all own sources now, so that mistakes show before any work is done.

    Raises:
        BadSettingError: a value is invalid.
    """
    for source in own_sources():
        settings.of(source.settings)


def own_sources() -> tuple[AnySource, ...]:
    """Import and return all of pgetpy's own sources."""
    return tuple(row.source for row in ROWS)


def source_options() -> tuple[Option, ...]:
    """Return the option rows of pgetpy's own sources."""
    return tuple(chain.from_iterable(each.settings.options for each in own_sources()))


@cache
def _load(home: str) -> AnySource:
    module, _, name = home.partition(":")
    source: AnySource = getattr(import_module(module), name)()
    return source


def _source_of(reference: Reference) -> AnySource:
    """Return the source that recognised `reference`."""
    for row in ROWS:
        if row.name == reference.source:
            return row.source
    return next(each for each in _registered()[0] if each.name == reference.source)


def _parse(text: str, wanted: str, settings: SourceSettings) -> Reference:
    host = _web_host(text)
    rows = _rows_at(host, settings) if host else _rows_for(text)
    if rows == [_PLAIN] and host and _others_may_have_hosts():
        theirs = [each for each in _registered()[0] if host in _hosts_of(each, settings)]
        found = _ask_others(text, wanted, settings, theirs)
        if found is not None:
            return found
    for row in rows:
        source = row.source
        found = source.recognise(text, wanted, settings.of(source.settings))
        if found is not None:
            return found
    found = _ask_others(text, wanted, settings, *_registered())
    if found is not None:
        return found
    if re.match(_PATH, text):
        reason = f"it is not a URL; write a local file as {_file_url(text)}"
        raise BadReferenceError(text, reason)
    parse_link(text)  # raises: it is not a URL
    raise AssertionError("unreachable")


def _rows_at(host: str, settings: SourceSettings) -> list[SourceRow]:
    """Return the rows whose sources may know a URL of `host`."""
    found = []
    for row in ROWS:
        if host in row.hosts or (
            # Nothing else can have moved it, so without them there is nothing to import it for.
            (settings.given or settings.environ.get(row.endpoint))
            and row.endpoint
            and host in _hosts_of(row.source, settings)
        ):
            found.append(row)
    return [*found, _PLAIN]


def _rows_for(text: str) -> list[SourceRow]:
    """Return the rows whose sources may know `text`, which is not a URL of the web."""
    scheme, colon, _ = text.partition(":")
    found = _rows_of_scheme(scheme) if colon else []
    return found or [row for row in ROWS if row.bare]


def _rows_of_scheme(scheme: str) -> list[SourceRow]:
    return [row for row in ROWS if scheme.lower() in row.schemes]


_parse_once = lru_cache(maxsize=4096)(_parse)


def _ask_others(
    text: str,
    wanted: str,
    settings: SourceSettings,
    sources: Iterable[AnySource],
    failures: Iterable[str] = (),
) -> Reference | None:
    """Return the reference that one of other packages' `sources` recognises in `text`.

    Raises:
        BadReferenceError: none does, and some sources are broken: these, and those in `failures`.
    """
    failures = list(failures)
    for source in sources:
        try:
            found = source.recognise(text, wanted, settings.of(source.settings))
        except PgetError:
            raise
        except Exception as error:
            failures.append(f"{source.name} ({_words(error)})")
            continue
        if found is not None:
            return found
    if failures:
        reason = f"no source recognises it, and these failed: {', '.join(failures)}"
        raise BadReferenceError(text, reason)
    return None


def _web_host(text: str) -> str:
    """Return the host of an http or https URL; empty for any other text."""
    plain = PLAIN_URL.fullmatch(text)
    if plain is not None:
        return plain[1].partition("://")[2].partition(":")[0]
    if text[:8].lower().startswith(("http://", "https://")):
        with suppress(ValueError):
            return _bare_host(urlsplit(text).netloc)
    return ""


def _hosts_of(source: AnySource, settings: SourceSettings) -> Set[str]:
    """Return the hosts whose URLs belong to `source`."""
    endpoint = settings.of(source.settings).endpoint if source.takes_urls else ""
    return source.hosts | {_bare_host(urlsplit(endpoint).netloc)} if endpoint else source.hosts


def _bare_host(netloc: str) -> str:
    return netloc.rpartition("@")[2].partition(":")[0].lower()


def _advice(given: object) -> str:
    """Return what to write for a reference that is not a text."""
    if isinstance(given, os.PathLike):
        return f"write a local file as {_file_url(os.path.abspath(os.fsdecode(given)))}"
    return f"a reference is a str, not {type(given).__name__}"


def _file_url(path: str) -> str:
    return f"file://{quote(path)}" if path.startswith("/") else "file:// and its whole path"


@lru_cache(maxsize=1)
def _others_may_have_hosts() -> bool:
    """Whether a distribution is installed that may have a source with hosts.

    Only names are looked at: reading all metadata takes tens of milliseconds.
    """
    for path in sys.path:
        with suppress(OSError):
            for name in os.listdir(path or "."):
                if name.startswith(_THEIR_METADATA):
                    return True
    return False


@lru_cache(maxsize=1)
def _registered() -> tuple[tuple[AnySource, ...], tuple[str, ...]]:
    """Return the sources of other packages, and why some could not be loaded."""
    from importlib.metadata import entry_points

    sources: list[AnySource] = []
    failures = []
    taken = {row.name for row in ROWS}
    for point in sorted(entry_points(group=_GROUP), key=lambda point: (point.name, point.value)):
        try:
            source: AnySource = point.load()()
            name = source.name
            # A class that does not inherit from Source may lack these.
            for attribute, value in (
                ("hosts", frozenset()),
                ("takes_urls", True),
                ("settings", SourceSection),
            ):
                if not hasattr(source, attribute):
                    setattr(source, attribute, value)
        except Exception as error:
            failures.append(f"{point.name} of {point.value} ({_words(error)})")
            continue
        if name in taken:
            failures.append(f"{point.name} of {point.value} (the name {name!r} is taken)")
            continue
        taken.add(name)
        sources.append(source)
    return tuple(sources), tuple(failures)


def _words(error: Exception) -> str:
    return redact_text(f"{type(error).__name__}: {error}")
