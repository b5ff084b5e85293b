"""Caches that know the Hub which a test plays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgetpy import WeightsDownloadCache
from pgetpy.settings import SourceSettings
from pgetpy.sources.huggingface import HubSettings
from tests.support.hub import Hub
from tests.support.weights import opened


def at(hub: Hub, token: str | None = None, **fields: Any) -> SourceSettings:
    """What tells of `hub`; fields are those of HubSettings."""
    return SourceSettings((HubSettings(endpoint=hub.url(""), token=token, **fields),))


def opened_at(
    hub: Hub, root: Path, token: str | None = None, **options: Any
) -> WeightsDownloadCache:
    """A cache whose Hub is `hub`; options are those of `opened`, and fields of HubSettings."""
    names = {"offline", "hf_transfer"} & options.keys()
    fields = {name: options.pop(name) for name in names}
    return opened(root, sources=at(hub, token, **fields), **options)


def others(hub: Hub) -> list[str]:
    """The targets of all requests that the store of `hub` was sent with an Authorization."""
    return [seen.target for seen in hub.cdn.requests if seen.header("authorization") is not None]
