"""From a manifest to a lock: what each reference means at this moment, with a digest.

repository --> its files, each at the commit that was found
file whose service gives its sha256 --> nothing is fetched
any other file --> fetched into the cache, as the build will need it anyway, and hashed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pgetpy.cache.contents import digest_of
from pgetpy.core.generations.lock import (
    EnvironmentLine,
    FileLine,
    GenerationLock,
    LockedEnvironment,
)
from pgetpy.core.generations.manifest import GenerationManifest, check_dest, check_lines
from pgetpy.core.references.reference import Reference
from pgetpy.errors import BadManifestError, UsageError
from pgetpy.system.event_loop import gather_limited, run_blocking
from pgetpy.system.threads import WORKERS
from pgetpy.weights.cache import WeightsDownloadCache
from pgetpy.weights.members import exact_text, member_text
from pgetpy.weights.options import named

if TYPE_CHECKING:
    from pgetpy.engine.engine import Engine
    from pgetpy.sources.base import RemoteFile

# Lines that are resolved at the same time.
_AT_A_TIME = 20
_WEIGHTS = ".safetensors"


def lock_manifest(
    manifest: GenerationManifest, cache: WeightsDownloadCache, path: str
) -> GenerationLock:
    """Return the lock of what a manifest means at this moment.

    Args:
        manifest: its lines may be without digests.
        cache: how services are asked, and where files are fetched that have to be hashed.
        path: what errors call the manifest.

    Raises:
        BadManifestError: a line means several files and has no folder for them, or two lines mean
            the same path.
        PgetError: a service does not answer, or a file cannot be fetched.
    """
    environments = tuple(_locked(each) for each in manifest.environments)
    files = run_blocking(_resolve_all(manifest.files, cache, path))
    # Of repositories it is known only now which files they have.
    check_lines(files, path)
    return GenerationLock(manifest.number, tuple(files), environments)


def _locked(environment: EnvironmentLine | LockedEnvironment) -> LockedEnvironment:
    if isinstance(environment, LockedEnvironment):
        return environment
    # Imported here: few generations have environments.
    from pgetpy.generations import environments

    return environments.lock(environment)


async def _resolve_all(
    lines: Sequence[FileLine], cache: WeightsDownloadCache, path: str
) -> list[FileLine]:
    from pgetpy.engine.engine import Engine

    async with Engine(cache.settings) as engine:
        resolver = _LineResolver(cache, engine, path)
        works = [partial(resolver.resolve, each) for each in lines]
        found = await gather_limited(works, _AT_A_TIME)
    return [line for several in found for line in several]


class _LineResolver:
    """Finds out what lines mean.

    Args:
        cache: fetches what has to be hashed.
        engine: asks the services.
        path: what errors call the manifest.
    """

    def __init__(self, cache: WeightsDownloadCache, engine: Engine, path: str) -> None:
        self._cache = cache
        self._sources = cache.settings.sources
        self._engine = engine
        self._path = path
        # Of the files that are fetched, for progress.
        self._numbers = count()

    async def resolve(self, line: FileLine) -> list[FileLine]:
        """Return the locked lines that a line means."""
        if line.digest:
            return [line]
        try:
            reference = named(line.url, self._sources)
            if reference.several:
                return await self._resolve_folder(line, reference)
            return [await self._resolve_file(line)]
        except UsageError as error:
            raise BadManifestError(self._path, line.line, str(error)) from None

    async def _resolve_file(self, line: FileLine) -> FileLine:
        reference = named(line.url, self._sources, wanted="file")
        located = await self._engine.locate(reference)
        remote = located.objects[0]
        text = exact_text(reference, located.version, self._sources) or line.url
        name = remote.name or reference.name
        dest = f"{line.dest}{name}" if line.dest.endswith("/") else line.dest
        return await self._with_digest(replace(line, url=text, dest=dest), remote)

    async def _resolve_folder(self, line: FileLine, reference: Reference) -> list[FileLine]:
        if line.extract:
            raise UsageError(f"{reference} is a folder already: -x is for archives")
        if not line.dest.endswith("/"):
            raise UsageError(f"{reference} has several files: write {line.dest}/ as their folder")
        located = await self._engine.locate(named(line.url, self._sources, wanted="folder"))
        works = []
        for remote in located.objects:
            text = member_text(reference, remote.name, located.version, self._sources)
            dest = f"{line.dest}{remote.name}"
            check_dest(dest)  # the name comes from the service
            works.append(partial(self._with_digest, replace(line, url=text, dest=dest), remote))
        return await gather_limited(works, _AT_A_TIME)

    async def _with_digest(self, line: FileLine, remote: RemoteFile) -> FileLine:
        """Return the line with its digest; the file is fetched if its service does not give it."""
        known = remote.digest
        if known is not None and known.algorithm == "sha256":
            return replace(line, digest=str(known))
        # Weights have to be what their name says; of anything else it is not known.
        is_weights = line.dest.endswith(_WEIGHTS)
        with self._cache.hold(line.url, wanted="file"):
            path = await self._cache.ensure_async(
                line.url,
                fresh=True,
                any_file=not is_weights,
                number=next(self._numbers),
                wanted="file",
            )
            digest = await WORKERS.submit(lambda: self._digest_of(line.url, path))
        return replace(line, digest=digest)

    def _digest_of(self, url: str, path: Path) -> str:
        record = self._cache.record(url, wanted="file")
        return (record.digest if record is not None else "") or digest_of(path) or ""
