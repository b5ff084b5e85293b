"""Whether a fetched object is what it should be, and the file name that loaders will see."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import BinaryIO

from pgetpy.cache.contents import files_in
from pgetpy.core.references.policy import Policy
from pgetpy.core.references.reference import Reference, Wanted
from pgetpy.core.weights.choosing import weights_among
from pgetpy.core.weights.safetensors import is_safetensors, read_header
from pgetpy.core.weights.shards import is_index_name, parse_index
from pgetpy.core.weights.sniffing import REFUSED, TELLING, FileKind, sniff
from pgetpy.errors import (
    ALL_OF_IT,
    BadSafetensorsError,
    NotOneFileError,
    NotWeightsError,
)

# Room for a mark and a suffix in a file's name.
_LONGEST_STEM = 80
_SUFFIX = ".safetensors"


def chosen_content(folder: Path, reference: Reference, name: str) -> tuple[Path, str]:
    """Return which part of the fetched object `name` to keep, and its name.

    Raises:
        NotOneFileError: it does not contain exactly one .safetensors file.
    """
    members = folder / "members"
    if not members.exists():
        return folder / "object", name
    if reference.wanted is Wanted.FOLDER:
        return members, name
    files = sorted(path for path in files_in(members) if path.is_file() and not path.is_symlink())
    found = weights_among(path.relative_to(members).as_posix() for path in files)
    if len(found) == 1:
        path = members / found[0]
        return path, path.name
    raise NotOneFileError(str(reference), _SUFFIX, found, hint=ALL_OF_IT)


def examine(source: Path, reference: Reference, name: str, *, any_file: bool) -> str:
    """Check that `source` is weights, and return the name that loaders will see.

    Args:
        name: the object's name.

    Raises:
        NotWeightsError: it is not a weights file, or a damaged one.
    """
    stem, suffix = _stem(name)
    if source.is_dir():
        return stem
    size = source.stat().st_size
    with source.open("rb") as file:
        found = sniff(file.read(TELLING))
        if found.kind is FileKind.SAFETENSORS:
            check_header(file, size, str(reference))
            return stem + _SUFFIX
    if any_file or (found.kind is FileKind.JSON and _is_index(source, name)):
        return stem + suffix
    if found.kind in REFUSED or suffix.lower() == _SUFFIX:
        raise NotWeightsError(str(reference), found.kind.value, found.words, hint=_hint(found.kind))
    return stem + suffix


def _is_index(source: Path, name: str) -> bool:
    """Whether `source` is the index of a checkpoint of several safetensors files."""
    if not is_index_name(name):
        return False
    try:
        return bool(parse_index(source.read_bytes()).shards)
    except BadSafetensorsError:
        return False


def check_header(file: BinaryIO, size: int, shown: str) -> None:
    """Check the header of an open safetensors file of `size` bytes; errors call it `shown`.

    Raises:
        NotWeightsError: it is malformed.
    """
    try:
        read_header(partial(_beginning, file), size)
    except BadSafetensorsError as error:
        raise error.of(shown) from error


def check_safetensors(source: Path, reference: Reference) -> None:
    """Check that `source`, a file or all files of a folder, is safetensors only.

    The error does not say what it is instead, as the caller is untrusted.

    Raises:
        NotAllowedError: it is not.
    """
    reason = ""
    if not source.is_dir():
        reason = "" if _is_safetensors(source) else "it is not a safetensors file"
    elif not all(_is_safetensors(path, named=True) for path in files_in(source)):
        reason = "not all of its files are safetensors"
    elif not any(files_in(source)):
        reason = "it holds no file"
    if reason:
        raise Policy.not_safetensors(str(reference), reason)


def _is_safetensors(path: Path, *, named: bool = False) -> bool:
    """Whether `path` is a safetensors file, and where it is to be `named` so, is."""
    if path.is_symlink() or not path.is_file() or (named and path.suffix.lower() != _SUFFIX):
        return False
    with path.open("rb") as file:
        return is_safetensors(partial(_beginning, file), path.stat().st_size)


def _beginning(file: BinaryIO, count: int) -> bytes:
    file.seek(0)
    return file.read(count)


def _hint(kind: FileKind) -> str:
    if kind in (FileKind.PICKLE, FileKind.JSON, FileKind.TEXT):
        return "pass any_file=True (--any-file) if that is what you want"
    return ""


def _stem(name: str) -> tuple[str, str]:
    """Return the beginning of an entry's name and its suffix."""
    stem, suffix = os.path.splitext(name or "weights")
    short = stem.encode(errors="replace")[:_LONGEST_STEM].decode(errors="ignore")
    return short or "weights", suffix[:16].encode(errors="replace").decode()
