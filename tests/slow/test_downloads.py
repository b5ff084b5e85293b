"""Long runs of chance: kills and faults at any moment. The result is right or an error, never wrong
bytes, never a hang, and what is left is the part file and its journal.

Each prints its seed; PGETPY_SOAK_SEED repeats it, PGETPY_SOAK_SECONDS makes all of them longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import pgetpy
from pgetpy.errors import PgetError
from tests.support import faults, judges
from tests.support.authority import Authority
from tests.support.bodies import body, digest
from tests.support.children import MIB, after, journal_of, part_of
from tests.support.faults import Fault, Pace, When
from tests.support.fetching import fetch, names_in
from tests.support.processes import Run
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.server import Server

# A hang is a failure, and the slowest of all these is far from it.
HANG = 60.0
BEGUN = "import sys\nprint('begun', file=sys.stderr, flush=True)"
_SEED = 1382181185

pytestmark = pytest.mark.timeout(600)


@dataclass
class Soak:
    """Chance with a seed, a time that is over some day, and counts of what happened."""

    name: str
    seconds: float
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)

    def rounds(self) -> Iterator[int]:
        deadline = time.monotonic() + self.seconds
        number = 0
        while time.monotonic() < deadline:
            number += 1
            yield number
        self.counts["rounds"] = number

    def count(self, what: str) -> None:
        self.counts[what] += 1


@pytest.fixture
def soak(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[float], Soak]]:
    """Makes a Soak of so many seconds; what it counted is printed at its end."""
    # What decides over a change is the same each time; at home every run tries something else.
    usual = _SEED if judges.required() else random.SystemRandom().randrange(1 << 32)
    seed = int(os.environ.get("PGETPY_SOAK_SEED") or usual)
    factor = float(os.environ.get("PGETPY_SOAK_SECONDS") or 1)
    made: list[Soak] = []

    def make(seconds: float) -> Soak:
        made.append(Soak(request.node.name, seconds * factor, random.Random(seed)))
        with capsys.disabled():
            print(f"\n{made[-1].name}: {made[-1].seconds:.0f} s, seed {seed}", flush=True)
        return made[-1]

    yield make
    for one in made:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(one.counts.items()))
        with capsys.disabled():
            print(f"{one.name}: {counts}", flush=True)


def own(dest: Path) -> set[str]:
    return {part_of(dest).name, journal_of(dest).name}


def is_left_by_a_kill(name: str, size: int) -> bool:
    is_part = name.endswith(".pgetpy-part") and size < MIB
    return is_part or name.endswith(".pgetpy-lock")


# ------------------------------------------------------------------- kills


@pytest.mark.parametrize("way", ["plain", "TLS", "proxy"])
def test_kills_at_any_moment_end_right(
    way: str, soak: Callable[[float], Soak], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("tls_server" if way == "TLS" else "server")
    chance = (run := soak(20)).chance
    options: list[str | Path] = []
    env = {}
    if way == "TLS":
        options = ["--cacert", request.getfixturevalue("ca").pem]
    if way == "proxy":
        env = {"http_proxy": request.getfixturevalue("proxy").url()}
    dest = tmp_path / "got"
    for number in run.rounds():
        data = body(chance.choice([300_000, 3_000_000, 12_000_000]), f"soak {number % 3}")
        etag = f'"{number}"'
        url = server.add("/model", Resource(data, etag=etag, faults=[Pace(4 * MIB)]))
        before = len(server.requests)
        for _ in range(40):
            extra = chance.choice([[], ["-c", "1"], ["-c", "8"], ["-m", "400k"], ["--no-resume"]])
            if chance.random() < 0.3:
                extra = [*extra, "--checksum", f"sha256:{digest(data)}"]
            with Run(url, dest, *options, *extra, env=env) as running:
                killed = kill_after(running, chance.uniform(0.1, 1.2))
            run.count("kills" if killed else "finished")
            if not killed:
                assert running.process.returncode == 0
                break
            if dest.exists():
                break
        else:
            fetch_to_the_end(server, url, dest, options)
        if not dest.exists():
            fetch_to_the_end(server, url, dest, options)
        assert dest.read_bytes() == data
        assert len(server.requests) > before
        # A small file has a part file of a name of its own, which a kill leaves; and in the moment
        # when locks are tried there is a file for that.
        left = set(names_in(tmp_path)) - own(dest) - {"got"}
        assert all(is_left_by_a_kill(name, len(data)) for name in left)
        for name in set(names_in(tmp_path)):
            (tmp_path / name).unlink()


def kill_after(running: Run, seconds: float) -> bool:
    """kill -9 after so many seconds; False where it had ended by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            return False
        time.sleep(0.005)
    running.kill()
    return True


def fetch_to_the_end(server: Server, url: str, dest: Path, options: list[str | Path]) -> None:
    server.change("/model", faults=())
    with Run(url, dest, "-f", *options) as last:
        ended = last.wait(HANG)
    assert ended.code == 0, ended.err


def test_signals_at_any_moment_end_in_good_order(
    soak: Callable[[float], Soak], server: Server, tmp_path: Path
) -> None:
    import signal

    run = soak(20)
    chance = run.chance
    data = body(6_000_000)
    dest = tmp_path / "got"
    for _ in run.rounds():
        url = server.add("/model", Resource(data, faults=[Pace(4 * MIB)]))
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        # Of a signal in the middle of its start or its end the interpreter itself makes an end.
        # What it makes of one before it has begun is its own affair.
        with Run(url, dest, "-c", chance.choice("148"), program=after(BEGUN)) as running:
            running.wait_until(lambda running=running: running.err)
            deadline = time.monotonic() + chance.uniform(0, 1.2)
            while time.monotonic() < deadline and running.process.poll() is None:
                time.sleep(0.005)
            running.send(number)
            ended = running.wait(HANG)
        assert ended.code in (0, 130, 143, -number)
        run.count(f"exit {ended.code}")
        assert "Fatal Python error" not in ended.err
        assert ended.code == -number or dest.exists() or "Traceback" not in ended.err
        assert set(names_in(tmp_path)) <= {"got", *own(dest)}
        if dest.exists():
            assert dest.read_bytes() == data
            dest.unlink()


# ------------------------------------------------------------------- faults


def some_fault(chance: random.Random, size: int, other: bytes) -> Fault:
    """A fault of any kind, of any extent, now and then."""
    when = When(
        request=chance.choice([None, None, range(1, 4), range(2, 9)]),
        times=chance.choice([1, 1, 2, 3, 5]),
        after=chance.choice([0, 0, chance.randrange(size + 1)]),
    )
    at = chance.randrange(0, size + 1)
    small = chance.choice([0, 1, 1000, 70_000, 300_000])
    kinds: list[Callable[[], Fault]] = [
        lambda: faults.ResetAfter(min(at, small), when=when),
        lambda: faults.FinAfter(at, when=when),
        lambda: faults.ResetAfter(at, when=when),
        lambda: faults.SilenceAfter(min(at, small), when=when),
        lambda: faults.SilenceBeforeHead(when=when),
        lambda: faults.ShorterRange(max(1, small), when=when),
        lambda: faults.OtherRange(chance.choice([-1, 1, 5]), chance.choice([-3, 0, 2]), when=when),
        lambda: faults.NoContentRange(when=when),
        lambda: faults.StatedTotal(chance.choice(["*", size + 1]), when=when),
        lambda: faults.ContentRangeOn200(when=when),
        lambda: faults.Multipart(when=when),
        lambda: faults.LengthConflict(chance.choice([-7, 9]), when=when),
        lambda: faults.ObsFold(when=when),
        lambda: faults.Garbage(when=when),
        lambda: faults.Interim((103,), when=when),
        lambda: faults.DripHead(chance.choice([1, 7, 100]), when=when),
        lambda: faults.IgnoreRange(when=when),
        lambda: faults.IgnoreIfRange(when=when),
        lambda: faults.EtagPerRequest(2, when=when),
        lambda: faults.Replaced(other, etag='"other"', when=when),
        lambda: faults.Chunked(chance.choice([1000, 100_000]), when=when),
        lambda: faults.NoLength(when=when),
        lambda: faults.Http10(chance.random() < 0.5, when=when),
        lambda: faults.ExtraBytes(when=when),
        lambda: faults.Close(chance.random() < 0.5, when=when),
        lambda: faults.IdleClose(chance.choice([0.0, 0.01]), when=when),
        lambda: faults.Status(chance.choice([404, 408, 425, 429, 500, 502, 503, 504]), when=when),
        lambda: faults.Status(429, retry_after=chance.choice([0, 1]), when=when),
        lambda: faults.Busy(chance.choice([1, 3]), when=when),
        lambda: faults.Encoded(chance.choice(["gzip", "deflate"]), when=when),
        lambda: faults.Crawl(chance.choice([200_000.0, 2_000_000.0]), small, when=when),
        lambda: Pace(chance.choice([1, 4, 16]) * MIB, when=when),
    ]
    return chance.choice(kinds)()


def is_one_of(versions: tuple[bytes, bytes], got: bytes, result: pgetpy.DownloadResult) -> bool:
    """Whether `got` is a version of the object, whole as far as that can be told."""
    if not result.length_known:
        # Only the connection's end ended the body, so that a clean cut looks like its end.
        return any(version.startswith(got) for version in versions)
    return got in versions


@pytest.mark.parametrize("way", ["plain", "TLS", "proxy"])
def test_faults_of_any_kind_end_right_or_in_an_error(
    way: str,
    soak: Callable[[float], Soak],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    server: Server = request.getfixturevalue("tls_server" if way == "TLS" else "server")
    options: dict[str, object] = {"stall_timeout": 1.0, "connect_timeout": 5.0}
    if way == "TLS":
        authority: Authority = request.getfixturevalue("ca")
        options["cacert"] = str(authority.pem)
    if way == "proxy":
        proxy: Proxy = request.getfixturevalue("proxy")
        options["proxies"] = pgetpy.settings.Proxies(http=proxy.url())
    run = soak(35)
    chance = run.chance
    for number in run.rounds():
        size = chance.choice([0, 1, 1000, 200_000, 1_500_000, 5_000_000])
        one, other = (body(size, f"soak {(number + n) % 4}") for n in range(2))
        wrong = [some_fault(chance, size, other) for _ in range(chance.choice([1, 1, 2, 3]))]
        weak = chance.random() < 0.2
        resource = Resource(one, etag='W/"one"' if weak else '"one"', faults=wrong)
        url = server.add("/model", resource)
        call: dict[str, object] = {
            "chunk_size": chance.choice([100_000, 400_000, 1_000_000, 125_000_000]),
            "concurrency": chance.choice([None, 1, 4, 16]),
            "retries": chance.choice([0, 2, 5]),
        }
        if chance.random() < 0.3:
            call["checksum"] = f"sha256:{digest(one)}"
        dest = tmp_path / "got"
        # As often as it takes; each run goes on from what the last one left.
        for _ in range(chance.choice([1, 1, 3])):
            began = time.monotonic()
            try:
                result = fetch(url, dest, **options, **call)
            except PgetError as error:
                run.count(type(error).__name__)
                assert not dest.exists(), (wrong, call)
                assert set(names_in(tmp_path)) <= own(dest), (wrong, call)
            else:
                run.count("right")
                assert is_one_of((one, other), dest.read_bytes(), result), (wrong, call)
                assert names_in(tmp_path) == ["got"], (wrong, call)
                if "checksum" in call:
                    assert dest.read_bytes() == one
                break
            finally:
                assert time.monotonic() - began < HANG, (wrong, call)
        for name in names_in(tmp_path):
            (tmp_path / name).unlink()
        # What the server was not allowed to be sent is a mistake of the client, whatever it met.
        assert server.violations == [], (wrong, call)
        server.requests.clear()


# ------------------------------------------------------------------- many processes


def test_eight_processes_that_are_killed_on_shared_destinations_end_right(
    soak: Callable[[float], Soak], server: Server, tmp_path: Path
) -> None:
    run = soak(90)
    chance = run.chance
    sizes = {"a": 5_000_000, "b": 2_500_000, "c": 400_000}
    data = {name: body(size, name) for name, size in sizes.items()}
    urls = {
        name: server.add(f"/{name}", Resource(data[name], faults=[Pace(3 * MIB)])) for name in sizes
    }
    with contextlib.ExitStack() as stack:
        running: list[tuple[str, Run]] = []
        for _ in run.rounds():
            while len(running) < 8:
                name = chance.choice("aaabbc")
                extra = chance.choice([[], ["-c", "2"], ["--no-resume"], ["-m", "600k"]])
                one = Run(urls[name], tmp_path / name, "-f", *extra)
                running.append((name, stack.enter_context(one)))
            time.sleep(chance.uniform(0.02, 0.15))
            if chance.random() < 0.5:
                name, victim = chance.choice(running)
                if victim.process.poll() is None:
                    victim.kill()
                    run.count("kills")
            for name, one in list(running):
                if one.process.poll() is None:
                    continue
                running.remove((name, one))
                if one.process.returncode == 0:
                    run.count("finished")
                    # Others may be at work on it, but it is never but whole.
                    assert (tmp_path / name).read_bytes() == data[name]
                else:
                    assert one.process.returncode == -9, one.err
            server.requests.clear()
        for _, one in running:
            assert one.wait(HANG).code == 0, one.err
    for name in sizes:
        with Run(urls[name], tmp_path / name, "-f") as last:
            assert last.wait(HANG).code == 0, last.err
        assert (tmp_path / name).read_bytes() == data[name]
    left = [name for name in names_in(tmp_path) if name not in sizes]
    assert all(name.startswith(".c.") or is_left_by_a_kill(name, MIB) for name in left)


def test_eight_processes_whose_locks_do_nothing_end_right(
    soak: Callable[[float], Soak], server: Server, tmp_path: Path
) -> None:
    run = soak(15)
    chance = run.chance
    data = body(3_000_000)
    url = server.add("/model", Resource(data, faults=[Pace(4 * MIB)]))
    dest = tmp_path / "got"
    codes = [
        "",
        "import fcntl\nfcntl.flock = lambda *arguments: None",
        "import fcntl\ndef flock(*_): raise OSError(37, 'No locks')\nfcntl.flock = flock",
    ]
    for _ in run.rounds():
        with contextlib.ExitStack() as stack:
            programs = [after(chance.choice(codes)) for _ in range(8)]
            runs = [stack.enter_context(Run(url, dest, "-f", program=p)) for p in programs]
            for one in runs:
                ended = one.wait(HANG)
                assert ended.code == 0, ended.err
                run.count("finished")
                assert dest.read_bytes() == data
        assert names_in(tmp_path) == ["got"]
        server.requests.clear()
