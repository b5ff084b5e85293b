"""Options of a single command run, and the location of the Hub's own cache."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.settings.folders import default_hub_cache_base, expand_user
from pgetpy.settings.sections import Section

if TYPE_CHECKING:
    from pgetpy.core.references.checksums import Checksum

_VARIABLE = r"(?a)\$(?:(\w+)|\{(\w+)\})"


@dataclass(frozen=True)
class CommandOptions(Section):
    """Options of a single command run. They have no environment variables.

    Attributes:
        mirror: further URLs of the file.
        checksum: the expected digest.
        digest: the expected sha256 of a file in the cache.
        fail_fast: stop at the first file that fails.
        json: print results as JSON.
        hub_cache_dir: the folder of huggingface_hub's cache.
        wanted: what to keep of an archive or repository.
        include: patterns of files of a repository to download.
        exclude: patterns of files of a repository to skip.
        refresh: ask the server whether a cached file is current.
        any_file: accept files that are not weights.
        if_absent: create an object only if there is none.
        content_type, cache_control: headers that an object is served with.
        repair: remove what is damaged.
        ready_url: answers once a program is ready.
        check: compare names and sizes with what is recorded, and fetch nothing.
        verify: compare digests with what is recorded, and fetch nothing.
        older_than: an age, in the form that `core.text.units.parse_age` takes.
    """

    mirror: tuple[str, ...] = field(default=(), repr=False)
    checksum: Checksum | None = None
    digest: str | None = None
    fail_fast: bool = False
    json: bool = False
    hub_cache_dir: Path | None = None
    wanted: str = "auto"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    refresh: bool = False
    any_file: bool = False
    if_absent: bool = False
    content_type: str = ""
    cache_control: str = ""
    repair: bool = False
    ready_url: str = ""
    check: bool = False
    verify: bool = False
    older_than: str | None = None


def hub_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of the Hub's cache: PGET_HUB_CACHE_DIR, else huggingface_hub's rules."""
    for name in ("PGET_HUB_CACHE_DIR", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return _expanded(name, environ)
    if environ.get("HF_HOME"):
        return _expanded("HF_HOME", environ) / "hub"
    if environ.get("XDG_CACHE_HOME"):
        return _expanded("XDG_CACHE_HOME", environ) / "huggingface" / "hub"
    return default_hub_cache_base() / "huggingface" / "hub"


def _expanded(name: str, environ: Mapping[str, str]) -> Path:
    """Return the path in variable `name` with ~ and variables expanded; unset ones stay."""
    path = str(expand_user(environ[name], name))
    return Path(re.sub(_VARIABLE, lambda found: environ.get(found[1] or found[2], found[0]), path))
