"""Pins: entries that stay until their pins are gone.

    pins/KEY             of the users of the cache
    pins/KEY.OWNER       of a program, for itself
    pins/TOKEN.OWNER     of a program, for many keys: 32 bytes for each

A file for each of thousands of keys takes as long as linking their contents. A list appears by
rename, so that it holds all of its keys or does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pgetpy.cache.layout import KEY_LENGTH, CachePaths, discard, token
from pgetpy.system.filesystem import names_in


def add_pin(layout: CachePaths, key: str, owner: str) -> None:
    """Keep the entry under `key` for `owner`."""
    os.close(os.open(_path(layout, key, owner), os.O_WRONLY | os.O_CREAT, 0o666))


def remove_pin(layout: CachePaths, key: str, owner: str) -> bool:
    """Remove one pin that `add_pin` has made; return False if there is none."""
    return discard(_path(layout, key, owner))


def write_pins(layout: CachePaths, keys: Iterable[str], owner: str) -> None:
    """Keep the entries under `keys` for `owner`."""
    scratch = layout.scratch(owner)
    try:
        with open(scratch, "wb") as file:
            file.write(bytes.fromhex("".join(keys)))
        os.replace(scratch, _path(layout, token(), owner))
    finally:
        discard(scratch)


def remove_pins(layout: CachePaths, owner: str) -> int:
    """Remove all pins of a program; return how many there were."""
    found = pins_in(layout).get(owner, set())
    for name in names_in(layout.at("pins")):
        if name.endswith(f".{owner}"):
            discard(layout.at("pins", name))
    return len(found)


def pins_in(layout: CachePaths) -> dict[str, set[str]]:
    """Return the pinned keys by owner; "" are the users of the cache."""
    found: dict[str, set[str]] = {}
    for name in names_in(layout.at("pins")):
        key, _, owner = name.partition(".")
        keys = (key,) if len(key) == KEY_LENGTH else _listed(layout.at("pins", name))
        found.setdefault(owner, set()).update(keys)
    return found


def _listed(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            text = file.read().hex()
    except OSError:  # removed a moment ago
        return []
    return [text[at : at + KEY_LENGTH] for at in range(0, len(text), KEY_LENGTH)]


def _path(layout: CachePaths, name: str, owner: str) -> str:
    return layout.at("pins", f"{name}.{owner}" if owner else name)
