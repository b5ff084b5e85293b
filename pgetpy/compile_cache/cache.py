"""The class that predictors use: load before compiling, save after it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from pgetpy.compile_cache.opening import open_location
from pgetpy.compile_cache.operations import (
    BackgroundOperation,
    CancelFlag,
    CancelledOperationError,
)
from pgetpy.compile_cache.results import CompileCacheReport, CompileCacheResult
from pgetpy.compile_cache.saving import CacheSaver
from pgetpy.compile_cache.survey import SealSurvey, read_seals
from pgetpy.core.compile_cache.environments import CompileEnvironment, parse_environment
from pgetpy.core.compile_cache.layouts import KINDS
from pgetpy.core.compile_cache.seals import Seal
from pgetpy.core.text.units import format_size
from pgetpy.errors import BadSettingError, IntegrityError, NotAllowedError, PgetError
from pgetpy.system.logs import RoomLog

if TYPE_CHECKING:
    from pgetpy.settings import Settings

_LOG = RoomLog("compile_cache")
_MODES = ("readwrite", "read", "write")
_NO_TORCH = "torch is not installed, so nothing is compiled here"
# How many other keys are looked at to explain a miss.
_COMPARED = 50
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
            raise BadSettingError("mode", mode, f"is none of {', '.join(_MODES)}")
        if settings is not None and settings.policy is not None and not settings.policy.own_tokens:
            reason = "compiled code is executed, and this policy is for URLs from strangers"
            raise NotAllowedError(os.fspath(location), "own_tokens", reason)
        self.name, self.kinds, self.mode = name, tuple(kinds), mode
        self.max_bytes = max_bytes
        self._secret = secret.encode() if isinstance(secret, str) else secret
        self._location: CacheLocation = open_location(
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

    def load(self, progress: Progress | None = None) -> CompileCacheResult:
        """Lay down what the location has for this machine, and remove what is damaged here.

        Args:
            progress: is called with bytes of packs that were read, and of all.
        """
        return self._load(CancelFlag(), progress)

    def load_until(self, flag: CancelFlag) -> CompileCacheResult:
        """As `load`, until `flag` is set."""
        return self._load(flag, None)

    def load_async(
        self, progress: Progress | None = None
    ) -> BackgroundOperation[CompileCacheResult]:
        """Start `load` beside the program; wait for it before the first compiled call."""
        return BackgroundOperation(lambda flag: self._load(flag, progress))

    def _load(self, flag: CancelFlag, progress: Progress | None) -> CompileCacheResult:
        def work(job: _Job) -> CompileCacheResult:
            return self._load_checked(job, flag, progress)

        if self.mode == "write":
            return CompileCacheResult("skipped", "mode is write")
        result = self._guarded(work)
        self._baseline = set(scan_folders(self._folders).files)
        return result

    def _load_checked(
        self, job: _Job, flag: CancelFlag, progress: Progress | None
    ) -> CompileCacheResult:
        _set_cache_tag(job.environment.cache_tag)
        if why := self._claim_folders(job):
            return job.result("skipped", why)
        live = scan_folders(job.folders)
        removed = remove_damaged(job.folders, live)
        survey = self._survey(job, flag)
        if not survey.seals:
            return self._miss(job, survey, removed)
        loaded = Loaded()
        while True:
            loader = CacheLoader(
                self._location, job.folders, job.environment, loaded, flag, progress
            )
            loader.load(survey.held(), live)
            if loaded.broken <= survey.broken:
                break
            # Other packs may hold some of what was in those that turned out to be damaged.
            survey.broken |= loaded.broken
            live = scan_folders(job.folders)
        self._broken |= survey.broken
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
        others = [(job.environment.differing(each), each) for each in self.environments()]
        if not others:
            return result
        differing, nearest = min(others, key=lambda each: len(each[0]))
        reason = f"{result.reason}; the nearest differs in {', '.join(differing)}"
        return replace(result, reason=reason, nearest=nearest.key, differing=differing)

    def environments(self) -> list[CompileEnvironment]:
        """Return the environments of all keys in the location.

        Raises:
            PgetError: the location cannot be used.
        """
        keys = [name.rstrip("/") for name in self._location.names("v1") if name.endswith("/")]
        found = []
        for key in sorted(keys)[:_COMPARED]:
            data = self._location.read(f"v1/{key}", ["env.json"], CancelFlag()).get("env.json")
            with contextlib.suppress(IntegrityError):
                if data is not None:
                    found.append(parse_environment(data, f"v1/{key}/env.json"))
        return found

    def _claim_folders(self, job: _Job) -> str:
        """Make sure that compilers can use the live folders; return why they cannot, or ""."""
        for kind, folder in job.folders.items():
            if not is_ours(folder):
                if kind != "inductor":
                    return f"{folder} cannot be written, and compilers write to it"
                job.folders[kind] = self._folders[kind] = _own_copy(folder)
            if is_noexec(job.folders[kind]):
                return (
                    f"{job.folders[kind]} is mounted noexec, so that compiled code cannot be "
                    "loaded from it; set TORCHINDUCTOR_CACHE_DIR (headers: TMPDIR)"
                )
        return ""

    # ------------------------------------------------------------------------------------ save

    def save(self, progress: Progress | None = None) -> CompileCacheResult:
        """Save what is new in the live folders.

        Args:
            progress: is called with raw bytes that were read, and of all.
        """
        return self._save(CancelFlag(), progress)

    def save_until(self, flag: CancelFlag) -> CompileCacheResult:
        """As `save`, until `flag` is set."""
        return self._save(flag, None)

    def save_async(
        self, progress: Progress | None = None
    ) -> BackgroundOperation[CompileCacheResult]:
        """Start `save` beside the program."""
        return BackgroundOperation(lambda flag: self._save(flag, progress))

    def _save(self, flag: CancelFlag, progress: Progress | None) -> CompileCacheResult:
        def work(job: _Job) -> CompileCacheResult:
            saver = CacheSaver(
                self._location,
                job.folders,
                job.environment,
                self._secret,
                self.max_bytes,
                flag,
                progress,
            )
            saved = saver.save(self._survey(job, flag), scan_folders(job.folders))
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
        """Do `work`; whatever goes wrong becomes a result."""
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

    def keeper(self) -> LocationKeeper:
        """Return what lists, checks and prunes the location."""
        return LocationKeeper(self._location, self._secret)

    # ---------------------------------------------------------------------------------- report

    def report(self) -> CompileCacheReport:
        """Return what torch says of hits and misses, and what has been compiled since."""
        files: LiveScan = scan_folders(self._folders)
        new = len(files.files.keys() - self._baseline) if self._baseline is not None else 0
        counters = _torch_counters()
        if counters is None:
            return CompileCacheReport(None, None, new)
        hits = counters.get("fxgraph_cache_hit", 0)
        return CompileCacheReport(hits, counters.get("fxgraph_cache_miss", 0), new)


def _set_cache_tag(tag: str) -> None:
    """Have torch mix the instruction set into its keys, which it does not do by itself."""
    mine = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    if tag not in mine.split("+"):
        mine = f"{mine}+{tag}" if mine else tag
        os.environ["TORCH_COMPILE_CACHE_KEY_TAG"] = mine
    # Read when that module is imported, so that the variable comes too late for one that is there.
    config = sys.modules.get("torch.compiler.config")
    if config is not None:
        with contextlib.suppress(AttributeError):
            config.cache_key_tag = mine  # type: ignore[attr-defined]


def _torch_counters() -> dict[str, int] | None:
    """Return Inductor's counters, if torch has been imported."""
    utils = sys.modules.get("torch._dynamo.utils")
    counters = getattr(utils, "counters", None)
    return dict(counters["inductor"]) if counters is not None else None


def _own_copy(folder: Path) -> Path:
    """Return a folder of our own with what is in `folder`, which torch is then told to use.

    torch takes locks in its folder even when everything is there, and fails where it cannot.
    """
    own = Path(tempfile.mkdtemp(prefix="pgetpy-inductor-"))
    for each in scan_folders({"inductor": folder}).files.values():
        target = own / each.path
        with contextlib.suppress(OSError):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(folder / each.path, target)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own)
    _LOG.warning("%s cannot be written: %s is used instead", folder, own)
    return own
