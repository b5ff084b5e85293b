"""Folders of models, wherever they are: their files, each with a reference of its own.

The cache keeps each file as one entry, so a text encoder that two repositories share is there once,
and other users of the cache find it under its usual name. So a file of a listed folder gets the
reference that a person would write for it, at the version that was listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pgetpy.core.objects.names import parse_object_name
from pgetpy.core.pipelines.build_manifest import is_safe_path
from pgetpy.core.pipelines.configs import MODEL_INDEX
from pgetpy.core.pipelines.files import may_belong
from pgetpy.core.references.local_urls import file_path
from pgetpy.core.references.reference import Reference, is_archive_name
from pgetpy.engine.engine import Engine
from pgetpy.errors import BadReferenceError, UnsafeMemberError
from pgetpy.errors.redact import redact
from pgetpy.settings import SourceSettings
from pgetpy.sources.base import NO_FACTS, ModelFacts, RemoteFile
from pgetpy.weights.members import COMMIT, OBJECT_STORES, exact_text, hub_name_of, member_text
from pgetpy.weights.options import named

_SUFFIX = ".safetensors"
# How deep a local folder is looked through.
_DEEPEST = 2


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: its path below the folder, or its own name.
        reference: fetches it; it may contain secrets. A path if it is local.
        uri: the same, without secrets.
        remote: where it is; None if it is local.
        size: bytes; None if they are not known.
        pinned: whether `reference` always means the same content.
        member: where it is in the archive that `reference` names; empty if it is in none.
    """

    name: str
    reference: str
    uri: str
    remote: RemoteFile | None
    size: int | None
    pinned: bool = False
    member: str = ""


@dataclass(frozen=True)
class LocatedModel:
    """What a reference of a model, or of a part of one, means at this moment.

    Attributes:
        files: its files; a single one unless it is a folder.
        folder: whether it is a folder.
        archive: whether the one file is an archive.
        uri: the reference, without secrets.
        version: of the folder, such as a commit.
        pinned: whether the reference always means the same content.
        facts: what its service says about it.
    """

    files: tuple[ModelFile, ...]
    folder: bool
    archive: bool
    uri: str
    version: str
    pinned: bool
    facts: ModelFacts = NO_FACTS


async def locate_model(
    text: str, engine: Engine, sources: SourceSettings, wanted: str = "auto"
) -> LocatedModel:
    """Return the files that `text` means, without fetching any.

    Args:
        text: a local folder or file, or any reference; a folder of an object store may be written
            without its last slash.
        engine: asks the services.
        sources: their settings.
        wanted: `folder` for all files of a repository; `auto` for the one that holds its weights.

    Raises:
        TransferError: a service refuses, or does not answer.
        BadReferenceError: no source knows it, or there is nothing.
        UnsafeMemberError: a listed name is not safe as a path.
    """
    local = _local_path(text)
    if local is not None:
        return _local_model(local)
    if ":" not in text:
        reason = "there is no such file or folder; a repository of the Hub is hf://OWNER/NAME"
        raise BadReferenceError(text, reason)
    reference = named(_as_folder(text) if wanted == "folder" else text, sources, wanted="auto")
    if wanted == "folder" and reference.several:
        reference = named(_as_folder(text), sources, wanted="folder")
    located = await engine.locate(reference)
    pinned = is_pinned(reference, sources)
    if reference.several and located.folder:
        files = tuple(_members(reference, located.objects, located.version, sources))
        return LocatedModel(
            files, True, False, str(reference), located.version, pinned, located.facts
        )
    remote = located.objects[0]
    if remote.size is None and not reference.local:
        with engine.explaining(reference):
            identity = await engine.identify(remote)
        version = remote.etag or identity.etag or identity.last_modified or ""
        remote = replace(remote, size=identity.total, etag=version)
    name = remote.name or reference.name
    exact = exact_text(reference, located.version, sources)
    text = exact or text
    file = ModelFile(
        name, text, _shown(text, reference), remote, remote.size, bool(exact) or pinned
    )
    version = located.version or remote.etag
    return LocatedModel(
        (file,), False, located.extract, str(reference), version, pinned, located.facts
    )


def locate_members(model: LocatedModel, folder: Path) -> LocatedModel:
    """Return the files of the model in an archive.

    Args:
        model: the archive.
        folder: where it is extracted; the model may be in a folder of its own in it.
    """
    (archive,) = model.files
    found = sorted(folder.glob(MODEL_INDEX)) or sorted(folder.glob(f"*/{MODEL_INDEX}"))
    # Without an index it is refused later; of several models none is the one.
    top = found[0].parent if len(found) == 1 else folder
    files = []
    for path in _below(top, _DEEPEST):
        name, member = path.relative_to(top).as_posix(), path.relative_to(folder).as_posix()
        if may_belong(name):
            uri, size = f"{archive.uri}#{member}", path.stat().st_size
            files.append(replace(archive, name=name, uri=uri, size=size, member=member))
    return replace(model, files=tuple(files), folder=True, archive=False)


def is_pinned(reference: Reference, sources: SourceSettings) -> bool:
    """Whether `reference` always means the same content: a commit, a version, or the bytes."""
    if reference.by_content:
        return True
    hub = hub_name_of(reference, sources)
    if hub is not None:
        return COMMIT.fullmatch(hub.revision) is not None
    return reference.text.startswith(OBJECT_STORES) and bool(
        parse_object_name(reference.text).version
    )


def _members(
    reference: Reference, objects: Sequence[RemoteFile], version: str, sources: SourceSettings
) -> Iterator[ModelFile]:
    for remote in objects:
        if not may_belong(remote.name):
            continue
        if not is_safe_path(remote.name):
            raise UnsafeMemberError(remote.name, "it is not a plain path")
        text = member_text(reference, remote.name, version, sources)
        pinned = COMMIT.fullmatch(version) is not None
        yield ModelFile(remote.name, text, redact(text), remote, remote.size, pinned)


def _shown(text: str, reference: Reference) -> str:
    return redact(text) if text.startswith("hf://") else str(reference)


def _as_folder(text: str) -> str:
    """Return a reference to a folder of an object store with its last slash."""
    is_store = text.startswith(OBJECT_STORES)
    whole = text.endswith(("/", _SUFFIX)) or "*" in text or "?" in text or is_archive_name(text)
    return f"{text}/" if is_store and not whole else text


def _local_path(text: str) -> Path | None:
    """Return the local folder or file that `text` names; None if it is a reference."""
    if text[:5].lower() == "file:":
        path = Path(file_path(text))
        return None if is_archive_name(path.name) else path
    if "://" in text or text[:5].lower() == "data:" or not os.path.lexists(text):
        return None
    return Path(text)


def _local_model(path: Path) -> LocatedModel:
    """Return the files at a local path, with references to themselves.

    Raises:
        BadReferenceError: it cannot be read.
    """
    whole = Path(os.path.abspath(path))
    uri = whole.as_uri()
    try:
        if whole.is_dir():
            found = {each.relative_to(whole).as_posix(): each for each in _below(whole, _DEEPEST)}
            files = tuple(_local_file(at, name) for name, at in found.items() if may_belong(name))
            return LocatedModel(files, True, False, uri, "", False)
        return LocatedModel((_local_file(whole, whole.name),), False, False, uri, "", False)
    except OSError as error:
        raise BadReferenceError(uri, f"it cannot be read: {error.strerror}") from None


def _local_file(path: Path, name: str) -> ModelFile:
    return ModelFile(name, os.fspath(path), path.as_uri(), None, path.stat().st_size)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for each in sorted(folder.iterdir()):
        if each.is_file():
            yield each
        elif each.is_dir() and depth > 1:
            yield from _below(each, depth - 1)
