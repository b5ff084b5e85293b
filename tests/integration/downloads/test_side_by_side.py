"""Several runs on one destination: one works, the others wait; where locks do nothing, all are
right all the same."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.report.events import Progressed, StartedOver, Waiting
from pgetpy.errors import DigestMismatchError, HttpStatusError, PgetError
from tests.support.bodies import body, digest
from tests.support.children import (
    MIB,
    PAGE,
    after,
    events_of,
    journal_of,
    landed,
    part_of,
    result_of,
)
from tests.support.delivery import Gate
from tests.support.faults import Dam, Fault, GateAfter, Pace, Status, WeakEtag, When
from tests.support.fetching import Events, fetch, names_in
from tests.support.processes import Run, folder_of_nobody, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(8 * MIB)
OTHER = body(8 * MIB, "v2")
TELLING = ("--json", "--progress", "json")
# Locks as some network file systems have them.
NO_LOCKS = {
    "taken by all": "import fcntl\nfcntl.flock = lambda *arguments: None",
    "ENOLCK": "import fcntl\ndef flock(*_): raise OSError(37, 'No locks')\nfcntl.flock = flock",
    "ENOSYS": "import fcntl\ndef flock(*_): raise OSError(38, 'None')\nfcntl.flock = flock",
    "EOPNOTSUPP": "import fcntl\ndef flock(*_): raise OSError(95, 'None')\nfcntl.flock = flock",
}


def serve(server: Server, *faults: Fault, data: bytes = BODY, path: str = "/model") -> str:
    return server.add(path, Resource(data, faults=faults))


def is_waiting(run: Run) -> bool:
    return bool(events_of(run, "waiting"))


@pytest.mark.parametrize("count", [2, 8])
def test_one_of_several_runs_downloads_and_all_succeed(
    server: Server, tmp_path: Path, count: int
) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    with contextlib.ExitStack() as stack:
        # With one connection, so that nobody asks elsewhere for what stands at the gate.
        first = stack.enter_context(Run(url, dest, "-c", "1", *TELLING))
        first.wait_until(lambda: part_of(dest).exists())
        others = [stack.enter_context(Run(url, dest, *TELLING)) for _ in range(count - 1)]
        for other in others:
            other.wait_until(lambda other=other: is_waiting(other))
        assert not dest.exists()
        gate.open()
        found = [result_of(run.wait()) for run in (first, *others)]
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]
    assert [result["shared"] for result in found] == [False, *[True] * (count - 1)]
    assert {result["size"] for result in found} == {len(BODY)}
    # The others only make sure that what has come is what they want.
    assert server.sent("/model") <= 1.1 * len(BODY) + count


def test_runs_that_begin_at_one_moment_sort_it_out(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, GateAfter(MIB // 8, gate))
    dest = tmp_path / "got"
    with contextlib.ExitStack() as stack:
        # With one connection each, so that nobody asks elsewhere for what stands at the gate.
        runs = [stack.enter_context(Run(url, dest, *TELLING, "-c", "1")) for _ in range(8)]
        eventually(lambda: sum(is_waiting(run) for run in runs) == 7)
        gate.open()
        found = [result_of(run.wait()) for run in runs]
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]
    assert [result["shared"] for result in found].count(False) == 1
    # Each may have asked for its first range before it saw the others.
    assert server.sent("/model") <= 1.1 * len(BODY) + 8 * MIB


def test_the_one_that_waits_says_so_once(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    with Run(url, dest) as first:
        first.wait_until(lambda: part_of(dest).exists())
        with Run(url, dest, "--progress", "plain") as second:
            second.wait_until(lambda: "another run works on this file" in second.err)
            gate.open()
            assert first.wait().code == 0
            ended = second.wait()
    assert ended.code == 0, ended.err
    assert ended.err.count("another run") == 1


def test_calls_of_one_process_share_as_well(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    told = [Events() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(fetch, url, dest, progress=events) for events in told]
        eventually(lambda: sum(bool(events.of(Waiting)) for events in told) == 3)
        gate.open()
        found = [call.result(30) for call in calls]
    assert dest.read_bytes() == BODY
    assert sorted(result.shared for result in found) == [False, True, True, True]
    assert names_in(tmp_path) == ["got"]
    for events in told:
        events.assert_monotonic()


def test_a_checksum_is_verified_on_what_another_run_has_brought(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    right, wrong = f"sha256:{digest(BODY)}", f"md5:{'0' * 32}"
    told = {None: Events(), right: Events(), wrong: Events()}
    with ThreadPoolExecutor(3) as pool:
        calls = {}
        for checksum, events in told.items():
            calls[checksum] = pool.submit(fetch, url, dest, checksum=checksum, progress=events)
            # The one without a checksum comes first.
            eventually(lambda events=events: events.of(Waiting) or part_of(dest).exists())
            if checksum is None:
                server.wait_until(lambda: len(server.requests) > 1)
        eventually(lambda: all(told[checksum].of(Waiting) for checksum in (right, wrong)))
        gate.open()
        assert calls[right].result(30).digest == right
        with pytest.raises(DigestMismatchError):
            calls[wrong].result(30)
        assert not calls[None].result(30).shared
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_of_another_url_each_gets_its_own(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    other = serve(server, data=OTHER, path="/other")
    dest = tmp_path / "got"
    waiting = Events()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, url, dest)
        eventually(part_of(dest).exists)
        second = pool.submit(fetch, other, dest, progress=waiting)
        eventually(lambda: waiting.of(Waiting))
        gate.open()
        assert not first.result(30).shared
        assert not second.result(30).shared
    # Who came last had the last word.
    assert dest.read_bytes() == OTHER
    assert names_in(tmp_path) == ["got"]


def test_another_version_is_not_taken_for_ones_own(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    # What is under way was asked for already; it is only late.
    first, second = Events(), Events()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(fetch, url, dest, progress=first, concurrency=1, stall_timeout=1.5)
        server.wait_until(lambda: len(server.requests) > 1)
        two = pool.submit(fetch, url, dest, progress=second)
        eventually(lambda: second.of(Waiting))
        # Whoever asks from now on gets the new version.
        server.change("/model", body=OTHER, etag='"v2"', faults=())
        gate.open()
        # One range was under way and is whole, the next was of the new version: it began anew.
        assert not one.result(30).shared
        two.result(30)
    assert dest.read_bytes() == OTHER
    assert names_in(tmp_path) == ["got"]


def test_when_the_first_is_killed_one_of_those_who_wait_goes_on(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB, gate))
    dest = tmp_path / "got"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Run(url, dest, "-c", "1", *TELLING))
        first.wait_until(lambda: len(landed(dest, BODY)) * PAGE > 2 * MIB)
        others = [stack.enter_context(Run(url, dest, "-c", "1", *TELLING)) for _ in range(3)]
        for other in others:
            other.wait_until(lambda other=other: is_waiting(other))
        had = len(landed(dest, BODY)) * PAGE
        serve(server)
        server.requests.clear()
        first.kill()
        found = [result_of(other.wait()) for other in others]
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]
    assert [result["shared"] for result in found].count(False) == 1
    (worker,) = [result for result in found if not result["shared"]]
    assert worker["resumed"] >= had - 2 * MIB
    assert server.sent("/model") <= len(BODY) - worker["resumed"] + 2 * MIB


def test_when_each_is_killed_in_turn_the_last_ends_it(server: Server, tmp_path: Path) -> None:
    url = serve(server, Dam(2 * MIB))
    dest = tmp_path / "got"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Run(url, dest, "-c", "1", *TELLING))
        first.wait_until(lambda: len(landed(dest, BODY)) * PAGE > MIB)
        runs = [stack.enter_context(Run(url, dest, "-c", "1", *TELLING)) for _ in range(3)]
        for other in runs:
            other.wait_until(lambda other=other: is_waiting(other))
        runs.insert(0, first)
        while len(runs) > 1:
            # Whoever has reported progress is the one that works.
            (worker,) = eventually(lambda: [one for one in runs if events_of(one, "progressed")])
            had = len(landed(dest, BODY))
            # The next one is given enough to get further, and not all of it.
            serve(server, *([Dam(2 * MIB)] if len(runs) > 2 else []))
            worker.kill()
            runs.remove(worker)
            if len(runs) > 1:
                eventually(lambda had=had: len(landed(dest, BODY)) > had)
        result = result_of(runs[0].wait())
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]
    assert not result["shared"]
    assert result["resumed"] > MIB


def test_when_the_first_fails_one_of_those_who_wait_takes_over(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    first, second = Events(), Events()
    with ThreadPoolExecutor(2) as pool:
        # With a checksum that is wrong it leaves nothing.
        one = pool.submit(fetch, url, dest, checksum=f"sha1:{'0' * 40}", progress=first)
        eventually(lambda: first.of(Progressed))
        two = pool.submit(fetch, url, dest, progress=second)
        eventually(lambda: second.of(Waiting))
        gate.open()
        with pytest.raises(DigestMismatchError):
            one.result(30)
        assert not two.result(30).shared
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_a_failure_of_the_one_that_works_is_not_that_of_the_one_that_waits(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate), Status(400, when=When(after=4_000_000)))
    dest = tmp_path / "got"
    first, second = Events(), Events()
    with ThreadPoolExecutor(2) as pool:
        # One range after the other, so that some are asked for when it is time to be refused.
        one = pool.submit(fetch, url, dest, progress=first, chunk_size=MIB, concurrency=1)
        eventually(lambda: first.of(Progressed))
        two = pool.submit(fetch, url, dest, progress=second)
        eventually(lambda: second.of(Waiting))
        gate.open()
        with pytest.raises(HttpStatusError):
            one.result(30)
        server.change("/model", faults=())
        with contextlib.suppress(HttpStatusError):
            two.result(30)
    result = fetch(url, dest, force=True)
    assert dest.read_bytes() == BODY
    assert result.size == len(BODY)
    assert names_in(tmp_path) == ["got"]


def test_without_a_strong_validator_each_fetches_its_own(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    url = serve(server, WeakEtag(), Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    waiting = Events()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(fetch, url, dest)
        eventually(part_of(dest).exists)
        two = pool.submit(fetch, url, dest, progress=waiting)
        eventually(lambda: waiting.of(Waiting))
        gate.open()
        assert one.result(30).size == two.result(30).size == len(BODY)
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]
    assert waiting.of(StartedOver) == []


def test_runs_with_different_destinations_do_not_wait(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    stuck = serve(server, Dam(3 * MIB // 2, gate))
    free = serve(server, path="/free")
    with Run(stuck, tmp_path / "one") as first:
        first.wait_until(lambda: part_of(tmp_path / "one").exists())
        # The same folder, the same URL, a name that begins alike: none of that is a reason.
        for url, name in ((free, "two"), (free, "one.bin"), (stuck.replace("model", "free"), "on")):
            result = result_of(run(url, tmp_path / name, *TELLING))
            assert not result["shared"]
            assert (tmp_path / name).read_bytes() == BODY
        gate.open()
        assert first.wait().code == 0


def test_small_files_do_not_wait_at_all(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    small = BODY[:500_000]
    url = serve(server, GateAfter(100_000, gate, when=When(request=1)), data=small)
    dest = tmp_path / "got"
    with ThreadPoolExecutor(2) as pool:
        # With one connection, so that it does not ask elsewhere for what stands at the gate.
        one = pool.submit(fetch, url, dest, concurrency=1)
        server.wait_until(lambda: server.requests)
        assert fetch(url, dest).size == len(small)
        assert dest.read_bytes() == small
        gate.open()
        assert one.result(30).size == len(small)
    assert dest.read_bytes() == small
    assert names_in(tmp_path) == ["got"]


# ------------------------------------------------------------------- locks that do not lock


@pytest.mark.parametrize("locks", list(NO_LOCKS))
def test_where_locks_do_nothing_both_end_right(server: Server, tmp_path: Path, locks: str) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    program = after(NO_LOCKS[locks])
    with Run(url, dest, *TELLING, program=program) as one:
        server.wait_until(lambda: len(server.requests) > 1)
        with Run(url, dest, *TELLING, program=program) as two:
            # Both are at work, each on a part file of its own.
            two.wait_until(lambda: len(list(tmp_path.glob(".got.*.pgetpy-part"))) == 2)
            gate.open()
            found = [result_of(run.wait()) for run in (one, two)]
    assert [result["shared"] for result in found] == [False, False]
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_one_whose_locks_do_nothing_harms_none_whose_do(server: Server, tmp_path: Path) -> None:
    # As if one machine had mounted the file system with locks and the other without.
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    with Run(url, dest, *TELLING) as one:
        one.wait_until(lambda: part_of(dest).exists())
        for locks in ("taken by all", "ENOLCK"):
            other = Run(url, dest, "-f", *TELLING, program=after(NO_LOCKS[locks]))
            with other as two:
                two.wait_until(lambda: list(tmp_path.glob(".got.*.pgetpy-part")))
                two.send(signal.SIGTERM)
                assert two.wait().code == 143
        assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]
        with Run(url, dest, *TELLING, program=after(NO_LOCKS["ENOLCK"])) as two:
            two.wait_until(lambda: list(tmp_path.glob(".got.*.pgetpy-part")))
            gate.open()
            result_of(two.wait())
        result_of(one.wait())
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


@pytest.mark.parametrize("locks", ["taken by all", "ENOLCK"])
def test_where_locks_do_nothing_a_run_that_fails_leaves_nothing(
    server: Server, tmp_path: Path, locks: str
) -> None:
    url = serve(server, Status(400, when=When(after=2 * MIB)))
    ended = run(url, tmp_path / "got", "-c", "2", "-m", "500000", program=after(NO_LOCKS[locks]))
    assert ended.code == 1
    assert names_in(tmp_path) == []


def test_what_was_left_where_locks_worked_is_left_alone_where_they_do_not(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server, Status(400, when=When(after=2 * MIB)))
    with pytest.raises(HttpStatusError):
        fetch(url, dest, chunk_size=500_000, concurrency=2)
    serve(server)
    ended = run(url, dest, *TELLING, program=after(NO_LOCKS["ENOLCK"]))
    assert result_of(ended)["resumed"] == 0
    assert dest.read_bytes() == BODY
    assert fetch(url, dest, force=True).resumed > MIB
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


# Locks as two machines have them that mounted one file system with locks of their own: each sees
# that its own keep others out, and none sees those of the other.
BLIND = """
import fcntl, os
held = {}
def flock(fd, operation):
    there = os.fstat(fd)
    key = there.st_dev, there.st_ino
    try:
        taken = key in held and held[key] != fd and os.path.samestat(os.fstat(held[key]), there)
    except OSError:
        taken = False
    if taken:
        raise BlockingIOError(11, "held")
    held[key] = fd
fcntl.flock = flock
"""


def test_machines_that_do_not_see_each_others_locks_work_on_one_file_in_peace(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(5 * MIB // 2, gate))
    dest = tmp_path / "got"
    with Run(url, dest, "-c", "1", *TELLING, program=after(BLIND)) as one:
        one.wait_until(lambda: len(landed(dest, BODY)) * PAGE > 2 * MIB)
        with Run(url, dest, "-c", "1", *TELLING, program=after(BLIND)) as two:
            # It has seen nobody, and goes on from what the first is at work on.
            two.wait_until(lambda: events_of(two, "started"))
            assert events_of(two, "started")[0]["held"] > 0
            gate.open()
            for run in (one, two):
                assert not result_of(run.wait())["shared"]
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_what_is_started_anew_by_who_sees_no_lock_is_never_mixed_up(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = serve(server, Dam(5 * MIB // 2, gate))
    dest = tmp_path / "got"
    with Run(url, dest, "-c", "1", *TELLING, program=after(BLIND)) as one:
        one.wait_until(lambda: len(landed(dest, BODY)) * PAGE > 2 * MIB)
        with Run(url, dest, "-c", "1", "--no-resume", *TELLING, program=after(BLIND)) as two:
            two.wait_until(lambda: events_of(two, "started"))
            two.kill()
        gate.open()
        ended = one.wait()
    # Its part file is another's now, and so is what the journal says.
    assert ended.code == 1
    assert "taken by another run" in ended.err
    assert not dest.exists()
    server.requests.clear()
    fetch(url, dest)
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_machines_that_begin_at_one_moment_without_seeing_each_other_never_mix(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server, Pace(16 * MIB))
    dest = tmp_path / "got"
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            programs = [after(BLIND)] * 4
            runs = [stack.enter_context(Run(url, dest, "-f", program=p)) for p in programs]
            ended = [run.wait() for run in runs]
        assert any(end.code == 0 for end in ended)
        for end in ended:
            assert end.code == 0 or "another run" in end.err or "no such file" in end.err, end.err
        assert dest.read_bytes() == BODY
        assert set(names_in(tmp_path)) <= {"got", part_of(dest).name, journal_of(dest).name}


# ------------------------------------------------------------------- other users and odd moments


def test_a_destination_that_another_user_works_on_is_an_error_and_no_wait(
    server: Server,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("it takes two users")
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    with folder_of_nobody() as folder:
        dest = folder / "got"
        folder.chmod(0o777)
        with Run(url, dest, *TELLING) as one:
            one.wait_until(lambda: part_of(dest).exists())
            ended = run(url, dest, unprivileged=True)
            gate.open()
            result_of(one.wait())
        assert ended.code == 1
        assert "permission denied" in ended.err
        assert dest.read_bytes() == BODY


@pytest.mark.parametrize("whole", [False, True], ids=["journal", "journal and part"])
def test_a_journal_that_is_removed_under_a_run_costs_only_the_work_it_saved(
    server: Server, tmp_path: Path, whole: bool
) -> None:
    gate = Gate()
    url = serve(server, Dam(3 * MIB // 2, gate))
    dest = tmp_path / "got"
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(fetch, url, dest)
        server.wait_until(lambda: len(server.requests) > 1)
        eventually(part_of(dest).exists)
        journal_of(dest).unlink()
        if whole:
            part_of(dest).unlink()
        two = pool.submit(fetch, url, dest)
        eventually(part_of(dest).exists)
        gate.open()
        for call in (one, two):
            with contextlib.suppress(PgetError):
                call.result(30)
    assert not dest.exists() or dest.read_bytes() == BODY
    fetch(url, dest, force=True)
    assert dest.read_bytes() == BODY


def test_a_fork_of_a_process_that_downloads_downloads_by_itself(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    code = f"""
import os, pgetpy
pgetpy.download({url!r}, {str(tmp_path / "parent")!r})
child = os.fork()
if not child:
    pgetpy.download({url!r}, {str(tmp_path / "child")!r})
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(program=after(code)).code == 7
    assert (tmp_path / "child").read_bytes() == (tmp_path / "parent").read_bytes() == BODY


def test_threads_with_destinations_of_their_own_share_nothing_but_the_engine(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    ready = threading.Barrier(6)

    def work(number: int) -> pgetpy.DownloadResult:
        ready.wait(30)
        return fetch(url, tmp_path / str(number))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, range(6)))
    assert all((tmp_path / str(number)).read_bytes() == BODY for number in range(6))
    assert not any(result.shared for result in found)
