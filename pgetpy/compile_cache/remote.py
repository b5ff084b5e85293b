"""A location in an object store, or behind a web server: asked and filled by the engine.

s3://BUCKET/PREFIX      listed, read, written
https://HOST/PREFIX     read; what a listing would say is in v1/KEY/index.json, which
                        `pgetpy compile-cache publish` writes

Each call opens an engine and closes it again: a load makes few requests, at the start of a process,
and idle connections would be of no use later. Calls block, and look at the cancel flag in between.
Packs are verified by the engine as they arrive (their name is their sha256); seals are small and
read whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pgetpy.compile_cache.locations import CacheLocation
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.core.compile_cache.seals import LARGEST_SEAL
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import ignore_event
from pgetpy.core.report.results import DownloadFailure
from pgetpy.engine.engine import Engine
from pgetpy.errors import (
    HttpStatusError,
    NotFoundError,
    ObjectExistsError,
    PgetError,
    TransferError,
)
from pgetpy.errors.redact import redact
from pgetpy.settings import Settings
from pgetpy.sources.object_bucket import NOTHING_THERE
from pgetpy.sources.table import parse_reference
from pgetpy.system.event_loop import run_blocking

INDEX = "index.json"


class RemoteLocation(CacheLocation):
    """A location that is asked over the network.

    Args:
        url: of the folder.
        settings: hosts, credentials, retries.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._url = url.rstrip("/")
        self._settings = settings
        self._is_store = not url.lower().startswith(("http://", "https://"))
        self.readable_only = not self._is_store
        self.shown = redact(self._url)

    def names(self, folder: str) -> dict[str, int]:
        if not self._is_store:
            return self._index(folder)
        listed = run_blocking(self._list(folder))
        found: dict[str, int] = {}
        for name, size in listed.items():
            first, slash, _ = name.partition("/")
            found[first + slash] = 0 if slash else size
        return found

    async def _list(self, folder: str) -> dict[str, int]:
        """Return the names of all objects below `folder`, with their sizes.

        Stores have no folders, so a listing goes all the way down: `names` cuts it to one level.
        Keys have a handful of objects each, and a page of a listing has a thousand.
        """
        reference = parse_reference(
            f"{self._url}/{folder}/", "folder", settings=self._settings.sources
        )
        try:
            async with Engine(self._settings) as engine:
                located = await engine.locate(reference)
        except TransferError as error:
            if error.reason == NOTHING_THERE:
                return {}
            raise
        return {each.name: each.size or 0 for each in located.objects}

    def _index(self, folder: str) -> dict[str, int]:
        """Return what the index of a key says is in `folder`.

        A web server that has no index, or is asked for the list of all keys, has nothing to say:
        then a load is a miss, without the nearest key.
        """
        parts = folder.split("/")
        if len(parts) != 3:
            return {}
        base = "/".join(parts[:2])
        data = self.read(base, [INDEX], CancelFlag()).get(INDEX)
        if data is None:
            return {}
        try:
            listed = json.loads(data)[parts[2]]
            # A server has written it, and files are made with these names.
            return {name: int(size) for name, size in listed.items() if "/" not in name}
        except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise TransferError(f"{self._url}/{base}/{INDEX}", "it is not an index") from None

    def read(
        self, folder: str, names: Iterable[str], flag: CancelFlag, most: int = LARGEST_SEAL
    ) -> dict[str, bytes]:
        contents = {}
        with tempfile.TemporaryDirectory(prefix="pgetpy-seals-") as spool:
            jobs = [Job(self._address(f"{folder}/{name}"), f"{spool}/{name}") for name in names]
            for job, failure in zip(
                jobs, run_blocking(self._download(jobs), flag.check), strict=True
            ):
                if failure is not None:
                    if not _is_absent(failure):
                        raise failure
                    continue
                path = Path(job.dest or "")
                if path.stat().st_size <= most:
                    contents[path.name] = path.read_bytes()
        return contents

    def fetch(self, name: str, sha256: str, spool: Path, flag: CancelFlag) -> Path:
        path = spool / name.rpartition("/")[2]
        job = Job(self._address(name), str(path), Checksum("sha256", sha256))
        (failure,) = run_blocking(self._download([job]), flag.check)
        if failure is not None:
            raise failure
        return path

    async def _download(self, jobs: Sequence[Job]) -> list[PgetError | None]:
        """Download `jobs`; return what went wrong with each."""
        async with Engine(self._settings) as engine:
            outcomes = await engine.download_all(jobs, ignore_event, fail_fast=False)
        return [each.error if isinstance(each, DownloadFailure) else None for each in outcomes]

    def put(self, name: str, source: Path, *, replace: bool = False) -> None:
        from pgetpy.engine.uploads.options import UploadOptions
        from pgetpy.engine.uploads.paths import upload_path

        options = UploadOptions(if_absent=not replace, content_type="application/octet-stream")
        uploading = upload_path(
            str(source), self._address(name), options, self._settings, ignore_event, os.environ
        )
        # Names are made from the content or the key: what is there already is the same.
        with contextlib.suppress(ObjectExistsError):
            run_blocking(uploading)

    def remove(self, name: str) -> None:
        from pgetpy.engine.uploads.removal import remove_object

        run_blocking(remove_object(self._address(name), self._settings))

    def _address(self, name: str) -> str:
        """Return the URL or reference of a file."""
        base, question, query = self._url.partition("?")
        return f"{base}/{name}{question}{query}"


def _is_absent(error: PgetError) -> bool:
    """Whether the server says that there is no such file.

    A seal may go between the listing and the request: `prune` and `rm` take seals away first.
    """
    status = error.status if isinstance(error, HttpStatusError) else 0
    return status in (404, 410) or isinstance(error, NotFoundError)
