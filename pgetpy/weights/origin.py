"""What an origin says about its version of an object, by an answer to a request for one byte."""

from __future__ import annotations

from urllib.parse import urlsplit

from pgetpy.core.http.answers import Identity
from pgetpy.core.references.reference import Reference
from pgetpy.engine.engine import Engine
from pgetpy.sources.base import Located, RemoteFile


async def is_current(
    identity: Identity, reference: Reference, engine: Engine, *, proven: bool = True
) -> bool:
    """Whether the origin of `reference` has the version `identity`.

    Args:
        identity: the version.
        reference: one object or a folder.
        engine: makes the requests.
        proven: whether a validator has to say so: that the size is the same says nothing.

    Raises:
        TransferError: it is forbidden, or cannot be reached.
    """
    located = await engine.locate(reference)
    with engine.explaining(reference):
        shown = [await engine.identify(each) for each in _most_telling(located)]
    now = version_of(located) if located.folder else shown[0]
    return now.agrees(identity) and bool(now.etag or now.last_modified or not proven)


def version_of(located: Located) -> Identity:
    """Return a version for a folder, from those of its files."""
    sizes = [remote.size for remote in located.objects]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    return Identity(total, f'"{located.version}"' if located.version else None)


def _most_telling(located: Located) -> list[RemoteFile]:
    """Return for each host the object that is the best evidence of access to all others there.

    Services often show a repository's page or licence to users who may not download its weights, so
    the largest file is asked for.
    """
    largest: dict[str, RemoteFile] = {}
    for remote in sorted(located.objects, key=lambda remote: remote.size or 0):
        largest[urlsplit(remote.url).netloc] = remote
    return list(largest.values())
