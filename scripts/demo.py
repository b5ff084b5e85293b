"""What `make demo` shows: pgetpy at work on made-up weights, against a server of its own.

Runs the real command line in processes of its own and checks every result with hashlib. A table of
steps at the end of the file says what is shown; each step prints what it did or raises DemoError.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.origin import MIB, Behaviour, Origin, parse_size, weights, write_weights

_PGETPY = (sys.executable, "-m", "pgetpy")
_SMALL_FILES, _SMALL = 200, 100_000
_ADAPTER = 32 * MIB
# With eight connections 200 MB/s: slow enough to be killed in the middle.
_KILL_PACE = 25_000_000
_LIMIT_S = 55.0
_GRACE_S = 3.0


class DemoError(Exception):
    """Something is not as it should be; the sentence says what."""


@dataclass(frozen=True)
class Stage:
    """What the steps share: where weights are served from, what they hash to, where they may go."""

    served: Path
    place: Path
    size: int
    digests: dict[str, str]


# -------------------------------------------------------------------------------------- steps


def download(stage: Stage) -> str:
    """One large file"""
    dest = stage.place / "model.safetensors"
    with Origin(stage.served) as origin:
        result = _run([origin.url("model.safetensors"), str(dest), *_checksum(stage)])
    _compare(dest, stage.digests["model.safetensors"])
    return (
        f"{_size(stage.size)} in {_seconds(result)} ({_rate(result)}) over "
        f"{_count(result['connections'], 'connection')}; sha256 right"
    )


def manifest(stage: Stage) -> str:
    """Many small files by a manifest with checksums"""
    folder = stage.place / "small"
    folder.mkdir()
    names = [name for name in stage.digests if name.startswith("small-")]
    listed = stage.place / "manifest"
    with Origin(stage.served) as origin:
        listed.write_text(
            "# url  destination  checksum\n"
            + "".join(f"{origin.url(n)} {folder / n} sha256:{stage.digests[n]}\n" for n in names)
        )
        begin = time.perf_counter()
        _finish(_start(["multifile", str(listed)]))
        seconds = time.perf_counter() - begin
    for name in names:
        _compare(folder / name, stage.digests[name])
    return f"{len(names)} files of {_SMALL // 1000} kB in {seconds:.2f} s; every sha256 right"


def extract(stage: Stage) -> str:
    """A tar of all of them, extracted while it arrives"""
    packed = stage.served / "weights.tar"
    with tarfile.open(packed, "w") as archive:
        for name in stage.digests:
            archive.add(stage.served / name, name)
    folder = stage.place / "extracted"
    with Origin(stage.served) as origin:
        result = _run(["-x", origin.url(packed.name), str(folder)])
    packed.unlink()
    for name, digest in stage.digests.items():
        _compare(folder / name, digest)
    return (
        f"{len(result['members'])} members, {_size(result['size'])} in {_seconds(result)} "
        f"({_rate(result)}); every sha256 right"
    )


def kill_and_resume(stage: Stage) -> str:
    """kill -9 in the middle, then the same command again"""
    dest = stage.place / "resumed.safetensors"
    with Origin(stage.served, Behaviour(pace=_KILL_PACE)) as origin:
        command = [origin.url("model.safetensors"), str(dest), "-c", "8", *_checksum(stage)]
        arrived = _kill_at_half([*command, "--progress", "json"], stage.size)
        if dest.exists():
            raise DemoError("a killed run left a file under the finished name")
        print(f"    killed when {_size(arrived)} had arrived; again:", flush=True)
        result = _run(command)
    _compare(dest, stage.digests["model.safetensors"])
    kept = result["resumed"]
    if kept < arrived // 2:
        raise DemoError(f"of {arrived} bytes that had arrived only {kept} were kept")
    return (
        f"{_size(kept)} kept, {_size(stage.size - kept)} fetched in {_seconds(result)}; "
        f"sha256 right"
    )


def refuse_wrong_bytes(stage: Stage) -> str:
    """A checksum that does not match"""
    dest = stage.place / "wrong.bin"
    with Origin(stage.served) as origin:
        wrong = "sha256:" + hashlib.sha256(b"another file").hexdigest()
        refused = _start(
            [origin.url("small-000"), str(dest), "--checksum", wrong], stderr=subprocess.PIPE
        )
        _, said = refused.communicate()
    if refused.returncode == 0 or dest.exists():
        raise DemoError("wrong bytes were taken for right ones")
    if "checksum" not in said:
        raise DemoError(f"pgetpy failed for another reason than the checksum: {said[-300:]}")
    return f"refused, nothing under the finished name, exit {refused.returncode}"


def cache(stage: Stage) -> str:
    """The cache with room for two adapters: a miss, a hit, an eviction"""
    folder, names = stage.place / "cache", [f"{letter}.safetensors" for letter in "abc"]
    digests = [_write_adapter(stage.served / name, seed) for seed, name in enumerate(names)]
    bounds = ["--min-disk-free", "0", "--max-bytes", str(_ADAPTER * 5 // 2)]
    where = ["--cache-dir", str(folder)]
    with Origin(stage.served) as origin:
        urls = [origin.url(name) for name in names]
        begin = time.perf_counter()
        first, _ = _ensure([*urls[:2], *where, *bounds])
        missed = time.perf_counter() - begin
        hit = _hit_seconds(folder, urls[0], first)
        print("    one more than there is room for; what was used longest ago leaves:", flush=True)
        (third,) = _ensure([urls[2], *where, *bounds])
        print(*(f"    {line}" for line in _list(where)), sep="\n", flush=True)
        gone = _start(["cache", "path", urls[1], *where], stderr=subprocess.DEVNULL)
        if gone.communicate()[0] or gone.returncode != 1:
            raise DemoError("what was used longest ago is still there")
    for name, path, digest in ((names[0], first, digests[0]), (names[2], third, digests[2])):
        (stage.served / name).unlink()
        _compare(path, digest)
    shutil.rmtree(folder)
    return (
        f"two misses in {missed:.2f} s, a hit in {hit * 1e6:.0f} µs without a request; sha256 right"
    )


# ------------------------------------------------------------------------- running the program


def _environment() -> dict[str, str]:
    """Our environment without what would change the show: settings of pgetpy's, a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PGET_")}
    # The lines for scripts at the end of a run are wider than a terminal; its bar says the same.
    quiet = {"PGET_LOG_LEVEL": "warn"}
    if sys.stderr.isatty():
        quiet["PGET_PROGRESS"] = "bar"
    return {**kept, **quiet, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*_PGETPY, *arguments], stdout=subprocess.PIPE, text=True, env=_environment(), **options
    )


def _finish(process: subprocess.Popen[str]) -> str:
    """Wait for success and return what was printed; a run that is given up is killed."""
    with process:
        try:
            stdout, _ = process.communicate()
        except BaseException:
            # A Ctrl-C is for it as well: it puts its bar and the terminal in order.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            process.kill()
            raise
    if process.returncode != 0:
        raise DemoError(f"pgetpy ended with exit {process.returncode}")
    return stdout


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one download to its end, its bar on our terminal; return its --json result."""
    result: dict[str, Any] = json.loads(_finish(_start([*arguments, "--json"])))
    return result


def _ensure(arguments: Sequence[str]) -> list[Path]:
    """Run `pgetpy ensure`, its bars on our terminal; return the paths it prints."""
    return [Path(line) for line in _finish(_start(["ensure", *arguments])).splitlines()]


def _list(arguments: Sequence[str]) -> list[str]:
    """Return the table of `pgetpy cache ls`."""
    return [line for line in _finish(_start(["cache", "ls", *arguments])).splitlines() if line]


def _hit_seconds(folder: Path, url: str, expected: Path) -> float:
    """Return the median time of a hit in a process that has the cache open: this one."""
    from pgetpy import WeightsDownloadCache

    times = []
    with WeightsDownloadCache(folder, min_disk_free=0) as opened:
        for _ in range(1000):
            begin = time.perf_counter()
            path = opened.ensure(url)
            times.append(time.perf_counter() - begin)
            if path != expected:
                raise DemoError(f"a hit led to {path}")
    return sorted(times)[len(times) // 2]


def _write_adapter(path: Path, seed: int) -> str:
    """Write a safetensors file with one tensor to `path`; return its sha256 in hex."""
    tensor = {"dtype": "U8", "shape": [_ADAPTER], "data_offsets": [0, _ADAPTER]}
    head = json.dumps({"adapter": tensor}).encode()
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for block in (struct.pack("<Q", len(head)), head, *weights(_ADAPTER, seed)):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def _kill_at_half(arguments: Sequence[str], size: int) -> int:
    """Kill a run -9 as soon as it reports half of `size`; return what it had reported."""
    process = _start(arguments, stderr=subprocess.PIPE)
    assert process.stderr is not None
    last = "nothing was said"
    with process:
        try:
            for line in process.stderr:
                if (done := _done(line)) >= size // 2:
                    return done
                last = line.strip() or last
        finally:
            process.kill()
    raise DemoError(f"the run ended before half had arrived: {last[:300]}")


def _limit() -> None:
    """End with an error rather than hang: the whole demo has `_LIMIT_S` seconds."""

    def late(*_: object) -> None:
        raise DemoError(f"not done after {_LIMIT_S:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)


def _done(line: str) -> int:
    """Return the bytes held that one line of JSON progress reports, 0 where it reports none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        event = json.loads(line)
        # Verification reports what is done as well; it has no connections.
        return int(event["done"]) if "connections" in event else 0
    return 0


def _checksum(stage: Stage) -> tuple[str, str]:
    return "--checksum", f"sha256:{stage.digests['model.safetensors']}"


def _compare(path: Path, expected: str) -> None:
    """Hash `path` ourselves and remove it: the next step needs the room."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(MIB):
            digest.update(block)
    path.unlink()
    if digest.hexdigest() != expected:
        raise DemoError(f"{path.name} has the wrong bytes, and success was reported")


# --------------------------------------------------------------------------------------- words


def _size(count: float) -> str:
    # As the program's own bars and tables have it.
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['seconds']:.2f} s"


def _rate(result: dict[str, Any]) -> str:
    return f"{result['bytes_per_second'] / 1e6:,.0f} MB/s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ----------------------------------------------------------------------------------------- all

# The first line of a step's docstring is its heading.
STEPS: tuple[Callable[[Stage], str], ...] = (
    download,
    manifest,
    extract,
    kill_and_resume,
    refuse_wrong_bytes,
    cache,
)


@contextlib.contextmanager
def _stage(size: int) -> Iterator[Stage]:
    """Make the weights in a temporary folder, at most a quarter of the free space large."""
    with tempfile.TemporaryDirectory(prefix="pgetpy-demo-") as folder:
        size = max(64 * MIB, min(size, shutil.disk_usage(folder).free // 4))
        served, place = Path(folder, "served"), Path(folder, "place")
        served.mkdir()
        place.mkdir()
        digests = {"model.safetensors": write_weights(served / "model.safetensors", size)}
        for number in range(_SMALL_FILES):
            name = f"small-{number:03}"
            digests[name] = write_weights(served / name, _SMALL, seed=number + 1)
        print(f"made-up weights: {_size(size)} and {_SMALL_FILES} small files", flush=True)
        yield Stage(served, place, size, digests)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=main.__doc__)
    parser.add_argument("--size", type=parse_size, default=10**9, help="of the large file (1G)")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    _limit()
    try:
        with _stage(options.size) as stage:
            for step in STEPS:
                print(f"\n==> {step.__doc__}", flush=True)
                print(f"    {step(stage)}", flush=True)
    except KeyboardInterrupt:
        print("\nThe demo was interrupted; its folder is removed.", file=sys.stderr)
        return 130
    except (DemoError, OSError, ValueError, KeyError) as failure:
        print(f"\nThe demo failed: {failure!r}", file=sys.stderr)
        return 1
    print(f"\nAll of it worked, in {time.perf_counter() - begin:.0f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
