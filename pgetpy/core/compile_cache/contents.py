"""Whether a compiled file is whole, and what of it depends on the folder that it is in.

A process that is killed while it links leaves an empty .so, and every later start fails on it. A
truncated .py does so for ever, as torch does not write what exists. Both are told from the bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import struct
from collections.abc import Iterable, Mapping

from pgetpy.core.compile_cache.layouts import is_group, is_merged

ELF_SUFFIXES = (".so", ".cubin", ".hsaco")
# Beginnings, and lengths of what `damage` wants to see of a file.
HEAD_BYTES = 64
# What is seen as a whole is in memory as a whole; compilers' tables and sources are small.
LARGEST_SEEN_WHOLE = 32 << 20
_SEEN_WHOLE = (".json", ".py", ".best_config", ".cpp")
_PICKLES = ("fxgraph/", "aotautograd/")


def is_seen_whole(kind: str, path: str) -> bool:
    """Whether `damage` has to be given all of a file; of others `HEAD_BYTES` are enough."""
    return (
        path.endswith(_SEEN_WHOLE)
        or is_merged(kind, path)
        or (kind == "inductor" and path.startswith(_PICKLES))
    )


def damage(kind: str, path: str, head: bytes, size: int) -> str:
    """Return what is wrong with a file, as a clause; empty if nothing is found.

    Args:
        kind: of the folder it is in.
        path: its path there.
        head: all of it if `is_seen_whole`, else its first bytes.
        size: of the file.
    """
    if not size:
        # Packages have empty ones.
        return "" if path.endswith("__init__.py") else "is empty"
    if path.endswith(ELF_SUFFIXES):
        return _elf_damage(head, size)
    if path.endswith((".json", ".best_config")) or is_merged(kind, path):
        return _json_damage(head)
    if kind == "inductor" and path.startswith(_PICKLES):
        return _name_damage(path, head)
    return "has zero bytes where text should be" if _is_text(path) and b"\0" in head else ""


def _is_text(path: str) -> bool:
    return path.endswith((".py", ".cpp"))


def _elf_damage(head: bytes, size: int) -> str:
    """Check the header of an ELF file, and that its section table, which comes last, is there.

    Source: the ELF-64 object file format, "ELF Header".
    """
    if head[:4] != b"\x7fELF" or len(head) < HEAD_BYTES or head[4:6] != b"\x02\x01":
        return "is not a shared object for this machine"
    (table,) = struct.unpack_from("<Q", head, 40)
    each, count = struct.unpack_from("<HH", head, 58)
    return "is truncated" if table + each * count > size else ""


def _json_damage(data: bytes) -> str:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return "is not JSON"
    return ""


def _name_damage(path: str, data: bytes) -> str:
    """torch names these files by their content; older versions give other names."""
    name = posixpath.basename(path)
    if len(name) != _NAME_LENGTH:
        return ""
    return "" if content_name(data) == name else "does not have the content that its name says"


_NAME_LENGTH = 51


def content_name(data: bytes) -> str:
    """Return the name that torch gives a file with this content (codecache.sha256_hash)."""
    digest = base64.b32encode(hashlib.sha256(data).digest())
    return digest[:_NAME_LENGTH].decode().lower()


# ----------------------------------------------------------------------------- groups of Triton


def portable_group(data: bytes) -> bytes:
    """Return a group file of Triton with names of files in place of their absolute paths.

    Raises:
        ValueError: it is not a group file.
    """
    found = _group(data)
    found["child_paths"] = {
        name: posixpath.basename(path) for name, path in found["child_paths"].items()
    }
    return json.dumps(found, sort_keys=True).encode()


def placed_group(data: bytes, folder: str) -> bytes:
    """Return a group file from a store with the paths that it needs in `folder`.

    Raises:
        ValueError: it is not a group file, or names something outside of its folder.
    """
    found = _group(data)
    children = found["child_paths"]
    if any(posixpath.basename(name) != name or name in ("", "..") for name in children.values()):
        raise ValueError("it names files of another folder")
    found["child_paths"] = {name: f"{folder}/{child}" for name, child in children.items()}
    return json.dumps(found).encode()


def children_of(data: bytes) -> set[str]:
    """Return the names of the files that a group file needs beside it.

    Raises:
        ValueError: it is not a group file.
    """
    return {posixpath.basename(path) for path in _group(data)["child_paths"].values()}


def _group(data: bytes) -> dict[str, dict[str, str]]:
    found = json.loads(data)
    children = found.get("child_paths") if isinstance(found, dict) else None
    if not isinstance(children, dict) or not all(isinstance(p, str) for p in children.values()):
        raise ValueError("it has no child_paths")
    return dict(found)


def portable(kind: str, path: str, data: bytes) -> bytes:
    """Return the content that goes to a store: the same in whichever folder it was, and for tables
    in whichever order they were filled.

    Raises:
        ValueError: it is not what its name says.
    """
    if is_merged(kind, path):
        return _table(json.loads(data))
    return portable_group(data) if is_group(kind, path) else data


# -------------------------------------------------------------------------- tables that are united


def united_table(versions: Iterable[bytes]) -> bytes | None:
    """Return one JSON table with what all `versions` have; the first that knows a key wins.

    None if one is not a table.
    """
    united: dict[str, object] = {}
    for data in versions:
        try:
            found = json.loads(data)
        except ValueError:
            return None
        if not isinstance(found, Mapping):
            return None
        united = _joined(united, found)
    return _table(united)


def _table(value: object) -> bytes:
    """Return a table in one form.

    As torch writes it: choices that could not be timed have `Infinity`, which is not JSON proper.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _joined(one: Mapping[str, object], two: Mapping[str, object]) -> dict[str, object]:
    joined = dict(one)
    for name, value in two.items():
        mine = joined.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            joined[name] = _joined(mine, value)
        else:
            joined.setdefault(name, value)
    return joined
