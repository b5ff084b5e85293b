"""The class that predictors use: load before compiling, save after it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pgetpy.compile_cache.explaining import explain_survey, find_nearest
from pgetpy.compile_cache.folder import FolderLocation
from pgetpy.compile_cache.host import live_folders, read_environment
from pgetpy.compile_cache.live import (
    LiveScan,
    is_noexec,
    is_ours,
    remove_damaged,
    scan_folders,
)
from pgetpy.compile_cache.loading import CacheLoader, Loaded, Progress
from pgetpy.compile_cache.locations import CacheLocation, reason_of
from pgetpy.compile_cache.maintenance import LocationKeeper
from pgetpy.compile_cache.operations import (
    BackgroundOperation,
    CancelFlag,
    CancelledOperationError,
)
from pgetpy.compile_cache.results import CompileCacheReport, CompileCacheResult
from pgetpy.compile_cache.saving import CacheSaver
from pgetpy.compile_cache.survey import SealSurvey, read_seals
from pgetpy.compile_cache.torch_process import copy_to_own_folder, set_cache_tag, torch_counters
from pgetpy.core.compile_cache.environments import CompileEnvironment
from pgetpy.core.compile_cache.layouts import KINDS
from pgetpy.core.compile_cache.seals import Seal
from pgetpy.core.text.units import format_size
from pgetpy.errors import BadSettingError, NotAllowedError, PgetError
from pgetpy.settings import Settings
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("compile_cache")
_MODES = ("readwrite", "read", "write")
_NO_TORCH = "torch is not installed, so nothing is compiled here"
PathLike = os.PathLike[str]


@dataclass(frozen=True)
class _Job:
    """What one load or save works with."""

    environment: CompileEnvironment
    folders: dict[str, Path]
    started: float

    def result(self, outcome: str, reason: str = "", **fields: Any) -> CompileCacheResult:
        seconds = time.monotonic() - self.started
        key = self.environment.key
        return CompileCacheResult(outcome, reason, seconds=seconds, key=key, **fields)


class CompileCache:
    """Compiled code of a model, saved once and loaded by every later start.

        cache = CompileCache("s3://bucket/compiled", name="flux-1.1")
        with cache.around():
            pipeline.transformer = torch.compile(pipeline.transformer)
            pipeline("warm up")

    Nothing here makes a start fail: where the location is down, full, or not to be trusted, the
    result says so, and the model is compiled as it would be without it.

    Args:
        location: a folder, `s3://BUCKET/PREFIX`, or an http(s) URL, which is only read.
        name: part of the key: the model and its version, so that others' caches are not loaded.
        kinds: what to keep: `inductor` (with the precompiled headers), `triton`, `vllm`.
        mode: `readwrite`; `read` for replicas that are not to save; `write`.
        secret: signs what is saved (HMAC), and has everything that is not signed ignored. Without
            one, anyone who can write to the location can run code here.
        max_bytes: a cache with more bytes than that is not saved.
        settings: for a location in the network; by default what the environment says.

    Raises:
        BadSettingError: an argument makes no sense.
        NotAllowedError: the settings' policy is for strangers, and compiled code is executed.
    """

    def __init__(
        self,
        location: str | PathLike,
        *,
        name: str = "",
        kinds: Sequence[str] = ("inductor", "triton"),
        mode: str = "readwrite",
        secret: str | bytes | None = None,
        max_bytes: int = 2 * 2**30,
        settings: Settings | None = None,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in KINDS]
        if isinstance(kinds, str) or unknown or not kinds:
            wrong = kinds if isinstance(kinds, str) or not kinds else unknown[0]
            raise BadSettingError("kinds", wrong, f"is not a tuple of {', '.join(KINDS)}")
        if mode not in _MODES:
            raise BadSettingError("mode", mode, f"is not one of {', '.join(_MODES)}")
        settings = settings or Settings.from_environment(os.environ)
        if settings.policy is not None and not settings.policy.own_tokens:
            reason = "compiled code is executed, and this policy is for URLs from strangers"
            raise NotAllowedError(os.fspath(location), "own_tokens", reason)
        self.name, self.kinds, self.mode = name, tuple(kinds), mode
        self.max_bytes = max_bytes
        self._secret = secret.encode() if isinstance(secret, str) else secret
        self._location: CacheLocation = _open_location(
            location, settings, signed=self._secret is not None
        )
        # Inductor sets TRITON_CACHE_DIR to a folder of its own while it compiles.
        self._folders = live_folders(self.kinds, os.environ)
        self._known: dict[str, Seal] = {}
        self._broken: set[str] = set()
        self._baseline: set[tuple[str, str]] | None = None

    def __repr__(self) -> str:
        return f"CompileCache({self._location.shown!r}, name={self.name!r}, kinds={self.kinds!r})"

    @contextlib.contextmanager
    def around(self, progress: Progress | None = None) -> Iterator[CompileCacheResult]:
        """Load before the block, which compiles and warms up, and save after it.

        Nothing is saved if the block raises: what a failed compilation leaves may be why.
        """
        loaded = self.load(progress)
        yield loaded
        self._baseline = set(scan_folders(self._folders).files)
        if self.mode != "read" and not self._location.readable_only:
            saved = self.save()
            _LOG.debug("saving: %s %s", saved.outcome, saved.reason)

    # ------------------------------------------------------------------------------------ load

    def load(
        self, progress: Progress | None = None, *, flag: CancelFlag | None = None
    ) -> CompileCacheResult:
        """Lay down what the location has for this machine, and remove what is damaged here.

        Args:
            progress: is called with bytes of packs that were read, and of all.
            flag: stops it when it is set.
        """

        def work(job: _Job) -> CompileCacheResult:
            return self._load_checked(job, flag or CancelFlag(), progress)

        if self.mode == "write":
            return CompileCacheResult("skipped", "mode is write")
        self._baseline = None
        result = self._guarded(work)
        if self._baseline is None:
            self._baseline = set(scan_folders(self._folders).files)
        return result

    def load_async(
        self, progress: Progress | None = None
    ) -> BackgroundOperation[CompileCacheResult]:
        """Start `load` beside the program; wait for it before the first compiled call."""
        return BackgroundOperation(lambda flag: self.load(progress, flag=flag))

    def _load_checked(
        self, job: _Job, flag: CancelFlag, progress: Progress | None
    ) -> CompileCacheResult:
        set_cache_tag(job.environment.cache_tag)
        if why := self._claim_folders(job):
            return job.result("skipped", why)
        live = scan_folders(job.folders)
        removed = remove_damaged(job.folders, live)
        survey = self._survey(job, flag)
        if not survey.seals:
            return self._miss(job, survey, removed)
        loaded, tell = Loaded(), progress or _ignore
        for place, why in survey.lacking(job.environment).items():
            if place not in live.files:
                loaded.leave_out(place[1], why)
        while True:
            key, folders = job.environment.key, job.folders
            loader = CacheLoader(self._location, folders, key, loaded, flag, tell)
            loader.load(survey.held(job.environment), live)
            if loaded.broken <= survey.broken:
                break
            # Other packs may hold some of what was in those that turned out to be damaged.
            survey.broken |= loaded.broken
            live = scan_folders(job.folders)
        self._broken |= survey.broken
        self._baseline = live.files.keys() | loaded.places
        left_out = [*survey.left_out, *loaded.left_out]
        complete = not left_out
        return job.result(
            "loaded" if complete else "partial",
            "" if complete else left_out[0],
            entries=loaded.entries,
            bytes=loaded.bytes,
            removed=removed,
            left_out=left_out,
        )

    def _survey(self, job: _Job, flag: CancelFlag) -> SealSurvey:
        survey = read_seals(self._location, job.environment.key, self._secret, flag, self._known)
        self._known = {seal.name: seal for seal in survey.seals}
        survey.broken |= self._broken
        return survey

    def _miss(self, job: _Job, survey: SealSurvey, removed: Sequence[str]) -> CompileCacheResult:
        """Return the result of a load that found nothing, with the nearest key that there is."""
        result = job.result("miss", "nothing is saved for this key", removed=removed)
        if survey.left_out:
            return replace(result, reason=survey.left_out[0], left_out=survey.left_out)
        nearest = find_nearest(self._location, job.environment)
        if nearest is None:
            return result
        differing = job.environment.differing(nearest)
        reason = f"{result.reason}; the nearest differs in {', '.join(differing)}"
        return replace(result, reason=reason, nearest=nearest.key, differing=differing)

    def _claim_folders(self, job: _Job) -> str:
        """Make sure that compilers can use the live folders; return why they cannot, or "".

        Before anything is fetched: in a folder that is mounted noexec or belongs to another user,
        torch fails on a full hit, and not only where it has to compile.
        """
        for kind, folder in job.folders.items():
            if not is_ours(folder):
                if kind != "inductor":
                    return f"{folder} cannot be written, and compilers write to it"
                job.folders[kind] = self._folders[kind] = copy_to_own_folder(folder)
            if is_noexec(job.folders[kind]):
                return (
                    f"{job.folders[kind]} is mounted noexec, so that compiled code cannot be "
                    "loaded from it; set TORCHINDUCTOR_CACHE_DIR (headers: TMPDIR)"
                )
        return ""

    # ------------------------------------------------------------------------------------ save

    def save_async(
        self, progress: Progress | None = None
    ) -> BackgroundOperation[CompileCacheResult]:
        """Start `save` beside the program."""
        return BackgroundOperation(lambda flag: self.save(progress, flag=flag))

    def save(
        self, progress: Progress | None = None, *, flag: CancelFlag | None = None
    ) -> CompileCacheResult:
        """Save what is new in the live folders.

        Args:
            progress: is called with raw bytes that were read, and of all.
            flag: stops it when it is set.
        """
        stop = flag or CancelFlag()

        def work(job: _Job) -> CompileCacheResult:
            saver = CacheSaver(
                self._location,
                job.folders,
                job.environment,
                self._secret,
                self.max_bytes,
                stop,
                progress or _ignore,
            )
            saved = saver.save(self._survey(job, stop), scan_folders(job.folders))
            if saved.too_large:
                return job.result(
                    "skipped",
                    f"it has {format_size(saved.too_large)}, more than max_bytes allows "
                    f"({format_size(self.max_bytes)})",
                )
            if saved.seal is None:
                reason = saved.left_out[0] if saved.left_out else ""
                return job.result("unchanged", reason, left_out=saved.left_out)
            return job.result(
                "saved", entries=saved.entries, bytes=saved.bytes, left_out=saved.left_out
            )

        if self.mode == "read" or self._location.readable_only:
            why = "mode is read" if self.mode == "read" else f"{self._location.shown} is only read"
            return CompileCacheResult("skipped", why)
        return self._guarded(work)

    def _guarded(self, work: Callable[[_Job], CompileCacheResult]) -> CompileCacheResult:
        """Do `work`; whatever goes wrong becomes a result.

        A mistake in the program is raised all the same: an error of a kind that is not named here
        says that this class is wrong, not that a disk is full.
        """
        started = time.monotonic()
        environment = read_environment(self.name, os.environ)
        if environment is None:
            return CompileCacheResult("skipped", _NO_TORCH)
        job = _Job(environment, self._folders, started)
        try:
            return work(job)
        except CancelledOperationError as error:
            return job.result("cancelled", str(error))
        except (PgetError, OSError, RuntimeError, ValueError, MemoryError) as error:
            reason = reason_of(error)
            _LOG.warning("the compile cache is not used: %s", reason)
            return job.result("failed", reason)

    @property
    def folders(self) -> dict[str, Path]:
        """The live folders of this process, by the kind of their files."""
        return dict(self._folders)

    def environment(self) -> CompileEnvironment | None:
        """Return what the key of this machine is made of; None without torch."""
        return read_environment(self.name, os.environ)

    def explain(self) -> dict[str, Any]:
        """Return why there is something to load, or not: `hit`, and `lines` for people.

        Raises:
            PgetError: the location cannot be used.
        """
        environment = self.environment()
        if environment is None:
            return {"hit": False, "lines": [_NO_TORCH]}
        job = _Job(environment, self._folders, time.monotonic())
        survey = self._survey(job, CancelFlag())
        here = scan_folders(self._folders).files.keys()
        return explain_survey(self._location, environment, survey, here)

    def keeper(self) -> LocationKeeper:
        """Return what lists, checks and prunes the location."""
        return LocationKeeper(self._location, self._secret)

    # ---------------------------------------------------------------------------------- report

    def report(self) -> CompileCacheReport:
        """Return what torch says of hits and misses, and what has been compiled since.

        torch counts a hit as soon as it finds the graph. If the path of the environment differs,
        every shared object is then built again, and only new files show that.
        """
        files: LiveScan = scan_folders(self._folders)
        new = len(files.files.keys() - self._baseline) if self._baseline is not None else 0
        counters = torch_counters()
        if counters is None:
            return CompileCacheReport(None, None, new)
        hits = counters.get("fxgraph_cache_hit", 0)
        return CompileCacheReport(hits, counters.get("fxgraph_cache_miss", 0), new)


def _ignore(done: int, total: int) -> None:
    """Do not report how far it is."""


def _open_location(
    location: str | os.PathLike[str], settings: Settings, *, signed: bool
) -> CacheLocation:
    """Return the location that a user named.

    Args:
        location: a folder, `s3://BUCKET/PREFIX` (or another object store), or an http(s) URL.
        settings: for what is asked over the network.
        signed: whether seals are signed, so that others may have access to a folder.

    Raises:
        BadSettingError: it names nothing that can be used.
    """
    text = os.fspath(location)
    if not text:
        raise BadSettingError("location", text, "is empty; name a folder, s3://... or https://...")
    scheme, found, _ = text.partition("://")
    if not found:
        return FolderLocation(Path(os.path.expanduser(text)).absolute(), trusted=signed)
    from pgetpy.compile_cache.remote import RemoteLocation

    if scheme.lower() not in ("http", "https", "s3", "b2", "gs"):
        raise BadSettingError("location", scheme, "is not a folder, s3://... or https://...")
    return RemoteLocation(text, settings)
