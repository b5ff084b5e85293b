"""Weights made for the tests, caches that keep them, and what is left where nobody is at work."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgetpy import WeightsDownloadCache
from pgetpy.core.cache.records import Record, parse_record, record_lines
from tests.support.bodies import body
from tests.support.entries import Child, child, left_over
from tests.support.fetching import impatient
from tests.support.resources import Resource
from tests.support.server import Server

MIB = 1 << 20


def weights(size: int = 10_000, seed: object = "v1") -> bytes:
    """A safetensors file with one tensor of `size` bytes, which tell one `seed` from another."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"weight": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + body(size, str(seed))


def tar_of(members: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar; `mode` is tarfile's, `w:gz` for one that is compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def serve(
    server: Server, data: bytes | None = None, path: str = "/lora.safetensors", **fields: Any
) -> str:
    """Serve `data`, by default some weights; fields are those of Resource. Return the URL."""
    return server.add(path, Resource(weights() if data is None else data, **fields))


def serve_many(server: Server, names: str, size: int = 10_000) -> dict[str, str]:
    """Serve different weights, one for each letter; return their URLs."""
    return {name: serve(server, weights(size, name), f"/{name}.safetensors") for name in names}


def opened(root: Path | str, **options: Any) -> WeightsDownloadCache:
    """A cache that needs no free disk and sees a failure soon; fields of Settings are options."""
    own = {"max_bytes", "lower", "refresh", "any_file", "progress", "min_disk_free"}
    own |= {"remote", "remote_mode", "remote_max_age"}
    call = {name: options.pop(name) for name in own & options.keys()}
    call.setdefault("min_disk_free", 0)
    return WeightsDownloadCache(root, settings=impatient(**options), **call)


def ensuring(root: Path, *urls: str, **options: Any) -> AbstractContextManager[Child]:
    """A process that ensures `urls`, says the path of each, and waits for a line of input."""
    code = f"""
from tests.support.weights import *
cache = opened(sys.argv[1], **{options!r})
say("ready")
for url in sys.argv[2:]:
    say(cache.ensure(url))
input()
"""
    return child(code, root, *urls)


def names_in_cache(cache: WeightsDownloadCache) -> set[str]:
    """What the files of all entries are called at their source, without the suffix."""
    found = [listing.record.about.reference for listing in cache.entries()]
    return {reference.rpartition("/")[2].partition(".")[0] for reference in found}


def partials(root: Path) -> list[Path]:
    """All files that are on their way, or left by who died."""
    return [path for path in (root / "partial").rglob("*") if path.is_file()]


def only_record(cache: WeightsDownloadCache) -> Record:
    (listing,) = cache.entries()
    return listing.record


def rewrite(cache: WeightsDownloadCache, **changes: Any) -> None:
    """Change the record of the only entry."""
    key = only_record(cache).key
    path = cache.path / "entries" / key[:2] / key
    record = parse_record(path.read_bytes())
    assert record is not None
    path.write_bytes(record_lines(replace(record, **changes)))


def flip(path: Path) -> None:
    """The last bit of a file is another, its size and time are not."""
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(data) - 1)
        file.write(bytes([data[-1] ^ 1]))


def assert_nothing_left(root: Path) -> None:
    """Once swept, nothing stands in the cache but its entries."""
    with opened(root) as cache:
        cache.sweep()
    assert left_over(root) == []
