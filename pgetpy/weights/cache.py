"""WeightsDownloadCache: a URL in, a path that can be trusted out.

The plain calls work in any thread, inside a running loop too, and end when their caller is
interrupted. A hit looks at the disk and at nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.cache.checking import Verdict
from pgetpy.cache.store import Store
from pgetpy.core.references.policy import Policy
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Event, Report
from pgetpy.core.weights.safetensors import LONGEST_FOR_STRANGERS, LONGEST_HEADER
from pgetpy.errors import BadSettingError
from pgetpy.settings import CacheSettings, Settings
from pgetpy.weights.access import LookupOptions
from pgetpy.weights.acquire import Acquisition, CacheInfo
from pgetpy.weights.maintenance import Maintenance
from pgetpy.weights.options import Chosen, ReferenceOptions, Secret, parse_digest

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Unpack

    from pgetpy.cache.tickets import Lease
    from pgetpy.core.references.jobs import Follower
    from pgetpy.destinations.sinks.parts import Choose

GIB = 1 << 30
PathLike = os.PathLike[str]


class LeasedPath(NamedTuple):
    """A path, and the lease that keeps there what it names until it is released."""

    path: Path
    lease: Lease


class WeightsDownloadCache(Maintenance):
    """Weights on disk, shared by all processes that name the same folder.

    Args:
        cache_dir: the folder; by default `pgetpy` in the user's cache folder, or what
            PGET_CACHE_DIR names. `base_dir` is another name for it.
        min_disk_free: bytes that have to stay free on its disk; `min_disk_free_gb` gives them in
            GiB; by default what PGET_MIN_DISK_FREE says, else 10 GiB. Entries used longest ago
            leave when it is less.
        max_bytes: bytes that the entries may take; by default what PGET_MAX_BYTES says, else any.
        lower: caches that are looked at first and only read, baked into an image for example.
        refresh: `never` asks nobody about what is there; `check` asks the server each time whether
            it still has the same version, and fetches anew what it names no version of.
        any_file: take files that are no weights (JSON, text, pickles) as well.
        policy: what may be fetched, and given out, where strangers give the references, as
            `Policy.public()`; by default that of the settings, which is none unless PGET_POLICY
            names one.
        settings: how to fetch; by default from the environment.
        progress: is given the events of what is fetched.

    Raises:
        CacheError: the folder is no cache, and cannot become one.
        BadSettingError: an argument that makes no sense.
    """

    def __init__(  # noqa: PLR0913  two spellings are in use
        self,
        cache_dir: str | PathLike | None = None,
        min_disk_free: int | None = None,
        max_bytes: int | None = None,
        *,
        base_dir: str | PathLike | None = None,
        min_disk_free_gb: float | None = None,
        lower: Sequence[str | PathLike] = (),
        refresh: str = "never",
        any_file: bool = False,
        policy: Policy | None = None,
        settings: Settings | None = None,
        progress: Report | None = None,
    ) -> None:
        from pgetpy.sources.table import check_settings

        _refuse_both("cache_dir", cache_dir, "base_dir", base_dir)
        _refuse_both("min_disk_free", min_disk_free, "min_disk_free_gb", min_disk_free_gb)
        usual = CacheSettings.from_environment(os.environ)
        folder = base_dir if cache_dir is None else cache_dir
        free = usual.min_disk_free if min_disk_free is None else min_disk_free
        if min_disk_free_gb is not None:
            free = int(min_disk_free_gb * GIB)
        if refresh not in ("never", "check"):
            raise BadSettingError("refresh", refresh, "is neither never nor check")
        chosen = settings if settings is not None else Settings.from_environment(os.environ)
        check_settings(chosen.sources)
        chosen = replace(chosen, policy=policy or chosen.policy).under_policy()
        store = Store(
            folder if folder is not None else usual.folder,
            min_disk_free=free,
            max_bytes=usual.max_bytes if max_bytes is None else max_bytes,
            lower=lower,
        )
        super().__init__(store, chosen)
        self._fresh = refresh == "check"
        self._any_file = any_file
        self._acquisition = Acquisition(store, chosen, self._hasher, progress or _ignore)

    # ------------------------------------------------------------------------------------ weights

    def ensure(
        self,
        url: str,
        *,
        digest: str | None = None,
        wanted: str = "auto",
        allow_patterns: Chosen = None,
        ignore_patterns: Chosen = None,
        hf_api_token: str | Secret | None = None,
        civitai_api_token: str | Secret | None = None,
    ) -> Path:
        """Return a path at which the object that `url` names is, whole and checked.

        It stays there for as long as it can: what was returned to a process that lives leaves after
        all else. Where it must stay, hold a `lease`.

        Args:
            url: an http, https, file or data URL, or a reference to a service, as
                hf://OWNER/NAME@REVISION/FILE (see README.md). Of a repository, and of what is an
                archive, the path is that of the one .safetensors in it.
            digest: `sha256:HEX`, or HEX alone: what the object must hash to.
            wanted: `file`: the object as it is, whatever it is called; `weights`: the one
                .safetensors of an archive or repository; `folder`: all of it, in a folder.
            allow_patterns, ignore_patterns: which files of a repository are meant: a file has to
                match one of the first and none of the second (`*.json`, `unet/*`).
            hf_api_token, civitai_api_token: for references to these services.

        Raises:
            NotWeightsError: what the server gave are no weights.
            CacheFullError: there is no room for it, and nothing that may leave.
            NotAllowedError: the policy forbids it.
            TransferError, IntegrityError, ArchiveError, CacheError, UsageError: it cannot be had.
        """
        reference = self._allowed(
            url,
            wanted=wanted,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            hf_api_token=hf_api_token,
            civitai_api_token=civitai_api_token,
        )
        lookup = self._lookup(digest)
        entry = self._acquisition.hit(reference, lookup)
        if entry is not None:
            return entry.path
        from pgetpy.system.event_loop import run_blocking

        return run_blocking(self._acquisition.obtain(reference, lookup))

    async def ensure_async(
        self, url: str, *, digest: str | None = None, **options: Unpack[ReferenceOptions]
    ) -> Path:
        """Return a path at which the object that `url` names is; see `ensure`."""
        reference = self._allowed(url, **options)
        lookup = self._lookup(digest)
        entry = self._acquisition.hit(reference, lookup)
        if entry is not None:
            return entry.path
        from pgetpy.system.event_loop import in_engine

        return await in_engine(self._acquisition.obtain(reference, lookup))

    def follow(
        self,
        url: str,
        follower: Follower,
        *,
        digest: str | None = None,
        **options: Unpack[ReferenceOptions],
    ) -> Future[Path]:
        """As `ensure`, but return at once; `follower` is shown what is fetched while it is.

        It is shown nothing of what is there already, nor of what another process fetches, nor of
        archives and folders. Until the path is there nothing that was shown has been verified.
        Cancelling the future ends the fetching.
        """
        reference = self._allowed(url, **options)
        lookup = self._lookup(digest)
        entry = self._acquisition.hit(reference, lookup)
        from pgetpy.system.event_loop import begin, done

        if entry is not None:
            return done(entry.path)
        return begin(self._acquisition.obtain(reference, lookup, follow=follower))

    def pick(
        self,
        url: str,
        choose: Choose,
        first: int,
        follower: Follower,
        **options: Unpack[ReferenceOptions],
    ) -> Future[Path | None]:
        """As `follow`, but of what is not there fetch only the parts that `choose` wants.

        They are not kept, and are verified by nobody: None comes in place of a path. Where parts
        cannot be had it is fetched as a whole.

        Args:
            choose, first: see `destinations.sinks.parts.PartsSink`.
        """
        reference = self._allowed(url, **options)
        lookup = self._lookup(None)
        entry = self._acquisition.hit(reference, lookup)
        from pgetpy.system.event_loop import begin, done

        if entry is not None:
            return done(entry.path)
        return begin(self._acquisition.pick(reference, lookup, choose, first, follower))

    def ensure_many(self, urls: Iterable[str], **options: Unpack[ReferenceOptions]) -> list[Path]:
        """Return the paths of several, fetched side by side; none leaves until all are there.

        Args:
            options: `wanted`, patterns and tokens, as `ensure` takes them, for all of them.

        Raises:
            PgetError: the first failure; the others are stopped.
        """
        references = [self._allowed(url, **options) for url in urls]
        from pgetpy.system.event_loop import run_blocking

        return run_blocking(self._acquisition.obtain_all(references, self._lookup(None)))

    async def ensure_many_async(
        self, urls: Iterable[str], **options: Unpack[ReferenceOptions]
    ) -> list[Path]:
        """Return the paths of several; see `ensure_many`."""
        references = [self._allowed(url, **options) for url in urls]
        from pgetpy.system.event_loop import in_engine

        return await in_engine(self._acquisition.obtain_all(references, self._lookup(None)))

    def lookup(self, url: str, **options: Unpack[ReferenceOptions]) -> Path | None:
        """Return the path of what is there of `url`, None for a miss; asks no server.

        What another's token has fetched is a miss until `ensure` has shown that this one opens it.

        Args:
            options: `wanted`, patterns and tokens, as `ensure` takes them.

        Raises:
            NotAllowedError: the policy forbids to give it out.
        """
        entry = self._acquisition.peek(self._allowed(url, **options), LookupOptions())
        return entry.path if entry is not None else None

    def repository(self, url: str, **options: Unpack[ReferenceOptions]) -> str:
        """Return how a whole repository that `url` names is spelt; empty where it names a file, or
        where patterns choose."""
        reference = self._reference(url, **options)
        return str(reference) if reference.several and not reference.patterns else ""

    @contextlib.contextmanager
    def lease(
        self, url: str, *, digest: str | None = None, **options: Unpack[ReferenceOptions]
    ) -> Iterator[Path]:
        """Ensure `url`, and keep it where it is for as long as the block lasts; see `ensure`."""
        with self.hold(url, **options):
            yield self.ensure(url, digest=digest, **options)

    def hold(self, url: str, **options: Unpack[ReferenceOptions]) -> Lease:
        """Keep what `url` names where it is, once it is there, until the lease is released."""
        return self._store.lease(self._reference(url, **options).key)

    def hold_many(
        self, urls: Iterable[str], **options: Unpack[ReferenceOptions]
    ) -> list[LeasedPath]:
        """Ensure several side by side, and keep each where it is until its lease is released.

        Args:
            options: `wanted`, patterns and tokens, as `ensure` takes them, for all of them.

        Raises:
            PgetError: the first failure; the others are stopped, and nothing is held.
        """
        references = [self._allowed(url, **options) for url in urls]
        with contextlib.ExitStack() as stack:
            leases = [stack.enter_context(self._store.lease(each.key)) for each in references]
            paths = self._acquisition.paths_at_hand(references, self._lookup(None))
            if paths is None:
                from pgetpy.system.event_loop import run_blocking

                paths = run_blocking(self._acquisition.obtain_all(references, self._lookup(None)))
            stack.pop_all()
            return [LeasedPath(*pair) for pair in zip(paths, leases, strict=True)]

    # ------------------------------------------------------------------------------------ upkeep

    def verify(
        self, url: str, *, repair: bool = True, **options: Unpack[ReferenceOptions]
    ) -> Verdict:
        """Hash what is kept of `url` and compare; what is damaged is fetched anew, and so is what
        has no digest yet, unless its service says what it hashes to.

        Returns:
            What was found, before it was repaired.
        """
        self._hasher.wait()
        verdict = self._store.verify(self._reference(url, **options).key)
        if verdict in (Verdict.DAMAGED, Verdict.UNKNOWN) and repair:
            self.repair(url, **options)
        return verdict

    def repair(self, url: str, **options: Unpack[ReferenceOptions]) -> Path:
        """As `ensure`, but give out nothing that is not known to be what the server has."""
        reference = self._allowed(url, **options)
        lookup = replace(self._lookup(None), proven=True)
        from pgetpy.system.event_loop import run_blocking

        return run_blocking(self._acquisition.obtain(reference, lookup))

    def cache_info(self) -> CacheInfo:
        """Return what `ensure` has done so far."""
        return self._acquisition.info

    @property
    def longest_header(self) -> int:
        """Bytes of the longest header of a safetensors file that its policy lets be read."""
        policy = self._settings.policy
        strict = policy is not None and policy.only_safetensors
        return LONGEST_FOR_STRANGERS if strict else LONGEST_HEADER

    # ------------------------------------------------------------------------------------ innards

    def _allowed(self, url: str, **options: Unpack[ReferenceOptions]) -> Reference:
        """Return the reference of what may be given out.

        Raises:
            NotAllowedError: the policy forbids it.
        """
        reference = self._reference(url, **options)
        if self._settings.policy is not None:
            self._settings.policy.check_reference(reference)
        return reference

    def _lookup(self, digest: str | None) -> LookupOptions:
        return LookupOptions(parse_digest(digest), self._fresh, self._any_file)


def usual_cache() -> WeightsDownloadCache:
    """Return the cache that the environment names, one for all of this process."""
    return _usual(CacheSettings.from_environment(os.environ).folder)


@lru_cache(maxsize=4)
def _usual(folder: Path) -> WeightsDownloadCache:
    return WeightsDownloadCache(folder)


def _refuse_both(name: str, value: object, other_name: str, other: object) -> None:
    if value is not None and other is not None:
        raise BadSettingError(other_name, str(other), f"is given together with {name}")


def _ignore(event: Event) -> None:
    """No progress is wanted."""
