"""Ctrl-C and SIGTERM: it stops at once, wherever it is, and says what is kept and how to go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.destinations.journal import parse_journal
from pgetpy.core.report.events import Event, Progressed
from tests.support.bodies import body
from tests.support.children import (
    MIB,
    PAGE,
    after,
    bytes_asked,
    events_of,
    journal_of,
    landed,
    part_of,
    result_of,
)
from tests.support.delivery import Gate
from tests.support.faults import (
    Dam,
    Fault,
    Headers,
    IgnoreRange,
    Pace,
    SilenceBeforeHead,
    Status,
    WeakEtag,
)
from tests.support.fetching import fetch, names_in
from tests.support.processes import Ended, Run, environment, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(8 * MIB)
BOTH = (signal.SIGINT, signal.SIGTERM)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
EITHER = pytest.mark.parametrize("number", BOTH, ids=lambda number: number.name)
# It takes well under a second; the rest is for a machine with better things to do.
SOON = 30.0


def serve(server: Server, *faults: Fault, data: bytes = BODY, path: str = "/model") -> str:
    return server.add(path, Resource(data, faults=faults))


def stopped(running: Run, number: int) -> Ended:
    """The end of a run after a signal, which comes at once and in good order."""
    before = time.monotonic()
    running.send(number)
    ended = running.wait(SOON)
    assert time.monotonic() - before < SOON
    assert ended.code == CODES[signal.Signals(number)]
    assert "Traceback" not in ended.err
    assert "Fatal Python error" not in ended.err
    assert ended.out == ""
    return ended


def last_word(ended: Ended) -> str:
    """What the program says at its end, in one line."""
    lines = [line for line in ended.err.splitlines() if line.startswith("pgetpy: ")]
    assert len(lines) == 1, ended.err
    assert lines[0] == ended.err.splitlines()[-1]
    return lines[0]


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (signal.SIGINT, "plain"),
        (signal.SIGTERM, "plain"),
        (signal.SIGHUP, "plain"),
        (signal.SIGINT, "TLS"),
        (signal.SIGTERM, "proxy"),
    ],
)
def test_a_signal_midway_says_what_is_kept_and_the_same_command_goes_on(
    number: int, way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("tls_server" if way == "TLS" else "server")
    env = {"http_proxy": request.getfixturevalue("proxy").url()} if way == "proxy" else {}
    command: list[str | Path] = [serve(server, Pace(4 * MIB), Dam(5 * MIB))]
    command += [tmp_path / "got", "-c", "2", "-m", "100M"]
    if way == "TLS":
        command += ["--cacert", request.getfixturevalue("ca").pem]
    dest = tmp_path / "got"
    with Run(*command, env=env) as running:
        running.wait_until(lambda: len(landed(dest, BODY)) * PAGE > 3 * MIB)
        said = last_word(stopped(running, number))
    assert re.fullmatch(
        r"pgetpy: interrupted; [\d.]+ MB of 8\.4 MB is kept: run the same command to continue",
        said,
    )
    assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]
    held = parse_journal(journal_of(dest).read_bytes()).written.size
    assert held > 2 * MIB
    # What it says is kept is kept: it says so in tenths of a megabyte.
    promised = float(said.split()[2]) * 1e6
    assert held >= promised - 100_000
    serve(server)
    server.requests.clear()
    result = result_of(run(*command, "--json", env=env))
    assert result["resumed"] == held
    assert dest.read_bytes() == BODY
    assert bytes_asked(server, "/model") <= len(BODY) - held
    assert names_in(tmp_path) == ["got"]


@EITHER
def test_several_files_are_counted(number: int, server: Server, tmp_path: Path) -> None:
    gate = Gate()
    small = serve(server, data=BODY[:1000], path="/small")
    large = serve(server, Dam(MIB + 600_000, gate))
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{small} {tmp_path}/small\n{large} {tmp_path}/large\n")
    with Run("multifile", manifest, "--progress", "json") as running:
        gate.wait_reached()
        running.wait_until((tmp_path / "small").exists)
        running.wait_until(lambda: any(e["done"] > MIB for e in events_of(running, "progressed")))
        said = last_word(stopped(running, number))
    assert "1 of 2 files are finished" in said
    assert "of the others is kept: run the same command to continue" in said
    assert (tmp_path / "small").read_bytes() == BODY[:1000]
    assert not (tmp_path / "large").exists()
    assert fetch(serve(server), tmp_path / "large").resumed > 0


@pytest.mark.parametrize(
    ("number", "faults"),
    [
        (signal.SIGINT, (WeakEtag(),)),
        (signal.SIGTERM, (IgnoreRange(), Headers(remove=("Accept-Ranges",)))),
    ],
    ids=["weak validator", "no ranges"],
)
def test_what_no_rerun_could_use_is_not_promised_nor_left(
    number: int, faults: tuple[Fault, ...], server: Server, tmp_path: Path
) -> None:
    url = serve(server, *faults, Pace(2 * MIB), Dam(4 * MIB))
    with Run(url, tmp_path / "got", "-m", "100M") as running:
        running.wait_until(lambda: len(landed(tmp_path / "got", BODY)) * PAGE > 2 * MIB)
        said = last_word(stopped(running, number))
    assert "kept" not in said
    assert names_in(tmp_path) == []


@EITHER
def test_a_small_file_leaves_nothing(number: int, server: Server, tmp_path: Path) -> None:
    url = serve(server, Dam(100_000), data=BODY[:600_000])
    with Run(url, tmp_path / "got") as running:
        running.wait_until(lambda: names_in(tmp_path))
        said = last_word(stopped(running, number))
    assert "kept" not in said
    assert names_in(tmp_path) == []


def test_a_json_result_is_not_printed_of_what_was_interrupted(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    with Run(url, tmp_path / "got", "--json", "--progress", "json") as running:
        gate.wait_reached()
        running.wait_until(lambda: events_of(running, "progressed"))
        ended = stopped(running, signal.SIGINT)
    assert "interrupted" in ended.err.splitlines()[-1]


# ------------------------------------------------------------------- wherever it is


@EITHER
def test_while_it_waits_for_another_run(number: int, server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, Dam(600_000, gate))
    dest = tmp_path / "got"
    with Run(url, dest) as first:
        gate.wait_reached()
        first.wait_until(part_of(dest).exists)
        with Run(url, dest) as second:
            second.wait_until(lambda: "another run" in second.err)
            said = last_word(stopped(second, number))
        assert said == "pgetpy: interrupted"
        gate.open()
        # The other one goes on as if nothing had been.
        assert first.wait().code == 0
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """The port of a listener whose queue is full: connections are neither taken nor refused."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(64):
            caller = stack.enter_context(socket.socket())
            caller.settimeout(0.5)
            try:
                caller.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        else:
            pytest.skip("here the queue of a listener has no end")
        yield port


@EITHER
def test_while_it_connects(number: int, tmp_path: Path) -> None:
    with black_hole() as port:
        url = f"http://127.0.0.1:{port}/model"
        before = callers(port)
        with Run(url, tmp_path / "got", "--connect-timeout", "60s") as running:
            running.wait_until(lambda: callers(port) > before)
            said = last_word(stopped(running, number))
    assert said == "pgetpy: interrupted"
    assert names_in(tmp_path) == []


def callers(port: int) -> int:
    """How many sockets are in SYN_SENT to `port`."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


def test_a_black_hole_is_given_up_after_the_connect_timeout(tmp_path: Path) -> None:
    with black_hole() as port, pytest.raises(pgetpy.PgetError, match="connect timeout"):
        fetch(f"http://127.0.0.1:{port}/x", tmp_path / "got", connect_timeout=0.3, retries=1)
    assert names_in(tmp_path) == []


@EITHER
def test_while_it_waits_for_an_answer(number: int, server: Server, tmp_path: Path) -> None:
    url = serve(server, SilenceBeforeHead())
    with Run(url, tmp_path / "got") as running:
        server.wait_until(lambda: server.requests)
        said = last_word(stopped(running, number))
    assert said == "pgetpy: interrupted"
    assert names_in(tmp_path) == []


@EITHER
def test_while_it_waits_to_try_again(number: int, server: Server, tmp_path: Path) -> None:
    url = serve(server, Status(503, retry_after=60))
    with Run(url, tmp_path / "got") as running:
        running.wait_until(lambda: "trying again" in running.err)
        stopped(running, number)
    assert names_in(tmp_path) == []


@EITHER
def test_while_it_is_paced(number: int, server: Server, tmp_path: Path) -> None:
    url = serve(server)
    with Run(url, tmp_path / "got", "--limit-rate", "500k") as running:
        running.wait_until(lambda: landed(tmp_path / "got", BODY))
        stopped(running, number)


@pytest.mark.parametrize(
    ("number", "target"),
    [(signal.SIGINT, "-"), (signal.SIGTERM, "-"), (signal.SIGTERM, "fifo")],
)
def test_while_the_reader_of_its_stream_sleeps(
    number: int, target: str, server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    dest = target
    out = subprocess.PIPE
    if target == "fifo":
        dest = str(tmp_path / "fifo")
        os.mkfifo(dest)
        # Open for both, so that neither waits for the other here.
        reader = os.open(dest, os.O_RDWR)
    with subprocess.Popen(
        [sys.executable, "-m", "pgetpy", url, dest],
        stdout=out,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    ) as process:
        fd = reader if target == "fifo" else process.stdout.fileno()  # type: ignore[union-attr]
        assert os.read(fd, 4096) == BODY[:4096]
        server.wait_until(lambda: server.sent("/model") > MIB)
        before = time.monotonic()
        process.send_signal(number)
        code = process.wait(SOON)
        assert time.monotonic() - before < SOON
        assert process.stderr is not None
        said = process.stderr.read().decode()
    if target == "fifo":
        os.close(reader)
    assert code == CODES[signal.Signals(number)]
    assert "Traceback" not in said
    assert "kept" not in said
    assert "interrupted" in said


@EITHER
def test_while_nobody_reads_its_fifo(number: int, server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with Run(serve(server), tmp_path / "fifo") as running:
        running.wait_until(lambda: "no process reads" in running.err)
        stopped(running, number)


def test_a_reader_that_goes_away_ends_it_without_a_word(server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pgetpy", serve(server), "-", "--progress", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4096) == BODY[:4096]
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""


@EITHER
def test_while_it_checks_the_digest(number: int, server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "got"
    slow = """
import hashlib, time
def new(name, *data, **options):
    made = real(name, *data, **options)
    class Slow:
        def update(self, data):
            time.sleep(0.5)
            made.update(data)
        hexdigest = made.hexdigest
    return Slow()
real, hashlib.new = hashlib.new, new
"""
    checksum = ("--checksum", "sha256:" + "0" * 64, "--progress", "json")
    with Run(serve(server), dest, *checksum, program=after(slow)) as running:
        running.wait_until(lambda: events_of(running, "verifying"))
        stopped(running, number)
    assert fetch(serve(server), dest).resumed == len(BODY)
    assert dest.read_bytes() == BODY


@pytest.mark.parametrize("second", BOTH, ids=lambda number: number.name)
@EITHER
def test_a_second_signal_does_not_break_into_the_first(
    number: int, second: int, server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    with Run(url, tmp_path / "got") as running:
        gate.wait_reached()
        running.wait_until(part_of(tmp_path / "got").exists)
        running.send(number)
        with contextlib.suppress(ProcessLookupError):
            running.send(second)
        ended = running.wait(SOON)
    assert ended.code in CODES.values()
    assert "Traceback" not in ended.err
    assert fetch(serve(server), tmp_path / "got").size == len(BODY)


def test_a_signal_at_any_moment_leaves_what_a_rerun_can_use(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "got"
    for _ in range(6):
        url = serve(server, Pace(4 * MIB), Dam(5 * MIB // 4))
        had = len(landed(dest, BODY))
        with Run(url, dest, "-c", "2") as running:
            # Before it has begun a signal meets an interpreter that is just starting.
            running.wait_until(lambda had=had: len(landed(dest, BODY)) > had)
            stopped(running, signal.SIGINT)
        assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]
    assert fetch(serve(server), dest).resumed > 0
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


# ------------------------------------------------------------------- in a caller's program


class InjectedError(BaseException):
    """What Cog and others raise in a thread that is to stop."""


def test_an_exception_that_is_injected_into_the_callers_thread_arrives_at_once(
    server: Server, tmp_path: Path
) -> None:
    import ctypes

    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    caught: list[BaseException] = []
    thread = threading.Thread(target=lambda: _wait_to_be_hit(url, tmp_path / "got", caught))
    thread.start()
    gate.wait_reached()
    eventually(part_of(tmp_path / "got").exists)
    inject = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert inject(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(InjectedError)) == 1
    thread.join(30)
    assert caught
    # The transfer ends by itself, and what it held is there for the next one.
    server.wait_until(lambda: server.open == 0)
    result = fetch(serve(server), tmp_path / "got")
    assert result.resumed > 0
    assert (tmp_path / "got").read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def _wait_to_be_hit(url: str, dest: Path, caught: list[BaseException]) -> None:
    try:
        # Nothing else ends it for as long as the test waits.
        fetch(url, dest, stall_timeout=60)
    except InjectedError as error:
        caught.append(error)


def test_ctrl_c_in_a_callers_program_is_a_keyboard_interrupt(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, Pace(2 * MIB), Dam(4 * MIB))
    dest = tmp_path / "got"
    code = f"""
import pgetpy, sys
try:
    pgetpy.download({url!r}, {str(dest)!r})
except KeyboardInterrupt:
    print("caught", flush=True)
    sys.exit(3)
"""
    env = {"PGET_CHUNK_SIZE": "100M"}
    with Run(program=(sys.executable, "-c", code), env=env) as running:
        running.wait_until(lambda: len(landed(dest, BODY)) * PAGE > 2 * MIB)
        running.send(signal.SIGINT)
        ended = running.wait(SOON)
    assert (ended.code, ended.out, ended.err) == (3, "caught\n", "")
    assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]
    assert fetch(serve(server), dest).resumed > MIB


def test_a_coroutine_that_is_cancelled_leaves_what_a_rerun_can_use(
    server: Server, tmp_path: Path
) -> None:
    import asyncio

    url = serve(server, Pace(4 * MIB), Dam(5 * MIB))
    dest = tmp_path / "got"

    async def main() -> None:
        seen = asyncio.Event()

        def progress(event: Event) -> None:
            if isinstance(event, Progressed) and event.done > 2 * MIB:
                seen.set()

        task = asyncio.ensure_future(pgetpy.download_async(url, dest, progress=progress))
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # When it is over it is over: nobody writes any more.
        assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]

    asyncio.run(main())
    assert fetch(serve(server), dest).resumed > MIB
    assert dest.read_bytes() == BODY


def test_a_callers_other_threads_are_not_disturbed(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    stuck = serve(server, Dam(MIB + 600_000, gate))
    free = serve(server, path="/free")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch, stuck, tmp_path / "stuck")
        gate.wait_reached()

        def spoil(event: Event) -> None:
            raise InjectedError

        with pytest.raises(InjectedError):
            fetch(free, tmp_path / "free", progress=spoil)
        gate.open()
        assert running.result(30).size == len(BODY)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param(command, number, marks=[] if row == column else [pytest.mark.soak])
        for row, command in enumerate(["download", "multifile", "ensure"])
        for column, number in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    ],
)
def test_a_signal_that_was_ignored_before_we_began_is_ignored(
    server: Server, tmp_path: Path, number: int, command: str
) -> None:
    gate = Gate()
    url = serve(server, Dam(MIB + 600_000, gate))
    (tmp_path / "list").write_text(f"{url} got\n")
    words = {
        "download": [url, "got"],
        "multifile": ["multifile", "list"],
        "ensure": ["ensure", url, "--any-file", "--min-disk-free", "0", "--cache-dir", "cache"],
    }[command]
    name = signal.Signals(number).name.removeprefix("SIG")
    # As a shell has it for what runs in the background, and nohup.
    program = ("/bin/sh", "-c", f'trap "" {name}; exec "$@"', "sh", sys.executable, "-m", "pgetpy")
    with Run(*words, program=program, cwd=tmp_path) as running:
        gate.wait_reached()
        running.send(number)
        gate.open()
        ended = running.wait(SOON)
    assert ended.code == 0, ended.err
    assert "interrupted" not in ended.err
