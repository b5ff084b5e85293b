"""Zips from servers that misbehave, and by runs that are killed or stopped: the tree is right or
there is one clear error, what was whole is not fetched again, and nothing is left behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.http.ranges import Spans
from pgetpy.core.report.events import Remarked
from pgetpy.errors import (
    ArchiveError,
    DestinationError,
    DigestMismatchError,
    DiskFullError,
    ObjectChangedError,
    TransferError,
)
from tests.support.bodies import body, digest
from tests.support.children import (
    MIB,
    asked_since,
    bytes_asked,
    killed_when,
    last_line,
    part_of,
    peak_of,
    result_of,
    telling_its_peak,
    written,
)
from tests.support.delivery import Gate
from tests.support.faults import (
    Chunked,
    ContentRangeOn200,
    Dam,
    Fault,
    FinAfter,
    GateAfter,
    Http10,
    IgnoreRange,
    LengthConflict,
    NoContentRange,
    NoLength,
    OtherRange,
    Overwritten,
    Pace,
    Replaced,
    ResetAfter,
    ShorterRange,
    SilenceAfter,
    SilenceBeforeHead,
    StatedTotal,
    Status,
    When,
    at_least,
)
from tests.support.fetching import Events, contents, extract, names_in, unchanged
from tests.support.odd_servers import Oddity, OddServer
from tests.support.odd_sockets import served
from tests.support.processes import Ended, Run, folder_of_nobody, limited_tmpfs, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.trees import plain_tree, without_trials
from tests.support.zips import Member, by_zipfile, link, packed, spans_of

pytestmark = pytest.mark.usefixtures("forked_runs")

MTIME = 1_700_000_000
DEFLATED = zipfile.ZIP_DEFLATED
PATH = "/w.zip"


@lru_cache
def weights(seed: str = "v1") -> tuple[Member, ...]:
    """Large members and many small ones of both methods, folders and links."""
    return (
        Member("model/", mode=stat.S_IFDIR | 0o755),
        Member("model/config.json", f'{{"seed": "{seed}"}}'.encode(), method=DEFLATED),
        Member("model/1.safetensors", body(3 * MIB, seed)),
        *(Member(f"small/{n}", body(700 + n, seed), method=DEFLATED) for n in range(60)),
        Member("model/deflated", body(MIB + MIB // 2, seed), method=DEFLATED),
        Member("model/2.safetensors", body(2 * MIB + 17, seed)),
        link("model/latest", "2.safetensors"),
        *(Member(f"tail/{n}", body(9_000 + n, seed)) for n in range(20)),
        Member("empty"),
    )


@lru_cache
def archive_of(seed: str = "v1") -> bytes:
    return packed(weights(seed))


@lru_cache
def expected(seed: str = "v1") -> dict[str, Any]:
    """What `plain_tree` says of the folder that the weights become."""
    found: dict[str, Any] = {}
    for member in weights(seed):
        for parent in list(Path(member.name).parents)[:-1]:
            found[str(parent)] = None
        if stat.S_ISLNK(member.mode):
            found[member.name] = f"-> {member.data.decode()}"
        elif member.name.endswith("/"):
            found[member.name.rstrip("/")] = None
        else:
            found[member.name] = member.data
    return found


def serve(
    server: Server, *faults: Fault, data: bytes | None = None, path: str = PATH, etag: str = "1"
) -> str:
    data = archive_of() if data is None else data
    return server.add(path, Resource(data, etag=f'"{etag}"', faults=faults))


CHECKSUM = f"sha256:{digest(archive_of())}"


def slow(data: bytes | None = None) -> tuple[Fault, ...]:
    """So slow that there is a midway, and never the end of it."""
    size = len(archive_of() if data is None else data)
    return Pace(2 * MIB), Dam(size - 100_000)


# ------------------------------------------------------------------- servers without ranges


WITHOUT_RANGES: dict[str, tuple[Fault, ...]] = {
    "IgnoreRange": (IgnoreRange(),),
    "Chunked": (IgnoreRange(), Chunked(60_000)),
    "NoLength": (IgnoreRange(), NoLength()),
    "Http10": (Http10(),),
}


@pytest.mark.parametrize("how", WITHOUT_RANGES)
@pytest.mark.parametrize("checksum", [None, CHECKSUM], ids=["", "hashed"])
def test_a_server_without_ranges_will_do(
    server: Server, tmp_path: Path, how: str, checksum: str | None
) -> None:
    url = serve(server, *WITHOUT_RANGES[how])
    result = extract(url, tmp_path / "out", checksum=checksum)
    assert plain_tree(tmp_path / "out") == expected()
    assert result.digest == checksum
    assert result.members == tuple(m.name for m in weights() if not m.name.endswith("/"))
    assert names_in(tmp_path) == ["out"]


def test_an_archive_that_has_to_be_spooled_is_said_to_be(server: Server, tmp_path: Path) -> None:
    spooled = run("-x", serve(server, IgnoreRange()), tmp_path / "one", "-v")
    assert spooled.code == 0, spooled.err
    ranged = run("-x", serve(server), tmp_path / "two", "-v")
    assert ranged.code == 0, ranged.err

    def says_so(ended: Ended) -> bool:
        return "range" in ended.err or "spool" in ended.err

    assert says_so(spooled)
    assert not says_so(ranged)


@pytest.mark.parametrize("checksum", [None, CHECKSUM], ids=["", "hashed"])
def test_where_much_comes_before_the_end_it_is_stored_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str | None
) -> None:
    """A link that is good for one answer brings the directory last."""
    monkeypatch.setattr("pgetpy.archives.zip._MOST_SPOOLED", MIB)
    events = Events()
    with served(OddServer(archive_of(), Oddity(answers=1))) as url:
        result = extract(f"{url}.zip", tmp_path / "out", checksum=checksum, progress=events)
    assert plain_tree(tmp_path / "out") == expected()
    assert result.digest == checksum
    assert result.requests <= 3
    assert names_in(tmp_path) == ["out"]
    (remark,) = (event.remark for event in events.of(Remarked) if "as a whole" in event.remark)
    assert remark.startswith("its end came after more than 1 MiB of the rest: the zip is stored")


def test_a_spooled_archive_takes_the_room_of_itself_and_its_members(server: Server) -> None:
    size = sum(len(member.data) for member in weights()) + len(archive_of())
    with limited_tmpfs(size + 3 * MIB) as disk:
        extract(serve(server, IgnoreRange()), disk / "out")
        assert plain_tree(disk / "out") == expected()
        assert names_in(disk) == ["out"]


@pytest.mark.parametrize("refusal", [403, 404, 410])
def test_a_link_that_is_good_for_one_answer_brings_the_whole_archive(
    server: Server, tmp_path: Path, refusal: int
) -> None:
    later = Status(refusal, when=When(request=at_least(2)))
    url = serve(server, Pace(16 * MIB), later)
    result = extract(url, tmp_path / "out", checksum=CHECKSUM)
    assert plain_tree(tmp_path / "out") == expected()
    assert result.digest == CHECKSUM
    first, *others = server.asked(PATH)
    assert first == (0, None)
    assert len(others) <= 2
    assert names_in(tmp_path) == ["out"]


def test_an_archive_whose_later_ranges_are_malformed_waits_on_disk(
    server: Server, tmp_path: Path
) -> None:
    data = by_zipfile({"1": body(40 * MIB), "2": body(40 * MIB)})
    later = NoContentRange(when=When(request=at_least(2), ranged=True))
    url = serve(server, Pace(64 * MIB), later, data=data)
    ended = run("-x", url, tmp_path / "out", program=telling_its_peak())
    assert ended.code == 0, ended.err
    assert contents(tmp_path / "out") == {"1": body(40 * MIB), "2": body(40 * MIB)}
    assert peak_of(ended.err) < 96_000_000
    assert len(server.asked(PATH)) <= 4


def test_an_archive_with_ranges_takes_the_room_of_its_members(server: Server) -> None:
    data = by_zipfile({"1": body(6 * MIB), "2": body(6 * MIB)})
    with limited_tmpfs(15 * MIB) as disk:
        extract(serve(server, data=data), disk / "out", checksum=f"sha256:{digest(data)}")
        assert contents(disk / "out") == {"1": body(6 * MIB), "2": body(6 * MIB)}
        assert names_in(disk) == ["out"]


@pytest.mark.parametrize("faults", [(), (IgnoreRange(),)], ids=["ranges", "no ranges"])
def test_room_that_is_missing_is_one_error_that_leaves_nothing(
    server: Server, faults: tuple[Fault, ...]
) -> None:
    with limited_tmpfs(4 * MIB) as disk, unchanged(disk), pytest.raises(DiskFullError):
        extract(serve(server, *faults), disk / "out", resume=False)


def test_over_one_connection_the_directory_comes_before_the_members(
    server: Server, tmp_path: Path
) -> None:
    # Nothing has a place before: what came until then would be kept in memory.
    # A name that does not say what it is, so that the first request is one without an end.
    url = serve(server, Pace(4 * MIB), path="/archive")
    extract(url, tmp_path / "out", concurrency=1)
    first, second, *others = server.asked("/archive")
    assert first == (0, None)
    assert second is not None
    assert second[1] == len(archive_of())
    assert others
    assert plain_tree(tmp_path / "out") == expected()


@pytest.mark.parametrize(
    "faults",
    [(), pytest.param((IgnoreRange(),), marks=pytest.mark.soak)],
    ids=["ranges", "no ranges"],
)
def test_a_large_archive_takes_little_memory(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    large = [
        Member("stored", body(50_000_000)),
        Member("deflated", bytes(100_000_000), method=DEFLATED),
        Member("bzip2", bytes(100_000_000), method=zipfile.ZIP_BZIP2),
    ]
    url = serve(server, *faults, data=packed(large))
    ended = run("-x", url, tmp_path / "out", "-c", "8", program=telling_its_peak())
    assert ended.code == 0, ended.err
    assert (tmp_path / "out" / "stored").read_bytes() == large[0].data
    assert (tmp_path / "out" / "deflated").stat().st_size == 100_000_000
    assert (tmp_path / "out" / "bzip2").stat().st_size == 100_000_000
    shutil.rmtree(tmp_path / "out")
    assert peak_of(ended.err) < 96_000_000


# ------------------------------------------------------------------- servers that lie and break


# What a client gets over, in as many tries as it has.
BORNE: dict[str, tuple[Fault, ...]] = {
    "reset at first": (ResetAfter(0, when=When(request=1)),),
    "resets": (ResetAfter(300_000, when=When(times=3)),),
    "reset of the end": (ResetAfter(10, when=When(covers=len(archive_of()) - 30, times=2)),),
    "ends": (FinAfter(200_000, when=When(times=3)),),
    "silence": (SilenceAfter(100_000, when=When(times=1)),),
    "silence of the end": (
        SilenceBeforeHead(when=When(covers=len(archive_of()) - 30, times=1)),
    ),
    "shorter ranges": (ShorterRange(400_000),),
    "another range": (OtherRange(when=When(request=at_least(2), times=2)),),
    "a longer range": (OtherRange(0, 1000, when=When(request=at_least(2), times=2)),),
    "too many bytes": (LengthConflict(7, when=When(request=at_least(2), times=2)),),
    "200 with a Content-Range": (ContentRangeOn200(),),
    "busy": (Status(503, retry_after=0, when=When(request=at_least(2), times=2)),),
}  # fmt: skip


@pytest.mark.parametrize("concurrency", [pytest.param(1, marks=pytest.mark.soak), 8])
@pytest.mark.parametrize("what", BORNE)
def test_what_breaks_now_and_then_is_fetched_again(
    server: Server, tmp_path: Path, what: str, concurrency: int
) -> None:
    options = {"stall_timeout": 1.0, "retries": 5, "chunk_size": MIB, "concurrency": concurrency}
    extract(serve(server, *BORNE[what]), tmp_path / "out", **options)
    assert plain_tree(tmp_path / "out") == expected()
    assert names_in(tmp_path) == ["out"]


# What may be borne or not.
LIES: dict[str, tuple[Fault, ...]] = {
    "bytes of elsewhere": (OtherRange(claims_asked=True, when=When(request=at_least(2))),),
    "always another range": (OtherRange(when=When(request=at_least(2))),),
    "no Content-Range": (NoContentRange(when=When(request=at_least(2))),),
    "a larger total": (StatedTotal(10**9, when=When(request=at_least(2))),),
    "a smaller total": (StatedTotal(1000, when=When(request=at_least(2))),),
    "an unknown total": (StatedTotal("*"),),
    "ranges no more": (IgnoreRange(when=When(request=at_least(3))),),
    "gone": (Status(404, when=When(request=at_least(2))),),
    "overwritten in place": (Overwritten(MIB, archive_of("v2"), when=When(request=at_least(3))),),
    "replaced": (Replaced(archive_of("v2"), '"2"', when=When(request=at_least(3))),),
    "replaced in silence": (Replaced(archive_of("v2"), when=When(request=at_least(3))),),
    "replaced by a page": (Replaced(b"<html>" * 99, '"2"', when=When(request=at_least(3))),),
    "another each time": (
        Replaced(archive_of("v2"), '"2"', when=When(request=range(2, 100, 2))),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "checksum", [None, pytest.param(CHECKSUM, marks=pytest.mark.soak)], ids=["", "hashed"]
)
@pytest.mark.parametrize("what", LIES)
def test_no_lie_makes_a_wrong_tree(
    server: Server, tmp_path: Path, what: str, checksum: str | None
) -> None:
    url = serve(server, *LIES[what])
    options = {"retries": 2, "chunk_size": MIB, "concurrency": 4, "resume": False}
    allowed = [{}, expected()] if checksum else [{}, expected(), expected("v2")]
    with suppress(TransferError, ArchiveError, DigestMismatchError):
        extract(url, tmp_path / "out", checksum=checksum, **options)
        allowed = allowed[1:]
    assert plain_tree(tmp_path / "out") in allowed
    assert names_in(tmp_path) in ([], ["out"])


def test_an_object_that_changes_midway_is_extracted_in_its_new_version_or_not_at_all(
    server: Server, tmp_path: Path
) -> None:
    changed = Replaced(archive_of("v2"), '"2"', when=When(after=2 * MIB))
    url = serve(server, changed)
    try:
        extract(url, tmp_path / "out", chunk_size=MIB, concurrency=2)
    except ObjectChangedError:
        assert not (tmp_path / "out").exists()
        extract(url, tmp_path / "out", chunk_size=MIB)
    assert plain_tree(tmp_path / "out") == expected("v2")
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("faults", [(), (IgnoreRange(),)], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("place", ["new", "empty"])
def test_a_wrong_checksum_leaves_nothing(
    server: Server, tmp_path: Path, place: str, faults: tuple[Fault, ...]
) -> None:
    if place == "empty":
        (tmp_path / "out").mkdir()
    with unchanged(tmp_path), pytest.raises(DigestMismatchError):
        extract(serve(server, *faults), tmp_path / "out", checksum=f"sha256:{'0' * 64}")


# ------------------------------------------------------------------- going on


def killed_midway(
    server: Server, out: Path, *options: str, least: int = 2 * MIB, **run_options: Any
) -> Spans:
    """kill -9 a run to `out` when `least` bytes are there; what its journal says is there."""
    url = serve(server, *slow())
    with Run("-x", url, out, "-c", "3", "-m", "400k", *options, **run_options) as running:
        killed_when(running, lambda: written(out).size > least)
    assert not (out / "model").exists()
    serve(server)
    server.requests.clear()
    return written(out)


def members_within(held: Spans) -> list[tuple[int, int]]:
    """Where the members stand of which an earlier run holds all bytes."""
    return [
        (start, stop)
        for start, stop in spans_of(archive_of()).values()
        if any(span.start <= start and stop <= span.stop for span in held)
    ]


@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("new", ()),
        ("new", ("--checksum", CHECKSUM)),
        pytest.param("empty", (), marks=pytest.mark.soak),
        ("full", ("--checksum", CHECKSUM)),
    ],
    ids=["new", "new hashed", "empty", "full hashed"],
)
def test_a_zip_goes_on_after_a_kill(
    server: Server, tmp_path: Path, place: str, options: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    if place != "new":
        out.mkdir()
    if place == "full":
        (out / "other").write_bytes(b"kept")
        options = (*options, "-f")
    held = killed_midway(server, out, *options)
    # Small ranges, so that few bytes are under way where one is given up.
    result = result_of(run("-x", server.url(PATH), out, *options, "--json", "-m", "200k"))
    assert result["resumed"] > MIB
    assert bytes_asked(server, PATH) < len(archive_of()) - MIB, server.asked(PATH)
    again = asked_since(server, PATH, 0)
    # The end is asked for again, for it says what the archive is.
    again -= set(range((len(archive_of()) - 70_000) // 4096, len(archive_of()) // 4096 + 1))
    whole = members_within(held)
    assert whole
    for start, stop in whole:
        inner = set(range(-(-start // 4096), stop // 4096))
        assert not again & inner
    also = {"other": b"kept"} if place == "full" else {}
    assert plain_tree(out) == {**expected(), **also}
    assert names_in(tmp_path) == ["out"]
    assert result["members"] == [m.name for m in weights() if not m.name.endswith("/")]


def test_the_ranges_of_a_large_stored_member_are_not_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    data = packed([Member("large", body(8 * MIB)), Member("small", b"small")])
    gate = Gate()
    url = serve(server, GateAfter(0, gate, when=When(covers=5 * MIB)), data=data)
    with Run("-x", url, out, "-c", "4", "-m", "1M") as running:
        gate.wait_reached()
        killed_when(running, lambda: written(out).size > 6 * MIB)
    gate.open()
    serve(server, data=data)
    server.requests.clear()
    result = result_of(run("-x", url, out, "--json", "-m", "200k"))
    assert result["resumed"] > 6 * MIB
    assert bytes_asked(server, PATH) < 3 * MIB, server.asked(PATH)
    assert contents(out) == {"large": body(8 * MIB), "small": b"small"}
    assert names_in(tmp_path) == ["out"]


def test_a_transfer_that_failed_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    url = serve(server, ResetAfter(200_000, when=When(after=3 * MIB)))
    with pytest.raises(TransferError):
        extract(url, tmp_path / "out", retries=0, chunk_size=400_000)
    assert not (tmp_path / "out").exists()
    serve(server)
    server.requests.clear()
    result = extract(url, tmp_path / "out", chunk_size=200_000)
    assert result.resumed > MIB
    assert bytes_asked(server, PATH) < len(archive_of()) - MIB, server.asked(PATH)
    assert plain_tree(tmp_path / "out") == expected()
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("hashed", [False, True], ids=["", "hashed"])
def test_what_was_inflated_before_it_was_noted_is_no_harm(
    server: Server, tmp_path: Path, hashed: bool
) -> None:
    out = tmp_path / "out"
    members = [Member(f"{n:02}", body(300_000 + n), method=DEFLATED) for n in range(12)]
    data = packed(members)

    def delivered_unnoted() -> bool:
        held = written(out)
        for name, (start, stop) in spans_of(data).items():
            noted = held.overlaps(start, stop), held.covers(start, stop)
            if staged(out, name).exists() and noted == (True, False):
                return True
        return False

    # If no look falls into such a moment, the last one but one is held in it: its end comes with a
    # range of which nothing is noted before all of it is there.
    url = serve(server, Pace(MIB), Dam(spans_of(data)["10"][1] + 100_000), data=data)
    with Run("-x", url, out, "-c", "1", "-m", "1M") as running:
        killed_when(running, delivered_unnoted)
    serve(server, data=data)
    server.requests.clear()
    options = ("--checksum", f"sha256:{digest(data)}") if hashed else ()
    ended = run("-x", url, out, "--json", *options)
    assert result_of(ended)["resumed"] > 0
    assert bytes_asked(server, PATH) < len(data)
    assert contents(out) == {member.name: member.data for member in members}


def test_a_checksum_may_be_asked_for_by_the_second_run_alone(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    members = [
        *(Member(f"small/{n}", body(700 + n), method=DEFLATED) for n in range(300)),
        *(Member(f"large/{n}", body(MIB + n), method=DEFLATED) for n in range(3)),
        *(Member(f"stored/{n}", body(MIB + n)) for n in range(3)),
    ]
    data = packed(members)
    url = serve(server, *slow(data), data=data)
    with Run("-x", url, out, "-c", "1", "-m", "1M") as running:
        killed_when(running, lambda: written(out).size > 4 * MIB)
    serve(server, data=data)
    result = result_of(run("-x", url, out, "--json", "--checksum", f"sha256:{digest(data)}"))
    # What was stored is there as it was sent.
    assert result["resumed"] > 0
    assert contents(out) == {member.name: member.data for member in members}


def many(size: int, count: int, method: int = zipfile.ZIP_STORED) -> list[Member]:
    content = body(size) if size < 100_000 else bytes(size)
    return [Member(f"{n:04}", content, method=method) for n in range(count)]


@pytest.mark.parametrize(
    ("members", "hashed"),
    [
        (many(50, 400), True),
        (many(50, 400, DEFLATED), True),
        pytest.param(many(600_000, 400, DEFLATED), False, marks=pytest.mark.soak),
        (many(600_000, 250, DEFLATED), True),
    ],
    ids=["stored hashed", "deflated hashed", "much deflated", "much deflated hashed"],
)
def test_members_take_few_descriptors(
    server: Server, tmp_path: Path, members: list[Member], hashed: bool
) -> None:
    data = packed(members)
    options = ("--checksum", f"sha256:{digest(data)}") if hashed else ()
    ended = run("-x", serve(server, data=data), tmp_path / "out", *options, descriptors=200)
    assert ended.code == 0, ended.err
    assert len(names_in(tmp_path / "out")) == len(members)


def test_members_that_are_checked_again_take_few_descriptors(
    server: Server, tmp_path: Path
) -> None:
    members = many(8000, 500)
    data = packed(members)
    url = serve(server, *slow(data), data=data)
    with Run("-x", url, tmp_path / "out", "-c", "1", "-m", "1M") as running:
        killed_when(running, lambda: written(tmp_path / "out").size > 2 * MIB)
    serve(server, data=data)
    ended = run("-x", url, tmp_path / "out", "--json", descriptors=200)
    assert result_of(ended)["resumed"] > MIB
    assert contents(tmp_path / "out") == {member.name: member.data for member in members}


def test_a_run_that_is_not_to_resume_starts_anew(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_midway(server, out)
    result = result_of(run("-x", server.url(PATH), out, "--no-resume", "--json"))
    assert result["resumed"] == 0
    assert plain_tree(out) == expected()
    assert names_in(tmp_path) == ["out"]


def test_a_spooled_zip_leaves_nothing_when_it_was_killed_and_run_again(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    url = serve(server, IgnoreRange(), *slow())
    with Run("-x", url, out) as running:
        killed_when(running, lambda: server.sent(PATH) > 2 * MIB)
    assert not out.exists()
    serve(server, IgnoreRange())
    ended = run("-x", url, out)
    assert ended.code == 0, ended.err
    assert plain_tree(out) == expected()
    left = without_trials(plain_tree(tmp_path))
    assert {name.split("/")[0] for name in left} == {"out"}


@pytest.mark.parametrize("checksum", [False, True], ids=["", "hashed"])
def test_an_object_that_changed_between_the_runs_is_never_mixed(
    server: Server, tmp_path: Path, checksum: bool
) -> None:
    out = tmp_path / "out"
    killed_midway(server, out)
    url = serve(server, data=archive_of("v2"), etag="2")
    options = ("--checksum", f"sha256:{digest(archive_of('v2'))}") if checksum else ()
    result = result_of(run("-x", url, out, *options, "--json"))
    assert result["resumed"] == 0
    assert plain_tree(out) == expected("v2")
    assert names_in(tmp_path) == ["out"]


def test_another_zip_of_the_same_name_is_never_mixed_with_what_was_left(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed_midway(server, out)
    # Of the same size, as if only the contents had changed.
    data = by_zipfile({"pad": bytes(len(archive_of()) - len(by_zipfile({"pad": b""})))})
    assert len(data) == len(archive_of())
    url = serve(server, data=data, etag="3")
    ended = run("-x", url, out)
    assert ended.code == 0, ended.err
    assert names_in(out) == ["pad"]
    assert names_in(tmp_path) == ["out"]


def kill_until_done(server: Server, home: Path, chance: random.Random, most: int) -> None:
    out = home / "out"
    if chance.random() < 0.5:
        out.mkdir()
    for _ in range(most):
        url = serve(server, Pace(chance.choice([1, 4, 64]) * MIB))
        checked = ("--checksum", CHECKSUM) if chance.random() < 0.3 else ()
        with Run("-x", url, out, "-c", "4", "-m", "300k", "-f", *checked) as running:
            try:
                ended = running.wait(chance.uniform(0.2, 1.2))
            except subprocess.TimeoutExpired:
                running.kill()
                continue
            assert ended.code == 0, ended.err
            break
    ended = run("-x", serve(server), out, "-f")
    assert ended.code == 0, ended.err
    right = {"out": None, **{f"out/{name}": what for name, what in expected().items()}}
    assert without_trials(plain_tree(home)) == right


def test_kills_at_random_moments_end_right(server: Server, tmp_path: Path) -> None:
    kill_until_done(server, tmp_path, random.Random(11), 2)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(8))
def test_many_kills_at_random_moments_end_right(server: Server, tmp_path: Path, seed: int) -> None:
    kill_until_done(server, tmp_path, random.Random(seed), 12)


def staged(out: Path, name: str) -> Path:
    return part_of(out) / name


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "a large member deleted": lambda out: staged(out, "model/1.safetensors").unlink(),
    "a large member cut short": lambda out: cut_in_half(staged(out, "model/1.safetensors")),
    "the small members deleted": lambda out: shutil.rmtree(staged(out, "small"), True),
    "all deleted": lambda out: shutil.rmtree(part_of(out)),
    "a stranger among them": lambda out: staged(out, "stranger").write_bytes(b"x"),
}


def test_what_was_tampered_with_between_the_runs_is_no_harm(server: Server, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    killed_midway(server, home / "out", least=4 * MIB)
    for number, tampering in enumerate(TAMPERINGS.values()):
        copy = tmp_path / str(number)
        shutil.copytree(home, copy, symlinks=True)
        tampering(copy / "out")
        extract(server.url(PATH), copy / "out")
        assert plain_tree(copy / "out") == expected()
        assert names_in(copy) == ["out"]


@pytest.mark.parametrize(
    "what", [pytest.param("", marks=pytest.mark.soak), "model", "model/1.safetensors"]
)
def test_links_put_among_the_staged_members_are_not_followed(
    server: Server, tmp_path: Path, what: str
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    killed_midway(server, home / "out", least=4 * MIB)
    there = part_of(home / "out") / what
    there.rename(elsewhere / there.name)
    there.symlink_to(elsewhere / there.name)
    with unchanged(elsewhere):
        ended = run("-x", server.url(PATH), home / "out")
    if ended.code:
        last_line(ended)
        assert not (home / "out").exists()
    else:
        assert plain_tree(home / "out") == expected()


# ------------------------------------------------------------------- signals, and others at work


@pytest.mark.parametrize(
    ("faults", "number", "code"),
    [((), signal.SIGINT, 130), ((IgnoreRange(),), signal.SIGTERM, 143)],
    ids=["ranges", "no ranges"],
)
def test_a_signal_midway_is_one_line_and_the_same_command_ends_well(
    server: Server, tmp_path: Path, faults: tuple[Fault, ...], number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    url = serve(server, *faults, *slow())
    with Run("-x", url, out, "-c", "2", "-m", "400k") as running:
        running.wait_until(lambda: server.sent(PATH) > 2 * MIB)
        if not faults:
            running.wait_until(lambda: written(out).size > MIB)
        running.send(number)
        ended = running.wait(30)
    assert ended.code == code
    assert last_line(ended).startswith("pgetpy: interrupted")
    assert not out.exists()
    serve(server, *faults)
    result = result_of(run("-x", url, out, "--json"))
    assert faults or result["resumed"] > 0
    assert plain_tree(out) == expected()
    assert names_in(tmp_path) == ["out"]


def test_several_processes_extract_the_same_archive_to_the_same_folder(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    url = serve(server, Pace(4 * MIB))
    with Run("-x", url, out) as one, Run("-x", url, out) as other:
        ends = [one.wait(), other.wait()]
    assert 0 in [ended.code for ended in ends]
    for ended in ends:
        if ended.code:
            assert "already exists and is not empty" in last_line(ended)
    assert plain_tree(out) == expected()
    assert names_in(tmp_path) == ["out"]


# ------------------------------------------------------------------- folders that are there


def test_a_folder_that_holds_something_needs_force(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    (out / "model" / "config.json").write_text("old")
    (out / "other").write_text("kept")
    with unchanged(tmp_path), pytest.raises(DestinationError, match="not empty"):
        extract(url, out)
    extract(url, out, force=True)
    assert plain_tree(out) == {**expected(), "other": b"kept"}
    assert names_in(tmp_path) == ["out"]


def test_an_empty_folder_is_filled_in_place(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    extract(serve(server), out)
    assert out.stat().st_ino == before
    assert plain_tree(out) == expected()


def test_nothing_is_written_through_a_link_that_was_there_before(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "model").symlink_to(elsewhere)
    with pytest.raises(DestinationError, match="model"):
        extract(url, out, force=True)
    assert names_in(elsewhere) == []
    (out / "model").unlink()
    extract(url, out, force=True)
    assert plain_tree(out) == expected()


READ_ONLY = (
    Member("closed/", mode=stat.S_IFDIR | 0o555),
    Member("closed/large", body(2 * MIB), stat.S_IFREG | 0o444),
    Member("closed/inner/", mode=stat.S_IFDIR | 0o500),
    Member("closed/inner/small", b"small", stat.S_IFREG | 0o400, DEFLATED),
    Member("hidden", b"none may read it", stat.S_IFREG),
    Member("shut/", mode=stat.S_IFDIR | 0o111),
    Member("shut/in", b"in", stat.S_IFREG | 0o444),
)


@pytest.mark.parametrize(
    ("hashed", "faults"),
    [(False, ()), (True, (IgnoreRange(),))],
    ids=["ranges", "hashed, no ranges"],
)
def test_members_that_may_not_be_written_are_made_by_nobody(
    server: Server, hashed: bool, faults: tuple[Fault, ...]
) -> None:
    data = packed(READ_ONLY)
    check = ("--checksum", f"sha256:{digest(data)}") if hashed else ()
    with folder_of_nobody() as home:
        url = serve(server, *faults, data=data)
        ended = run("-x", url, home / "out", *check, unprivileged=True)
        assert ended.code == 0, ended.err
        found = {
            str(path.relative_to(home / "out")): path.stat().st_mode & 0o777
            for path in (home / "out").rglob("*")
        }
        assert found == {m.name.rstrip("/"): m.mode & 0o777 for m in READ_ONLY}
        assert names_in(home) == ["out"]


# ------------------------------------------------------------------- manifests


def test_a_manifest_of_zips_with_a_bad_one_among_them(server: Server, tmp_path: Path) -> None:
    good = serve(server)
    bad = serve(server, data=archive_of()[:-30], path="/bad.zip")
    spooled = serve(server, IgnoreRange(), data=by_zipfile({"a": b"a"}), path="/other.zip")
    lines = [f"{good} {tmp_path}/good", f"{bad} {tmp_path}/bad", f"{spooled} {tmp_path}/other"]
    (tmp_path / "manifest").write_text("\n".join(lines))
    ended = run("multifile", "-x", tmp_path / "manifest", "--json")
    assert ended.code == 1
    assert "cut off" in ended.err
    assert "Traceback" not in ended.err
    assert plain_tree(tmp_path / "good") == expected()
    assert contents(tmp_path / "other") == {"a": b"a"}
    assert names_in(tmp_path) == ["good", "manifest", "other"]


def test_one_line_of_a_manifest_may_be_a_zip(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    (tmp_path / "manifest").write_text(f"{url} {tmp_path}/file\n{url} {tmp_path}/folder -x\n")
    ended = run("multifile", tmp_path / "manifest", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out.splitlines()[-1])
    assert (tmp_path / "file").read_bytes() == archive_of()
    assert plain_tree(tmp_path / "folder") == expected()
    assert names_in(tmp_path) == ["file", "folder", "manifest"]
