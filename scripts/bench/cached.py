"""What is timed of the weights cache: a program that does one thing and prints how long it took.

python -m scripts.bench.cached ensure URL FOLDER [DIGEST]    path
python -m scripts.bench.cached download URL DEST [CHECKSUM]  path
python -m scripts.bench.cached hits FOLDER COUNT             median seconds of a hit among COUNT
python -m scripts.bench.cached evict FOLDER COUNT            seconds for COUNT entries to leave
python -m scripts.bench.cached import                        seconds to import the class
python -m scripts.bench.cached generation FOLDER COUNT       seconds to publish COUNT cached files
python -m scripts.bench.cached cp FOLDER COUNT               seconds for cp -al to link as many
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_HITS = 5000
# How many entries they are of, however many there are: a URL that is new to the process takes
# longer, as it is parsed first.
_HIT_ENTRIES = 100
_CONTENT = 1000


def ensure(url: str, folder: str, digest: str | None = None) -> str:
    """Bring `url` into a cache at `folder`; return its path."""
    from pgetpy import WeightsDownloadCache

    # The benchmark's weights are random bytes.
    with WeightsDownloadCache(folder, min_disk_free=0, any_file=True) as cache:
        return str(cache.ensure(url, digest=digest, wanted="file"))


def download(url: str, dest: str, checksum: str | None = None) -> str:
    """Download `url` to `dest`; return its path."""
    import pgetpy

    return pgetpy.download(url, dest, checksum=checksum).dest


def hits(folder: str, count: str) -> float:
    """Return the median of the seconds that a hit takes in a cache of `count` entries."""
    from pgetpy import WeightsDownloadCache

    with WeightsDownloadCache(folder, min_disk_free=0, any_file=True) as cache:
        urls = _filled(folder, int(count))
        wanted = urls[:: max(1, len(urls) // _HIT_ENTRIES)]
        times = []
        for number in range(_HITS):
            url = wanted[number % len(wanted)]
            begin = time.perf_counter()
            cache.ensure(url)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)


def evict(folder: str, count: str) -> float:
    """Return the seconds that it takes `count` entries to make room."""
    from pgetpy import WeightsDownloadCache

    _filled(folder, int(count))
    with WeightsDownloadCache(folder, min_disk_free=0, max_bytes=0) as cache:
        begin = time.perf_counter()
        cache.evict()
        return time.perf_counter() - begin


def importing() -> float:
    """Return the seconds that importing the class takes."""
    begin = time.perf_counter()
    from pgetpy import WeightsDownloadCache

    assert WeightsDownloadCache
    return time.perf_counter() - begin


def generation(folder: str, count: str) -> float:
    """Return the seconds that it takes to link and publish `count` cached files.

    It is the second generation of the process, as in a daemon: modules are imported, URLs parsed.
    """
    from pgetpy import WeightsDownloadCache
    from pgetpy.generations import FileLine, GenerationLock, Generations

    urls = _filled(f"{folder}/cache", int(count))
    with WeightsDownloadCache(f"{folder}/cache", min_disk_free=0) as cache:
        lines = []
        for number, url in enumerate(urls):
            record = cache.record(url)
            assert record is not None
            if not record.digest:
                cache.settle_one(record.key)
                record = cache.record(url)
                assert record is not None
            lines.append(FileLine(url, f"{number % 10}/{number}.bin", record.digest))
        generations = Generations(folder, cache, fsync=False)
        first = 1 + (generations.ready().latest or 0)
        for number in (first, first + 1):
            lock = GenerationLock(number, tuple(lines))
            begin = time.perf_counter()
            generations.build(lock)
            taken = time.perf_counter() - begin
        generations.prune(keep=1)
        return taken


def copy_links(folder: str, count: str) -> float:
    """Return the seconds that cp takes to link as many files as `generation` does."""
    source = f"{folder}/latest/files"
    if not Path(source).is_dir():
        generation(folder, count)
    dest = f"{folder}/copied"
    shutil.rmtree(dest, ignore_errors=True)
    begin = time.perf_counter()
    subprocess.run(["cp", "-al", f"{source}/", dest], check=True)
    taken = time.perf_counter() - begin
    shutil.rmtree(dest)
    return taken


def _filled(folder: str, count: int) -> list[str]:
    """Have `count` entries in the cache at `folder`; return their URLs."""
    from pgetpy.cache.store import Store
    from pgetpy.core.cache.records import About
    from pgetpy.sources.table import parse_reference

    urls = [f"http://weights.test/{number}.bin" for number in range(count)]
    with Store(folder) as store:
        for number, url in enumerate(urls):
            key = parse_reference(url).key
            if store.peek(key) is not None:
                continue
            fill = store.try_fill(key)
            assert fill is not None
            source = fill.folder / "object"
            source.write_bytes(number.to_bytes(8, "big") * (_CONTENT // 8))
            fill.publish(source, About(url), name="weights.bin")
    return urls


_TASKS: dict[str, Callable[..., str | float]] = {
    "ensure": ensure,
    "download": download,
    "hits": hits,
    "evict": evict,
    "import": importing,
    "generation": generation,
    "cp": copy_links,
}


def main() -> None:
    """Do the task that the arguments name."""
    _, task, *arguments = sys.argv
    found = _TASKS[task](*arguments)
    print(json.dumps(found if isinstance(found, float) else str(Path(found).absolute())))


if __name__ == "__main__":
    main()
