"""Uploads to a scripted store, in small parts and with little patience."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pgetpy
from pgetpy.core.report.uploads import UploadResult
from pgetpy.settings import SourceSettings
from tests.support.bodies import body
from tests.support.fetching import impatient
from tests.support.object_store import ObjectStore

MIB = 1 << 20
PART = 5 * MIB
# Four parts.
BODY = body(3 * PART + 12_345)
_OF_THE_CALL = ("if_absent", "content_type", "cache_control")


def put(
    path: Path, target: str, environ: Mapping[str, str], progress: object = None, **options: object
) -> UploadResult:
    """Upload `path`; `options` are those of the call, and settings."""
    call = {name: options.pop(name) for name in list(options) if name in _OF_THE_CALL}
    settings = impatient(sources=SourceSettings(environ=environ), **{"chunk_size": PART, **options})
    return pgetpy.upload(path, target, settings=settings, progress=progress, **call)


def stored(store: ObjectStore, key: str) -> bytes:
    return store.objects["bucket"][key].body


def sent_parts(store: ObjectStore) -> list[int]:
    """The numbers of the parts that were sent, sorted."""
    found = [each for each in store.requests if each.method == "PUT" and "partNumber" in each.query]
    return sorted(int(each.query["partNumber"]) for each in found)
