"""WeightsDownloadCache: give it a URL, get a path to verified weights.

Plain calls work in any thread, even while the caller's event loop runs, and stop when their caller
is interrupted. A hit reads the disk and makes no request.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgetpy.cache.checking import Verdict
from pgetpy.cache.store import Store
from pgetpy.core.references.policy import Policy
from pgetpy.core.report.events import Report, ignore_event
from pgetpy.errors import BadSettingError
from pgetpy.settings import Settings
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.weights.access import LookupOptions
from pgetpy.weights.acquire import Acquisition
from pgetpy.weights.background_hash import BackgroundHasher
from pgetpy.weights.maintenance import Maintenance
from pgetpy.weights.opening import GIB, PathLike, completed, open_remote, refuse_both, resolved
from pgetpy.weights.options import Chosen, ReferenceOptions, Secret, parse_digest

if TYPE_CHECKING:
    from concurrent.futures import Future

    from typing_extensions import Unpack

    from pgetpy.cache.tickets import Lease
    from pgetpy.core.references.jobs import Follower
    from pgetpy.destinations.sinks.parts import Choose
    from pgetpy.sources.s3 import S3


class LeasedPath(NamedTuple):
    """A path, and the lease that keeps its content until released."""

    path: Path
    lease: Lease


class WeightsDownloadCache(Maintenance):
    """Weights on disk, shared by all processes that use the same folder.

    Args:
        cache_dir: the folder; by default PGET_CACHE_DIR, else `pgetpy` in the user's cache folder.
        min_disk_free: bytes to leave free on its disk; by default PGET_MIN_DISK_FREE, else 10 GiB.
            The least recently used entries are evicted when less is free.
        max_bytes: bytes that entries may use; by default PGET_MAX_BYTES, else unlimited.
        base_dir: another name for `cache_dir`.
        min_disk_free_gb: `min_disk_free` in GiB.
        lower: caches that are only read, such as one baked into an image; or PGET_CACHE_LOWER.
        refresh: `never` serves cached entries without a request; `check` asks the server each time
            whether the version is still current, and fetches again what has no version.
        any_file: accept files that are not weights (JSON, text, pickles).
        policy: what untrusted callers may fetch and be given, such as `Policy.public()`; by default
            that of the settings (PGET_POLICY), else no restriction.
        settings: how to fetch; by default from the environment.
        s3: how s3:// is reached; what it leaves out comes from `settings`.
        progress: is called with the events of downloads.
        remote: a second tier, such as s3://BUCKET/PREFIX: what is missing is looked for there
            first, and what was fetched without a secret is copied there in the background.
        remote_mode: `readwrite`, or `read` to copy nothing there.
        remote_max_age: seconds for which the second tier is believed without asking the origin. For
            these three the default is the variable PGET_CACHE_REMOTE and so on.
        cache_nodes: the cache nodes of a fleet, `HOST[:PORT],HOST[:PORT]` or `srv://NAME`; an empty
            text for none. By default PGET_CACHE_NODES, else pget's variables.
        cache_prefixes: what begins with these URLs goes through the nodes; by default
            PGET_CACHE_URI_PREFIXES.
        cache_piece: bytes of a file that one node serves; by default PGET_CACHE_PIECE.

    Raises:
        CacheError: the folder is not a cache, and cannot become one.
        BadSettingError: an argument is invalid.
    """

    def __init__(  # noqa: PLR0913  two spellings are in use
        self,
        cache_dir: str | PathLike | None = None,
        min_disk_free: int | None = None,
        max_bytes: int | None = None,
        *,
        base_dir: str | PathLike | None = None,
        min_disk_free_gb: float | None = None,
        lower: Sequence[str | PathLike] | None = None,
        refresh: str = "never",
        any_file: bool = False,
        policy: Policy | None = None,
        settings: Settings | None = None,
        s3: S3 | None = None,
        progress: Report | None = None,
        remote: str | None = None,
        remote_mode: str | None = None,
        remote_max_age: float | None = None,
        cache_nodes: str | None = None,
        cache_prefixes: Sequence[str] | None = None,
        cache_piece: int | None = None,
    ) -> None:
        refuse_both("cache_dir", cache_dir, "base_dir", base_dir)
        refuse_both("min_disk_free", min_disk_free, "min_disk_free_gb", min_disk_free_gb)
        folder = base_dir if cache_dir is None else cache_dir
        free = min_disk_free if min_disk_free_gb is None else int(min_disk_free_gb * GIB)
        own = completed(folder, free, max_bytes, remote, remote_mode, remote_max_age)
        if refresh not in ("never", "check"):
            raise BadSettingError("refresh", refresh, "is neither never nor check")
        given = resolved(settings, s3, cache_nodes, cache_prefixes, cache_piece)
        chosen = replace(given, policy=policy or given.policy).under_policy()
        below = own.lower if lower is None else lower
        store = Store(
            own.folder, min_disk_free=own.min_disk_free, max_bytes=own.max_bytes, lower=below
        )
        hasher = BackgroundHasher(store)
        remote_of = partial(open_remote, store, own, chosen, given, hasher) if own.remote else None
        acquisition = Acquisition(store, chosen, hasher, progress or ignore_event, remote_of)
        super().__init__(store, chosen, hasher, acquisition)
        self._fresh = refresh == "check"
        self._any_file = any_file

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
        """Return the path of the object that `url` names, complete and checked.

        It is fetched if it is not in the cache. Entries given to living processes are evicted last.
        To rule out eviction, hold a `lease`.

        Args:
            url: an http, https, file or data URL, or a reference to a service such as
                hf://OWNER/NAME@REVISION/FILE (see README.md). For an archive or a repository, the
                path is that of its one .safetensors file.
            digest: the expected `sha256:HEX`, or HEX alone.
            wanted: `file` for the object as it is; `weights` for the one .safetensors in an archive
                or repository; `folder` for all of it, in a folder; `auto` decides by the name.
            allow_patterns: files of a repository to include, such as `*.json` or `unet/*`.
            ignore_patterns: files of a repository to leave out.
            hf_api_token: the token for the Hugging Face Hub.
            civitai_api_token: the token for Civitai.

        Raises:
            NotWeightsError: the server sent something other than weights.
            CacheFullError: there is not enough space, and nothing that may be evicted.
            NotAllowedError: the policy forbids it.
            TransferError: the server or the network failed.
            IntegrityError: the bytes do not match the digest or the size.
            ArchiveError: the archive is damaged, or holds no single .safetensors file.
            CacheError: the cache cannot be read or written.
            UsageError: the URL or an argument is invalid.
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
        self,
        url: str,
        *,
        digest: str | None = None,
        fresh: bool = False,
        any_file: bool = False,
        number: int = 0,
        **options: Unpack[ReferenceOptions],
    ) -> Path:
        """As `ensure`, as a coroutine for any event loop. Its events carry `number` as their key.

        `fresh` and `any_file` are for this call what `refresh="check"` and `any_file` are for all.
        """
        reference = self._allowed(url, **options)
        own = self._lookup(digest)
        lookup = replace(own, fresh=own.fresh or fresh, any_file=own.any_file or any_file)
        entry = self._acquisition.hit(reference, lookup)
        if entry is not None:
            return entry.path
        from pgetpy.system.event_loop import in_engine

        return await in_engine(self._acquisition.obtain(reference, lookup, number))

    def follow(
        self,
        url: str,
        follower: Follower,
        *,
        digest: str | None = None,
        **options: Unpack[ReferenceOptions],
    ) -> Future[Path]:
        """As `ensure`, but return at once; `follower` is told which bytes have arrived.

        It is told nothing about cached entries, about downloads by another process, or about
        archives and folders. Bytes are unverified until the future completes. Cancelling the future
        stops the download.

        Args:
            url: see `ensure`.
            follower: is told what arrives; see `core.references.jobs.Follower`.
            digest: see `ensure`.
            options: see `ensure`.

        Returns:
            A future of the path.
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
        """As `follow`, but fetch only the parts that `choose` selects, unless all is cached.

        Parts are neither kept nor verified: the future gives None instead of a path. If the server
        cannot send parts, the whole file is fetched.

        Args:
            url: see `ensure`.
            choose: selects the parts; see `destinations.sinks.parts.PartsSink`.
            first: how many bytes to fetch from the beginning, for `choose` to decide by.
            follower: is told what arrives.
            options: see `ensure`.
        """
        reference = self._allowed(url, **options)
        lookup = self._lookup(None)
        entry = self._acquisition.hit(reference, lookup)
        from pgetpy.system.event_loop import begin, done

        if entry is not None:
            return done(entry.path)
        return begin(self._acquisition.pick(reference, lookup, choose, first, follower))

    def ensure_many(self, urls: Iterable[str], **options: Unpack[ReferenceOptions]) -> list[Path]:
        """Return the paths of several objects, fetched in parallel. None is evicted until all are
        there.

        Args:
            urls: see `ensure`.
            options: `wanted`, patterns and tokens for all of them; see `ensure`.

        Raises:
            PgetError: the first failure; the other downloads are stopped.
        """
        references = [self._allowed(url, **options) for url in urls]
        from pgetpy.system.event_loop import run_blocking

        return run_blocking(self._acquisition.obtain_all(references, self._lookup(None)))

    async def ensure_many_async(
        self, urls: Iterable[str], **options: Unpack[ReferenceOptions]
    ) -> list[Path]:
        """As `ensure_many`, as a coroutine for any event loop."""
        references = [self._allowed(url, **options) for url in urls]
        from pgetpy.system.event_loop import in_engine

        return await in_engine(self._acquisition.obtain_all(references, self._lookup(None)))

    def lookup(self, url: str, **options: Unpack[ReferenceOptions]) -> Path | None:
        """Return the path if `url` is cached, None if not; makes no request.

        An entry fetched with another token is a miss until `ensure` shows that this token opens it.

        Args:
            url: see `ensure`.
            options: `wanted`, patterns and tokens; see `ensure`.

        Raises:
            NotAllowedError: the policy forbids it.
        """
        entry = self._acquisition.peek(self._allowed(url, **options), LookupOptions())
        return entry.path if entry is not None else None

    def repository(self, url: str, **options: Unpack[ReferenceOptions]) -> str:
        """Return the canonical name of the repository `url`; empty for a file or with patterns."""
        reference = self._reference(url, **options)
        return str(reference) if reference.several and not reference.patterns else ""

    @contextlib.contextmanager
    def lease(
        self, url: str, *, digest: str | None = None, **options: Unpack[ReferenceOptions]
    ) -> Iterator[Path]:
        """Ensure `url`, and keep it from being evicted within the block; see `ensure`."""
        with self.hold(url, **options):
            yield self.ensure(url, digest=digest, **options)

    def hold(self, url: str, **options: Unpack[ReferenceOptions]) -> Lease:
        """Keep what `url` names, now or once it is cached, until the lease is released."""
        return self._store.lease(self._reference(url, **options).key)

    def hold_many(
        self, urls: Iterable[str], **options: Unpack[ReferenceOptions]
    ) -> list[LeasedPath]:
        """Ensure several objects in parallel, and keep each until its lease is released.

        Args:
            urls: see `ensure_many`.
            options: see `ensure_many`.

        Raises:
            PgetError: the first failure; the others are stopped and all leases released.
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
        """Hash the cached content of `url` and compare it with its recorded digest.

        Args:
            url: see `ensure`.
            repair: fetch damaged content again, and content without a digest unless the service
                says what it is.
            options: see `ensure`.

        Returns:
            What was found, before any repair.
        """
        self._hasher.wait()
        verdict = self._store.verify(self._reference(url, **options).key)
        if verdict in (Verdict.DAMAGED, Verdict.UNKNOWN) and repair:
            self.repair(url, **options)
        return verdict

    def repair(self, url: str, **options: Unpack[ReferenceOptions]) -> Path:
        """As `ensure`, but return only content that is known to be what the server has."""
        reference = self._allowed(url, **options)
        lookup = replace(self._lookup(None), proven=True)
        from pgetpy.system.event_loop import run_blocking

        return run_blocking(self._acquisition.obtain(reference, lookup))

    # ------------------------------------------------------------------------------------ innards

    def _lookup(self, digest: str | None) -> LookupOptions:
        return LookupOptions(parse_digest(digest), self._fresh, self._any_file)


def usual_cache() -> WeightsDownloadCache:
    """Return the cache that the environment names, one for the whole process."""
    return _usual(CacheSettings.from_environment(os.environ).folder)


@lru_cache(maxsize=4)
def _usual(folder: Path) -> WeightsDownloadCache:
    return WeightsDownloadCache(folder)
