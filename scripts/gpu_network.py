"""Downloads over loopback by number of cores: one process of ours, several, and peers.

The server runs in several processes, so that Python's lock in one of them limits no client.
Prints one table in Markdown, also where it is interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

from scripts import origin
from scripts.bench.machine import core_counts, file_system

_SIZE = 1 << 30
_ROUNDS = 3
_NAME = "w"
KINDS = ("plain", "TLS")
_MEMORY = Path("/dev/shm")
Results = dict[tuple[str, int, str], list[float | str]]
_HF = "import sys, hf_transfer; hf_transfer.download(sys.argv[1], sys.argv[2], 8, 10485760, 3, 5)"


@dataclass(frozen=True)
class Row:
    """A server and the number of cores that its clients have."""

    url: str
    cores: int
    cafile: Path | None = None


def _ours(row: Row) -> list[str]:
    return [sys.executable, "-m", "pgetpy", row.url]


def _curl(row: Row) -> list[list[str]]:
    trust = ["--cacert", str(row.cafile)] if row.cafile else []
    return [["curl", "-q", "-sSf", *trust, row.url, "-o"]] if shutil.which("curl") else []


def _hf_transfer(row: Row) -> list[list[str]]:
    there = importlib.util.find_spec("hf_transfer")
    return [[sys.executable, "-c", _HF, row.url]] if there else []


# What to start side by side for each, nothing where it is not installed.
PROGRAMS: dict[str, Callable[[Row], list[list[str]]]] = {
    "pgetpy": lambda row: [_ours(row)],
    "one pgetpy a core": lambda row: [_ours(row)] * row.cores,
    "curl": _curl,
    "hf_transfer": _hf_transfer,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure in rounds until the time is over, and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=90.0, help="no run begins after these")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + options.seconds
    counts = core_counts()
    place, size = room(max(1 << 20, int(_SIZE * options.scale)), max(counts))
    results: Results = defaultdict(list)
    code = 0
    with tempfile.TemporaryDirectory(dir=place) as name:
        try:
            _measure(Path(name), size, counts, deadline, results)
        except KeyboardInterrupt:
            code = 130
        # The table first: removing the files may take longer than an interrupted step has.
        whole = _report(results, counts, f"{size / 1e6:.0f} MB on {file_system(place)}")
    return code or int(not whole)


def _measure(
    folder: Path, size: int, counts: Sequence[int], deadline: float, results: Results
) -> None:
    """Add to `results` what each program does in each round until the deadline."""
    origin.write_weights(folder / _NAME, size)
    with served(folder, tls=False) as plain, served(folder, tls=True) as tls:
        servers = dict(zip(KINDS, ((plain, None), (tls, folder / "ca.pem")), strict=True))
        # The fewest and the most first: time may be over before all have had a turn.
        order = sorted(counts, key=lambda cores: (cores not in (1, max(counts)), cores))
        for _, cores, kind, program in itertools.product(range(_ROUNDS), order, servers, PROGRAMS):
            found = results[kind, cores, program]
            if time.monotonic() < deadline and not _words(found):
                url, cafile = servers[kind]
                row = Row(url, cores, cafile)
                found.append(rate(PROGRAMS[program](row), folder, size, row))


def _report(results: Results, counts: Sequence[int], files: str) -> bool:
    """Print the table and the reasons of failures; return whether all figures are there."""
    print(*table(results, counts), sep="\n")
    print(f"\nGB/s of whole processes and files of {files}: the median of as many rounds as there")
    print(f"was time for, at most {_ROUNDS}.")
    reasons = [
        f"{kind}, {cores} cores, {program}: {word}"
        for (kind, cores, program), found in sorted(results.items())
        for word in _words(found)
        if word.startswith("failed")
    ]
    print(*(f"\n{reason}" for reason in reasons), sep="\n", flush=True)
    cells = itertools.product(KINDS, counts, PROGRAMS)
    return not reasons and all(results.get(key) for key in cells)


def table(results: Results, counts: Sequence[int]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| | cores | {' | '.join(PROGRAMS)} |"
    yield "|" + " --- |" * (2 + len(PROGRAMS))
    for kind, cores in itertools.product(KINDS, counts):
        cells = (cell(results.get((kind, cores, program), ())) for program in PROGRAMS)
        yield f"| {kind} | {cores} | {' | '.join(cells)} |"


def cell(found: Sequence[float | str]) -> str:
    """Return what the table says of one program: a rate, or why there is none."""
    if words := _words(found):
        return words[0].partition(":")[0]
    rates = [float(one) for one in found]
    return f"{statistics.median(rates):.2f}" if rates else "not reached"


def _words(found: Sequence[float | str]) -> list[str]:
    return [one for one in found if isinstance(one, str)]


def room(size: int, most: int) -> tuple[Path, int]:
    """Return where the files go and how large they are, with `most` of them beside the first one.

    In memory if they fit: containers often have no more than 64 MB there. On a disk they are
    smaller, as many at a time would wait for it.
    """
    disk = Path(tempfile.gettempdir())
    files = most + 1
    if os.access(_MEMORY, os.W_OK) and _free(_MEMORY) > 2 * size * files:
        return _MEMORY, size
    return disk, max(1 << 20, min(size // 4, _free(disk) // 2 // files))


def _free(place: Path) -> int:
    """Return how many bytes fit in `place`; what is in memory takes of that which is available."""
    free = shutil.disk_usage(place).free
    if place == _MEMORY:
        [line] = [s for s in Path("/proc/meminfo").read_text().splitlines() if "MemAvail" in s]
        free = min(free, int(line.split()[1]) * 1024)
    return free


def rate(commands: Sequence[list[str]], folder: Path, size: int, row: Row) -> float | str:
    """Return the GB/s of `commands` side by side on the first cores, or why there are none."""
    if not commands:
        return "not installed"
    cores = os.sched_getaffinity(0)
    trust = {"SSL_CERT_FILE": str(row.cafile)} if row.cafile else {}
    environ = {**os.environ, **trust, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    running: list[subprocess.Popen[bytes]] = []
    place = folder / "run"
    place.mkdir()
    said = place / "said"
    # What we start inherits it.
    os.sched_setaffinity(0, sorted(cores)[: row.cores])
    begin = time.perf_counter()
    try:
        with said.open("wb") as file:
            for number, command in enumerate(commands):
                running.append(
                    subprocess.Popen(
                        [*command, str(place / f"out{number}")],
                        env=environ,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=file,
                    )
                )
        ended = [process.wait() for process in running]
        seconds = time.perf_counter() - begin
    finally:
        os.sched_setaffinity(0, cores)
        for process in running:
            process.kill()
            process.wait()
    sizes = [path.stat().st_size for path in place.glob("out*")]
    last = said.read_text(errors="replace").strip().splitlines()[-1:]
    # What failed may have left a part.
    shutil.rmtree(place)
    if any(ended) or sizes != [size] * len(commands):
        return f"failed: exit {max(ended, key=abs)}, {' '.join(last) or 'nothing said'}"
    return size * len(commands) / seconds / 1e9


@contextlib.contextmanager
def served(folder: Path, *, tls: bool) -> Iterator[str]:
    """Serve `folder` from as many processes as there are processors; give the URL of its file."""
    context = _certified(folder / "ca.pem") if tls else None
    with origin.listen() as listener:
        children = []
        for _ in os.sched_getaffinity(0):
            child = os.fork()
            if not child:
                # Whatever happens, a child must not run what its parent does after this.
                try:
                    _serve(listener, folder, context)
                finally:
                    os._exit(1)
            children.append(child)
        try:
            yield f"http{'s' * tls}://127.0.0.1:{listener.getsockname()[1]}/{_NAME}"
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _certified(cafile: Path) -> ssl.SSLContext:
    """Return what a server needs, and write to `cafile` what its clients have to trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(cafile))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def _serve(listener: object, folder: Path, context: ssl.SSLContext | None) -> None:
    """Answer connections until this process is killed."""
    # A Ctrl-C is for the client: the parent kills us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raw = listener
    while True:
        sock, _ = raw.accept()  # type: ignore[attr-defined]
        threading.Thread(target=_answer, args=(sock, folder, context), daemon=True).start()


def _answer(sock: object, folder: Path, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)  # type: ignore[arg-type]
        origin.serve_connection(sock, folder)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main())
