"""The files of a plan, from the cache or their servers, in the version that was planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pgetpy.core.pipelines.plans import PipelineFile
from pgetpy.core.weights.shards import SUFFIX
from pgetpy.errors import ObjectChangedError
from pgetpy.system.event_loop import gather_limited, run_blocking
from pgetpy.weights.cache import WeightsDownloadCache

# Files of one pipeline that are fetched at the same time.
_AT_A_TIME = 20


@contextmanager
def held_files(
    cache: WeightsDownloadCache, files: Sequence[PipelineFile]
) -> Iterator[dict[str, Path]]:
    """Fetch `files`, and keep them from being evicted within the block.

    Yields:
        Their paths on disk, by their paths in the pipeline.

    Raises:
        PgetError: one cannot be fetched; the others are stopped.
        ObjectChangedError: one is not what was planned any more.
    """
    with ExitStack() as leases:
        for each in files:
            if each.url:
                leases.enter_context(cache.hold(each.reference, wanted=each.wanted))
        # Numbered from 1: progress shows single files, such as model_index.json, as number 0.
        works = [partial(fetch_file, cache, each, at) for at, each in enumerate(files, 1)]
        paths = run_blocking(gather_limited(works, _AT_A_TIME))
        yield {each.path: path for each, path in zip(files, paths, strict=True)}


async def fetch_file(cache: WeightsDownloadCache, file: PipelineFile, number: int = 0) -> Path:
    """Return the path of a planned file. Events of its download carry `number` as their key.

    What is cached under its reference may be of an earlier version. So it is compared with the
    sha256, or else its server is asked.

    Raises:
        PgetError: it cannot be fetched.
        ObjectChangedError: it is not what was planned any more.
    """
    if not file.url:
        return Path(file.reference)
    # A configuration is not weights; weights have to be what their name says.
    small = not (file.wanted == "folder" or file.path.endswith(SUFFIX))
    path = await cache.ensure_async(
        file.reference,
        digest=None if file.cached else file.sha256 or None,
        fresh=not file.cached and not file.sha256,
        any_file=small,
        number=number,
        wanted=file.wanted,
    )
    path = path / file.member
    size = path.stat().st_size
    if not file.archive and file.size not in (None, size):
        raise ObjectChangedError(file.url, f"{file.size} bytes", f"{size} bytes")
    return path
