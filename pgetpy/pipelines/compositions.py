"""Manifests of compositions: which LoRAs were put on a base on disk, and with which scales.

    KEY/compositions/COMPOSITION.json

They are beside the base's tree, so they leave the disk with it. Each appears by rename. They only
tell what there was: a composition is made of the base and of LoRAs in the cache, not of them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pgetpy.cache.layout import token
from pgetpy.core.pipelines.build_manifest import BuildManifest, parse_manifest
from pgetpy.errors import IntegrityError
from pgetpy.pipelines.tree_links import read_small

_FOLDER = "compositions"
_SUFFIX = ".json"
# A scale is part of a composition, and callers may choose any: the oldest manifests are removed.
_MOST = 100


def note_composition(place: Path, manifest: BuildManifest) -> None:
    """Keep the manifest of a composition beside its base at `place`, if that can be written."""
    path = place / _FOLDER / f"{manifest.key}{_SUFFIX}"
    if path.exists():
        return
    with contextlib.suppress(OSError):  # a read-only file system, or the base is being removed
        path.parent.mkdir(exist_ok=True)
        own = path.parent / f"{token()}.tmp"
        own.write_bytes(manifest.to_json())
        os.replace(own, path)
        for old in _newest_first(path.parent)[_MOST:]:
            old.unlink()


def compositions_at(place: Path) -> list[BuildManifest]:
    """Return the manifests beside the base at `place`, newest first, without damaged ones."""
    found = []
    for path in _newest_first(place / _FOLDER):
        with contextlib.suppress(IntegrityError, OSError):
            manifest = parse_manifest(read_small(path), path.name)
            if manifest.key == path.name.removesuffix(_SUFFIX):
                found.append(manifest)
    return found


def _newest_first(folder: Path) -> list[Path]:
    try:
        found = [(each.stat().st_mtime_ns, each) for each in folder.iterdir()]
    except OSError:
        return []
    return [each for _, each in sorted(found, reverse=True) if each.suffix == _SUFFIX]
