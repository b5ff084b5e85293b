"""What a cache is opened with: its arguments, completed by the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgetpy.core.text.values import one_of, read_store_folder
from pgetpy.errors import BadSettingError
from pgetpy.settings import Settings
from pgetpy.settings.cache_settings import CacheSettings

if TYPE_CHECKING:
    from pgetpy.cache.store import Store
    from pgetpy.sources.s3 import S3
    from pgetpy.weights.background_hash import BackgroundHasher
    from pgetpy.weights.remote_copies import RemoteCopies

GIB = 1 << 30
PathLike = os.PathLike[str]
_MODE = one_of("readwrite", "read")


def refuse_both(name: str, value: object, other_name: str, other: object) -> None:
    """Check that an argument with two names is given by one of them.

    Raises:
        BadSettingError: both are given.
    """
    if value is not None and other is not None:
        raise BadSettingError(other_name, str(other), f"cannot be combined with {name}")


def resolved(
    settings: Settings | None,
    s3: S3 | None,
    cache_nodes: str | None,
    cache_prefixes: Sequence[str] | None,
    cache_piece: int | None,
) -> Settings:
    """Return `settings`, or those of the environment, with `s3` for s3:// and with the caller's
    cache nodes.

    Raises:
        BadSettingError: a setting of a source, or about cache nodes, is invalid.
    """
    from pgetpy.sources.table import check_settings

    chosen = settings if settings is not None else Settings.from_environment(os.environ)
    if s3 is not None:
        chosen = replace(chosen, sources=s3.applied_to(chosen.sources))
    check_settings(chosen.sources)
    if cache_nodes is None and cache_prefixes is None and cache_piece is None:
        return chosen
    from pgetpy.settings.fleet_settings import FleetSettings

    fleet = chosen.fleet or FleetSettings()
    return replace(chosen, fleet=fleet.changed(cache_nodes, cache_prefixes, cache_piece))


def completed(
    folder: str | PathLike | None,
    min_disk_free: int | None,
    max_bytes: int | None,
    remote: str | None,
    remote_mode: str | None,
    remote_max_age: float | None,
) -> CacheSettings:
    """Return the settings of a cache: the arguments, and the environment for those that are None.

    Raises:
        BadSettingError: a value is invalid.
    """
    for name, value in (("min_disk_free", min_disk_free), ("max_bytes", max_bytes)):
        if not (value is None or (isinstance(value, (int, float)) and value >= 0)):
            raise BadSettingError(name, str(value), "is not a number of bytes")
    given: dict[str, Any] = {
        "folder": None if folder is None else Path(folder),
        "min_disk_free": min_disk_free,
        "max_bytes": max_bytes,
        "remote": read_store_folder(remote, "remote") if remote else remote,
        "remote_mode": None if remote_mode is None else _MODE(remote_mode, "remote_mode"),
        "remote_max_age": remote_max_age,
    }
    usual = CacheSettings.from_environment(os.environ)
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def open_remote(
    store: Store,
    chosen: CacheSettings,
    settings: Settings,
    given: Settings,
    hasher: BackgroundHasher,
) -> RemoteCopies:
    """Return the remote tier of the cache in `store`.

    Args:
        store: the cache.
        chosen: say where the tier is.
        settings: of the cache, under its policy.
        given: those before a policy took anything away: the tier is the operator's, not a caller's.
        hasher: computes digests.
    """
    from pgetpy.weights.remote_copies import RemoteCopies
    from pgetpy.weights.remote_store import RemoteStore
    from pgetpy.weights.remote_tier import RemoteTier

    remote = RemoteStore(chosen.remote, given, os.environ)
    tier = RemoteTier(remote, settings, chosen.remote_max_age)
    writes = chosen.remote_mode == "readwrite"
    return RemoteCopies(store, tier, settings, hasher, writes=writes)
