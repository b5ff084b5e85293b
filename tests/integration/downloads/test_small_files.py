"""A run of small files over one connection, in which one file after the other is out of the
ordinary: that one goes the general way, and the others do not notice."""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Event, Finished, Retrying, Started
from pgetpy.errors import DestinationError, DigestMismatchError, HttpStatusError
from tests.support.bodies import body, digest
from tests.support.children import after
from tests.support.faults import (
    Chunked,
    Close,
    Encoded,
    Fault,
    FinAfter,
    Http10,
    IgnoreRange,
    Interim,
    Late,
    LengthConflict,
    NoContentRange,
    NoLength,
    ObsFold,
    OtherRange,
    Redirect,
    ResetAfter,
    ShorterRange,
    SilenceAfter,
    SilenceBeforeHead,
    StatedTotal,
    Status,
    When,
)
from tests.support.faults.base import Exchange
from tests.support.fetching import Events, impatient, names_in
from tests.support.processes import run
from tests.support.resources import Answer, Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

COUNT, ODD = 9, 4
# Of Python functions, for one file, from its request to its name.
MOST_CALLS = 120
FIRST = When(request=1)
# One after the other, so that all files before and behind the odd one share a connection with it.
IN_TURN = impatient(stall_timeout=4.0, max_concurrent_files=1)


@dataclass(frozen=True)
class Longer(Fault):
    """``data`` behind the body, in the same packet, beyond what the head says."""

    data: bytes

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        return replace(answer, body=bytes(answer.body) + self.data)


ODDITIES: dict[str, tuple[Fault, ...]] = {
    "no range": (IgnoreRange(),),
    "chunks": (Chunked(),),
    "no length": (NoLength(),),
    "two lengths": (LengthConflict(1, when=FIRST),),
    "gzip": (Encoded("gzip"),),
    "HTTP/1.0": (Http10(),),
    "an interim answer": (Interim(),),
    "a folded header": (ObsFold(),),
    "more than was asked for": (Longer(b"HTTP/1.1 200 OK\r\n\r\n"),),
    "closed afterwards": (Close(),),
    "closed without saying so": (Close(says=False),),
    "cut off": (FinAfter(500, when=FIRST),),
    "reset": (ResetAfter(500, when=FIRST),),
    "silent": (SilenceAfter(500, when=FIRST),),
    "no answer": (SilenceBeforeHead(when=FIRST),),
    "late": (Late(0.7, when=FIRST),),
    "503, then the file": (Status(503, when=FIRST),),
    "another range": (OtherRange(when=FIRST),),
    "a shorter range": (ShorterRange(300, when=FIRST),),
    "206 without Content-Range": (NoContentRange(when=FIRST),),
    "another size": (StatedTotal(when=FIRST),),
    "a redirect": (Redirect("/elsewhere"),),
}
# Where a host has answered fast before, a late request is made again; a lone one has no measure.
REPEATED = {"no answer", "late"}


def content(number: int) -> bytes:
    return body(1000 + number)


def served(server: Server, folder: Path, odd: Resource | None = None) -> list[Job]:
    """Serve files of which one may be odd; the jobs that fetch them."""
    found = []
    for number in range(COUNT):
        resource = odd if odd is not None and number == ODD else Resource(content(number))
        found.append(Job(server.add(f"/{number}", resource), str(folder / str(number))))
    return found


def connections(server: Server, numbers: range) -> set[int]:
    return {seen.connection for number in numbers for seen in server.seen(f"/{number}")}


def assert_others_are_right(server: Server, folder: Path) -> None:
    for number in set(range(COUNT)) - {ODD}:
        assert (folder / str(number)).read_bytes() == content(number)
        assert len(server.seen(f"/{number}")) == 1


@pytest.mark.parametrize("name", ODDITIES)
def test_one_odd_answer_concerns_its_file_alone(server: Server, tmp_path: Path, name: str) -> None:
    server.add("/elsewhere", Resource(content(ODD)))
    alone = server.add("/alone", Resource(content(ODD), faults=ODDITIES[name]))
    single = pgetpy.download(alone, tmp_path / "alone", settings=IN_TURN)
    jobs = served(server, tmp_path, Resource(content(ODD), faults=ODDITIES[name]))
    events = Events()
    found = pgetpy.download_many(jobs, settings=IN_TURN, progress=events)
    results = [each for each in found if isinstance(each, pgetpy.DownloadResult)]
    assert len(results) == COUNT
    assert_others_are_right(server, tmp_path)
    assert (tmp_path / str(ODD)).read_bytes() == content(ODD)
    assert names_in(tmp_path) == sorted([*map(str, range(COUNT)), "alone"])
    if name not in REPEATED:
        assert len(server.seen(f"/{ODD}")) == len(server.seen("/alone"))
        assert said(results[ODD]) == said(single)
    assert {event.key for event in events.of(Retrying)} <= {ODD}
    assert [event.key for event in events.of(Finished)] == list(range(COUNT))
    # The files before it share a connection, and so do those behind it.
    assert len(connections(server, range(ODD))) == 1
    assert len(connections(server, range(ODD + 1, COUNT))) == 1


def said(result: pgetpy.DownloadResult) -> object:
    """What does not depend on time and place."""
    return replace(result, url="", final_url="", dest="", seconds=0.0, bytes_per_second=0.0)


def test_bytes_after_a_body_are_never_the_next_answer(server: Server, tmp_path: Path) -> None:
    smuggled = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nbad"
    jobs = served(server, tmp_path, Resource(content(ODD), faults=(Longer(smuggled),)))
    found = pgetpy.download_many(jobs, settings=IN_TURN)
    assert all(isinstance(each, pgetpy.DownloadResult) for each in found)
    assert_others_are_right(server, tmp_path)
    assert not connections(server, range(ODD + 1)) & connections(server, range(ODD + 1, COUNT))


def test_a_refused_file_fails_with_the_servers_words(server: Server, tmp_path: Path) -> None:
    jobs = served(server, tmp_path, Resource(b"", faults=(Status(404, "gone fishing"),)))
    found = pgetpy.download_many(jobs, settings=IN_TURN)
    failure = found[ODD]
    assert isinstance(failure, pgetpy.DownloadFailure)
    assert isinstance(failure.error, HttpStatusError)
    assert "gone fishing" in str(failure.error)
    assert_others_are_right(server, tmp_path)
    # Some servers refuse nothing but the range.
    assert server.asked(f"/{ODD}") == [(0, None), None]


def test_a_large_file_is_taken_over_with_its_answer(server: Server, tmp_path: Path) -> None:
    large = body(3 << 20)
    jobs = served(server, tmp_path, Resource(large))
    settings = replace(IN_TURN, concurrency=1)
    found = pgetpy.download_many(jobs, settings=settings)
    assert all(isinstance(each, pgetpy.DownloadResult) for each in found)
    assert (tmp_path / str(ODD)).read_bytes() == large
    assert server.asked(f"/{ODD}") == [(0, None)]
    assert_others_are_right(server, tmp_path)


@pytest.mark.parametrize("right", [True, False])
def test_digests_are_verified_from_the_bytes_that_came(
    server: Server, tmp_path: Path, right: bool
) -> None:
    jobs = served(server, tmp_path)
    checksums = [Checksum("sha256", digest(content(number))) for number in range(COUNT)]
    if not right:
        checksums[ODD] = Checksum("sha256", "0" * 64)
    jobs = [replace(job, checksum=each) for job, each in zip(jobs, checksums, strict=True)]
    found = pgetpy.download_many(jobs, settings=IN_TURN)
    assert_others_are_right(server, tmp_path)
    assert len(server.seen(f"/{ODD}")) == 1
    if right:
        assert {each.verified for each in found if isinstance(each, pgetpy.DownloadResult)} == {
            "digest"
        }
    else:
        failure = found[ODD]
        assert isinstance(failure, pgetpy.DownloadFailure)
        assert isinstance(failure.error, DigestMismatchError)
        assert names_in(tmp_path) == [str(n) for n in range(COUNT) if n != ODD]


def test_what_exists_is_judged_as_for_a_single_file(server: Server, tmp_path: Path) -> None:
    jobs = served(server, tmp_path)
    (tmp_path / "1").write_bytes(content(1))  # equal, with a checksum: nothing to do
    jobs[1] = replace(jobs[1], checksum=Checksum("sha256", digest(content(1))))
    (tmp_path / str(ODD)).write_bytes(b"mine")
    (tmp_path / "5").symlink_to(tmp_path / "real")
    found = pgetpy.download_many(jobs, settings=IN_TURN)
    kept = found[1]
    assert isinstance(kept, pgetpy.DownloadResult)
    assert kept.skipped
    failure = found[ODD]
    assert isinstance(failure, pgetpy.DownloadFailure)
    assert isinstance(failure.error, DestinationError)
    assert (tmp_path / str(ODD)).read_bytes() == b"mine"
    assert not server.seen(f"/{ODD}")
    assert not server.seen("/1")
    assert (tmp_path / "5").is_symlink()
    assert (tmp_path / "real").read_bytes() == content(5)


def test_two_files_for_one_path_are_one_and_an_error(server: Server, tmp_path: Path) -> None:
    jobs = served(server, tmp_path)
    jobs[ODD] = replace(jobs[ODD], dest=f"{tmp_path}/./0")
    found = pgetpy.download_many(jobs, settings=IN_TURN)
    failure = found[ODD]
    assert isinstance(failure, pgetpy.DownloadFailure)
    assert "another file" in str(failure.error)
    assert (tmp_path / "0").read_bytes() == content(0)


def test_folders_are_made_where_they_are_missing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = served(server, tmp_path)
    dests = ["plain", "./dot", "new/a", "new/b", "new//deep/../c", "a/b/c/d"]
    jobs = [replace(job, dest=dest) for job, dest in zip(jobs, dests, strict=False)]
    found = pgetpy.download_many(jobs, settings=IN_TURN)
    results = [each for each in found if isinstance(each, pgetpy.DownloadResult)]
    assert [result.dest for result in results] == [str(Path(dest)) for dest in dests]
    assert all(Path(dest).read_bytes() == content(n) for n, dest in enumerate(dests))


def test_without_room_each_file_says_so_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    jobs = served(server, tmp_path)
    found = pgetpy.download_many(jobs, settings=replace(IN_TURN, min_free=1 << 60))
    assert all(isinstance(each, pgetpy.DownloadFailure) for each in found)
    assert names_in(tmp_path) == []


def test_what_a_callback_raises_ends_the_call(server: Server, tmp_path: Path) -> None:
    def callback(event: Event) -> None:
        if isinstance(event, Started) and event.key == ODD:
            raise RuntimeError("enough")

    jobs = served(server, tmp_path)
    with pytest.raises(RuntimeError, match="enough"):
        pgetpy.download_many(jobs, settings=IN_TURN, progress=callback)
    whole = [name for name in names_in(tmp_path) if not name.startswith(".")]
    assert whole == [str(number) for number in range(ODD)]
    assert not list(tmp_path.glob("*-part"))
    server.wait_until(lambda: server.open == 0)


# Kills itself right before, or after, a file gets its name.
_KILLED = """
import os, signal
def replace(source, target, *rest, own=os.replace, **options):
    late = os.environ["LATE"] == "1"
    if late:
        own(source, target, *rest, **options)
    if str(target).endswith("/4"):
        os.kill(os.getpid(), signal.SIGKILL)
    if not late:
        own(source, target, *rest, **options)
os.replace = replace
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_leaves_whole_files_and_the_next_run_fetches_the_others(
    server: Server, tmp_path: Path, late: bool
) -> None:
    folder = tmp_path / "out"
    jobs = served(server, folder)
    (tmp_path / "list").write_text("".join(f"{job.url} {job.dest}\n" for job in jobs))
    arguments = ("multifile", "list", "--max-concurrent-files", "1")
    killed = run(*arguments, cwd=tmp_path, program=after(_KILLED), env={"LATE": str(int(late))})
    assert killed.code == -signal.SIGKILL
    done = [str(number) for number in range(ODD + late)]
    assert [name for name in names_in(folder) if not name.startswith(".")] == done
    assert all((folder / name).read_bytes() == content(int(name)) for name in done)
    before = len(server.requests)
    again = run(*arguments, cwd=tmp_path)
    assert again.code == 0, again.err
    assert len(server.requests) - before == COUNT - len(done)
    assert all((folder / str(n)).read_bytes() == content(n) for n in range(COUNT))


def test_a_file_takes_few_calls(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a small file costs is Python: a transfer for each would take several times as much."""
    caplog.set_level(logging.WARNING, "pgetpy")
    calls = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def callback(event: Event) -> None:
        # On the engine's thread. The first files have found the host and opened the connection.
        if isinstance(event, Finished) and event.key == ODD:
            sys.setprofile(note)
        if isinstance(event, Finished) and event.key == COUNT - 1:
            sys.setprofile(None)

    pgetpy.download_many(served(server, tmp_path), settings=IN_TURN, progress=callback)
    assert 0 < calls / (COUNT - 1 - ODD) < MOST_CALLS
