"""The files of a folder that a service lists, fetched several at a time.

Their names come from outside: before anything is written they are judged like members of an
archive. Files that an earlier run left of the same version are reused, but not by callers with
another token: listing a repository does not prove access to its files.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from pgetpy.cache.contents import digest_of, files_in
from pgetpy.cache.tickets import Fill
from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.member_policy import MemberPolicy
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.http.answers import Identity
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import (
    Event,
    Failed,
    Finished,
    Progressed,
    Report,
    Started,
    StartedOver,
    Verifying,
)
from pgetpy.engine.engine import Engine
from pgetpy.errors import SizeMismatchError, UnsafeMemberError
from pgetpy.settings import Settings
from pgetpy.sources.base import Located, RemoteFile
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.file_locks import boot_id
from pgetpy.system.filesystem import fold_of, remove_tree
from pgetpy.system.threads import WORKERS
from pgetpy.weights.size_limit import SizeBudget

T = TypeVar("T")
# Beside the folder: which version it is of, whose it is, and in which boot it was written.
_MARK = "version"


class PlannedFile(NamedTuple):
    """A file's destination, and whether it is there already."""

    path: Path
    remote: RemoteFile
    whole: bool


async def gather(
    fill: Fill,
    located: Located,
    engine: Engine,
    report: Report,
    settings: Settings,
    budget: SizeBudget,
    scope: str,
) -> None:
    """Fetch the files of `located` into the folder `members` of a fill, reported as one transfer.

    Args:
        fill: the claim on the entry; its folder may hold files of an earlier run.
        located: the files, with names as the service lists them.
        engine: fetches them.
        report: is called with the events of one transfer; see `CombinedProgress`.
        settings: the limits of archives hold for listed names, too.
        budget: stops what exceeds `--max-size`, for the files together.
        scope: whose files they are; see `Reference.scope`.

    Raises:
        PgetError: one could not be fetched, or they exceed a limit; the others are stopped.
    """
    budget.note_all(located.objects)
    workers = WORKERS
    folder = fill.folder / "members"
    preparing = workers.submit(lambda: _prepare(folder, located, settings.limits, scope))
    places = await wait_uncancelled(preparing, lambda: None)
    await workers.submit(lambda: fill.reserve(sum(each.size or 0 for each in located.objects)))
    missing = {key: place for key, place in enumerate(places) if not place.whole}
    progress = CombinedProgress(report, located.objects, missing)

    async def bring(key: int) -> None:
        remote, path = missing[key].remote, missing[key].path
        await fetch_listed(engine, remote, path, budget, progress.heard, key)

    await engine.run_all([partial(bring, key) for key in missing])
    await workers.submit(lambda: _tidy(folder, {place.path for place in places}))


async def fetch_listed(
    engine: Engine,
    remote: RemoteFile,
    path: Path,
    budget: SizeBudget,
    report: Report,
    key: int,
    checksum: Checksum | None = None,
) -> None:
    """Fetch the listed file `remote` to `path`.

    The listed size is compared with the first answer, before any byte is kept: a mirror of the
    service that is out of date is noticed at once, and not by a digest after 10 GB.

    Raises:
        SizeMismatchError: the server's file has another size than the listed one.
        PgetError: it could not be fetched.
    """

    def admit(identity: Identity) -> None:
        size = identity.total
        if size is not None and remote.size not in (None, size):
            raise SizeMismatchError(remote.url, remote.size or 0, size)
        budget.note(key, size)

    job = Job(remote.url, str(path), checksum, admit=admit, claimed=True)
    await engine.fetch(remote, job, budget.hearing(report), key)


class CombinedProgress:
    """Reports many files as one transfer.

    A caller asked for one thing and gets one progress: events of single files are summed up, and
    only notes such as retries pass through as they are.

    Attributes:
        total: bytes of all `objects`; None if the size of one is unknown.
        held: bytes of those that are not `missing`, by their position in the list.
    """

    def __init__(
        self, report: Report, objects: Sequence[RemoteFile], missing: Collection[int]
    ) -> None:
        sizes = [remote.size for remote in objects]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)
        self.held = sum(size or 0 for key, size in enumerate(sizes) if key not in missing)
        self._report = report
        self._done = self.held
        self._files: Counter[int] = Counter()
        # Summing over all files at each event would take longer than fetching them.
        self._busy: dict[int, int] = {}  # connections, of files that are at work
        self._sources: dict[int, dict[str, int]] = {}
        self._by_source: Counter[str] = Counter()
        report(Started(0, "", "", self.total, self.held))

    def heard(self, event: Event) -> None:
        """Handle an event of the file `event.key`."""
        if isinstance(event, (Progressed, StartedOver)):
            done = event.done if isinstance(event, Progressed) else 0
            self._done += done - self._files[event.key]
            self._files[event.key] = done
        if isinstance(event, Progressed):
            self._note(event)
            busy = sum(self._busy.values())
            self._report(Progressed(0, self._done, self.total, busy, self.by_source))
        elif not isinstance(event, (Started, Verifying, Finished, Failed)):
            self._report(event)

    @property
    def by_source(self) -> dict[str, int]:
        """Bytes received so far by where they came from; see `DownloadResult`."""
        return dict(self._by_source)

    def _note(self, event: Progressed) -> None:
        """Replace what was known of the connections and sources of one file."""
        self._by_source.subtract(self._sources.get(event.key, {}))
        self._by_source.update(event.bytes_by_source)
        self._sources[event.key] = event.bytes_by_source
        if event.done != event.total:
            self._busy[event.key] = event.connections
        else:
            self._busy.pop(event.key, None)


def _prepare(folder: Path, located: Located, limits: Limits, scope: str) -> list[PlannedFile]:
    """Check the names and find files of this version and caller; delete everything else.

    Raises:
        UnsafeMemberError: a file's name is not allowed.
        LimitExceededError: there are too many files, or a name is too long.
    """
    paths = paths_below(folder, located.objects, limits, fold_of(folder.parent))
    mark = folder.with_name(_MARK)
    found, _, boot = _read(mark).partition("\n")
    now = boot_id()
    wanted = f"{located.version} {scope}"
    if not located.version or found != wanted:
        for path in list(folder.parent.iterdir()):
            remove_tree(path)
    folder.mkdir(exist_ok=True)
    for path in {path.parent for path in paths}:
        path.mkdir(parents=True, exist_ok=True)
    # What was written before the machine went down may be there by its name alone.
    safe = bool(now) and boot == now
    places = [
        PlannedFile(path, remote, _is_whole(path, remote, safe=safe))
        for path, remote in zip(paths, located.objects, strict=True)
    ]
    for place in places:
        if not place.whole:
            place.path.unlink(missing_ok=True)
    mark.write_text(f"{wanted}\n{now}")
    return places


def paths_below(
    folder: Path, objects: Sequence[RemoteFile], limits: Limits, fold: Callable[[str], str]
) -> list[Path]:
    """Return safe paths below `folder` for `objects`.

    Raises:
        UnsafeMemberError: a name is not allowed.
        LimitExceededError: there are too many files, or a name is too long.
    """
    member_policy = MemberPolicy(limits, fold)
    paths = []
    for remote in objects:
        entry = member_policy.admit(Member(remote.name, Kind.FILE, remote.size or 0))
        if entry is None or entry.replaces:
            raise UnsafeMemberError(remote.name, "it is listed twice")
        paths.append(folder.joinpath(*entry.parts))
    return paths


def _read(mark: Path) -> str:
    try:
        return mark.read_text()
    except (OSError, ValueError):
        return ""


def _is_whole(path: Path, remote: RemoteFile, *, safe: bool) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_size != remote.size:
        return False
    # It got its name when its digest had been verified.
    return safe or (remote.digest is not None and digest_of(path) == str(remote.digest))


def _tidy(folder: Path, wanted: set[Path]) -> None:
    """Remove the half-done work of a run that died."""
    for path in files_in(folder):
        if path not in wanted:
            path.unlink()
