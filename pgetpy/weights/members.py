"""References to single files: those of a folder, and those at the version that was found.

A file of a folder gets the reference that a person would write for it, so that the cache has it
once, whichever folder it was listed in.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pgetpy.core.objects.names import ObjectName, parse_object_name
from pgetpy.core.references.hub_names import HubName, parse_hub_name
from pgetpy.core.references.reference import Reference
from pgetpy.errors import BadReferenceError
from pgetpy.settings import SourceSettings
from pgetpy.sources.huggingface import HubSettings

OBJECT_STORES = ("s3://", "b2://", "gs://", "az://")
COMMIT = re.compile(r"[0-9a-f]{40}")


def member_text(reference: Reference, name: str, version: str, sources: SourceSettings) -> str:
    """Return a reference to the file `name` of the folder `reference`.

    Raises:
        BadReferenceError: it cannot be written as a reference, or folders of this source cannot be
            taken apart.
    """
    hub = hub_name_of(reference, sources)
    if hub is not None:
        path = f"{hub.path}/{name}" if hub.path else name
        return str(HubName(hub.repo, hub.type, version or hub.revision, path, is_folder=False))
    if reference.text.startswith(OBJECT_STORES):
        folder = parse_object_name(reference.text)
        member = ObjectName(folder.scheme, folder.bucket, folder.key + name)
        # `*` and `?versionId=` in a key would be read as instructions.
        if parse_object_name(str(member)) == member:
            return str(member)
        raise BadReferenceError(str(reference), f"its file {name!r} cannot be named alone")
    raise BadReferenceError(
        str(reference), "the files of this kind of folder cannot be named one by one"
    )


def exact_text(reference: Reference, version: str, sources: SourceSettings) -> str:
    """Return the reference at the version that was found; empty if it cannot be said so."""
    hub = hub_name_of(reference, sources)
    if hub is None or not COMMIT.fullmatch(version):
        return ""
    return str(replace(hub, revision=version)) + (
        f"?{reference.patterns.query}" if reference.patterns else ""
    )


def hub_name_of(reference: Reference, sources: SourceSettings) -> HubName | None:
    """Return what `reference` names on the Hub; None if it is of another service."""
    if reference.source != "huggingface":
        return None
    return parse_hub_name(reference.text, sources.of(HubSettings).endpoint)
