"""A file, or all files below a directory, go to an object store.

    FILE   s3://BUCKET/KEY            that key
    FILE   s3://BUCKET/FOLDER/        FOLDER/ and the file's name
    DIR    s3://BUCKET/FOLDER[/]      FOLDER/ and each file's path below DIR

Files are sent in the order of their names, several at a time. There is no transaction over several
objects: after a failure, those that were uploaded stay. The same call sends all of them again, and
continues a large one where it stopped.

Links to files are followed, because a folder of weights in the Hub's cache consists of them; links
to directories are not, because they can lead in circles.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from pgetpy.core.objects.names import LONGEST_KEY, ObjectName, parse_object_name
from pgetpy.core.report.events import Failed, Queued, Report
from pgetpy.core.report.uploads import UploadResult
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.uploads.options import UploadOptions
from pgetpy.engine.uploads.upload import FileUpload
from pgetpy.errors import BadReferenceError, HttpStatusError, PgetError, SourceFileError
from pgetpy.settings import Settings
from pgetpy.sources.object_bucket import bucket_of, explain_refusal
from pgetpy.sources.table import parse_reference, store_settings
from pgetpy.system.event_loop import gather_limited, wait_uncancelled
from pgetpy.system.threads import WORKERS

_FILES_AT_A_TIME = 4


async def upload_path(
    path: str,
    target: str,
    options: UploadOptions,
    settings: Settings,
    report: Report,
    environ: Mapping[str, str],
) -> UploadResult:
    """Upload a file to `target`, or all files below a directory to keys below it.

    Args:
        path: of the file or directory.
        target: the reference of the object or folder.
        options: for every object.
        settings: hosts, credentials, retries.
        report: gets the events of each file, under its number.
        environ: says where the user's folder for state is.

    Raises:
        PgetError: a file cannot be read, or the store or the network failed; files that were
            uploaded before stay.
    """
    stores = store_settings(target, settings.sources)
    named = parse_object_name(target, stores.bucket)
    if named.version or named.pattern:
        raise BadReferenceError(target, "the target of an upload takes no version and no pattern")
    # In a thread: credentials may be read from files, or requested from a service.
    finding = WORKERS.submit(lambda: bucket_of(stores, named.bucket))
    bucket = await wait_uncancelled(finding, lambda: None)
    files = list(_files(path, named))
    report(Queued(len(files)))
    started = time.monotonic()
    hosts = Hosts(settings, WORKERS)
    done: dict[int, UploadResult] = {}

    async def send(number: int, file: str, key: str) -> None:
        one = replace(named, key=key)
        upload = FileUpload(file, one, bucket, options, settings, hosts, report, environ, number)
        try:
            done[number] = await upload.run()
        except PgetError as error:
            meaning = error
            if isinstance(error, HttpStatusError):
                # Say what the status means at this store, as for downloads.
                reference = parse_reference(str(one), settings=settings.sources)
                meaning = explain_refusal(one, reference, error, stores)
            report(Failed(number, str(one), str(one), meaning))
            raise meaning from None

    sending = [partial(send, number, *each) for number, each in enumerate(files)]
    await gather_limited(sending, _FILES_AT_A_TIME)
    results = [done[number] for number in range(len(files))]
    # A file, not a directory with one file in it, whose result lists members.
    if [file for file, _ in files] == [path]:
        return results[0]
    return _sum(path, named, results, time.monotonic() - started)


def _files(path: str, named: ObjectName) -> Iterator[tuple[str, str]]:
    """Yield each file to send, with its key. Links to directories are not followed.

    Raises:
        SourceFileError: the directory holds no files, or a name cannot be a key.
        OSError: a directory cannot be listed.
    """
    if not os.path.isdir(path):
        name = os.path.basename(path) if named.is_folder else ""
        yield path, _key(named.key + name, path)
        return
    prefix = named.key if named.is_folder else f"{named.key}/"
    count = 0
    for folder, folders, names in os.walk(path, onerror=_raise):
        folders.sort()  # in place: os.walk descends in this order
        for name in sorted(names):
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                count += 1
                yield file, _key(prefix + os.path.relpath(file, path).replace(os.sep, "/"), file)
    if not count:
        raise SourceFileError(path, "holds no files")


def _key(key: str, file: str) -> str:
    """Return `key`; raise if no store takes it, before anything is sent."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise SourceFileError(file, "has a name that is not UTF-8, as keys have to be") from None
    if size > LONGEST_KEY:
        raise SourceFileError(file, f"would have a key of {size} bytes; {LONGEST_KEY} are allowed")
    return key


def _raise(error: OSError) -> None:
    """Raise; without this os.walk skips what it cannot list."""
    raise error


def _sum(path: str, named: ObjectName, results: list[UploadResult], seconds: float) -> UploadResult:
    """Return one result for all files of a directory."""
    size, held = sum(each.size for each in results), sum(each.resumed for each in results)
    return UploadResult(
        url=path,
        final_url=str(named),
        dest=str(named),
        size=size,
        digest=None,
        seconds=seconds,
        bytes_per_second=(size - held) / seconds if seconds else 0.0,
        retries=sum(each.retries for each in results),
        resumed=held,
        connections=max((each.connections for each in results), default=0),
        requests=sum(each.requests for each in results),
        members=tuple(os.path.relpath(each.url, path) for each in results),
        parts_sent=sum(each.parts_sent for each in results),
        remarks=tuple(dict.fromkeys(remark for each in results for remark in each.remarks)),
    )
