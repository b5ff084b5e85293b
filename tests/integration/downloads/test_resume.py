"""A run that ended too soon, and the next one: what is there is not fetched again, nor believed
without cause."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import pgetpy
from pgetpy.core.destinations.journal import flushed_line, parse_journal, subject_line, written_line
from pgetpy.core.report.events import Started, StartedOver
from pgetpy.errors import (
    ConnectionFailedError,
    DigestMismatchError,
    PgetError,
    TransferError,
)
from tests.support.authority import Authority
from tests.support.bodies import body, digest
from tests.support.children import (
    MIB,
    PAGE,
    after,
    asked_since,
    bytes_asked,
    in_namespace,
    journal_of,
    killed_when,
    landed,
    part_of,
    result_of,
)
from tests.support.delivery import Gate
from tests.support.faults import (
    Chunked,
    Crawl,
    Dam,
    Fault,
    FinAfter,
    GateAfter,
    IgnoreRange,
    NoValidators,
    Pace,
    ResetAfter,
    Status,
    WeakEtag,
    When,
    at_least,
)
from tests.support.fetching import Events, fetch, impatient, names_in
from tests.support.processes import Run, run
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(3_500_001)
OTHER = body(3_500_001, "v2")
LARGE = body(24 * MIB)
CHECKSUM = f"sha256:{digest(BODY)}"
CHUNK = 500_000
BUFFER = 256 * 1024
BOTH = pytest.mark.usefixtures("transport")


def serve(
    server: Server, *faults: Fault, data: bytes = BODY, path: str = "/model", etag: str = '"v1"'
) -> str:
    return server.add(path, Resource(data, etag=etag, faults=faults))


def broken_after(size: int) -> Fault:
    return ResetAfter(0, when=When(after=size))


def stop_half_way(url: str, server: Server, dest: Path, **options: object) -> None:
    """Have a run fail that has fetched some two of the three and a half megabytes of `url`.

    Its connections break, since an HTTP error would be tried once more after a second.
    """
    path = re.sub(r"^http://[^/]+|\?.*", "", url)
    resource = server._resources[path]
    # Of two connections at most, so that there are ranges left to be refused.
    options = {"concurrency": 2, **options}
    server.add(path, replace(resource, faults=(*resource.faults, broken_after(2_000_000))))
    with pytest.raises(ConnectionFailedError):
        fetch(url, dest, chunk_size=CHUNK, retries=0, **options)
    server.add(path, resource)
    server.requests.clear()


def assert_resumed(server: Server, result: pgetpy.DownloadResult, data: bytes = BODY) -> None:
    """`result` is right, and took up what `stop_half_way` had left."""
    dest = Path(result.dest)
    assert dest.read_bytes() == data
    assert names_in(dest.parent) == [dest.name]
    assert result.resumed > 1_000_000
    assert result.resumed + bytes_asked(server, "/model") <= len(data)
    assert server.seen("/model")[0].asked != (0, CHUNK)


def assert_fetched_whole(
    server: Server, result: pgetpy.DownloadResult, data: bytes = BODY, path: str = "/model"
) -> None:
    """`result` is right, and took nothing that was left."""
    dest = Path(result.dest)
    assert dest.read_bytes() == data
    assert names_in(dest.parent) == [dest.name]
    assert result.resumed == 0
    # The last bytes may be here before the server has counted them.
    server.wait_until(lambda: server.sent(path) >= len(data))


# ------------------------------------------------------------------- going on


@BOTH
def test_what_a_failed_run_has_fetched_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    assert names_in(tmp_path) == [journal_of(tmp_path / "got").name, part_of(tmp_path / "got").name]
    events = Events()
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK, progress=events)
    assert_resumed(server, result)
    assert [event.held for event in events.of(Started)] == [result.resumed]
    assert events.of(StartedOver) == []
    events.assert_monotonic()
    # What goes on from an earlier run is tied to its version from the first request.
    assert {seen.header("If-Range") for seen in server.requests} == {'"v1"'}


def test_a_run_may_fail_again_and_again_as_long_as_each_brings_something(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    left = 0
    for _ in range(3):
        server.add("/model", Resource(BODY, faults=[broken_after(700_000)]))
        with pytest.raises(ConnectionFailedError):
            fetch(url, tmp_path / "got", chunk_size=100_000, concurrency=2, retries=0)
        now = len(landed(tmp_path / "got", BODY))
        assert now > left
        left = now
    serve(server)
    server.requests.clear()
    assert_resumed(server, fetch(url, tmp_path / "got", chunk_size=100_000))


@pytest.mark.parametrize("way", ["plain", "TLS", "proxy"])
def test_after_kill_9_at_most_one_mib_a_connection_is_fetched_again(
    way: str, tmp_path: Path, ca: Authority, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("tls_server" if way == "TLS" else "server")
    env = {}
    if way == "proxy":
        # Through a proxy everything goes by the full client.
        proxy: Proxy = request.getfixturevalue("proxy")
        env = {"http_proxy": proxy.url()}
    gate = Gate()
    url = serve(server, GateAfter(3 * MIB // 2, gate, when=When(request=at_least(2))), data=LARGE)
    dest = tmp_path / "got"
    args = (url, dest, "-c", "4", "-m", "100M", "--cacert", ca.pem, "--json")

    def all_has_landed() -> bool:
        there = part_of(dest).read_bytes() if part_of(dest).exists() else b""
        # A buffer that is not full yet is written when the connection ends.
        sent = [(seen.asked[0], seen.sent - BUFFER) for seen in server.seen("/model") if seen.asked]
        return len(sent) > 1 and all(
            size > MIB / 2 and there[at : at + size] == LARGE[at : at + size] for at, size in sent
        )

    with Run(*args, env=env) as running:
        killed_when(running, all_has_landed)
    assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]
    had = landed(dest, LARGE)
    count = len(server.requests)
    assert len(had) * PAGE > 2 * MIB
    gate.open()
    ended = run(*args, env=env)
    assert dest.read_bytes() == LARGE
    assert names_in(tmp_path) == ["got"]
    again = len(had & asked_since(server, "/model", count)) * PAGE
    assert again <= min(4, count) * MIB
    # What is not asked for again had to be written down.
    resumed = result_of(ended)["resumed"]
    assert resumed >= len(had) * PAGE - again - 2 * PAGE
    # The first answer, of one MiB, was whole.
    assert resumed >= MIB


def test_kill_9_while_bytes_pour_in_costs_at_most_one_mib_a_connection(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server, Pace(8 * MIB), Dam(9 * MIB), data=LARGE)
    for least in (5 * MIB, 10 * MIB):
        with Run(url, dest, "-c", "2") as running:
            killed_when(running, lambda least=least: len(landed(dest, LARGE)) * PAGE > least)
        had = landed(dest, LARGE)
        count = len(server.requests)
        serve(server, Pace(8 * MIB), Dam(9 * MIB), data=LARGE)
    serve(server, data=LARGE)
    result = fetch(url, dest)
    assert dest.read_bytes() == LARGE
    again = len(had & asked_since(server, "/model", count)) * PAGE
    assert again <= 2 * MIB
    assert result.resumed > 6 * MIB
    assert names_in(tmp_path) == ["got"]


def test_a_file_that_is_whole_but_was_not_published_costs_one_byte(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    subject = parse_journal(journal_of(dest).read_bytes()).subject
    assert subject is not None
    part_of(dest).write_bytes(BODY)
    journal_of(dest).write_bytes(subject_line(subject) + written_line(0, len(BODY)))
    result = fetch(url, dest)
    assert dest.read_bytes() == BODY
    assert result.resumed == len(BODY)
    assert server.sent("/model") == 1
    assert names_in(tmp_path) == ["got"]


def test_a_folder_as_destination_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path)
    result = fetch(url, tmp_path, chunk_size=CHUNK)
    assert result.dest == str(tmp_path / "model")
    # The name is known when the first answer is there.
    assert (tmp_path / "model").read_bytes() == BODY
    assert result.resumed > 1_000_000
    assert names_in(tmp_path) == ["model"]


def test_what_a_link_points_to_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "got").symlink_to(tmp_path / "store" / "blob")
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert result.resumed > 1_000_000
    assert (tmp_path / "got").is_symlink()
    assert names_in(tmp_path / "store") == ["blob"]
    assert (tmp_path / "store" / "blob").read_bytes() == BODY


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "-x", "a b\nc", "\udcff"])
def test_any_name_a_file_can_have_is_gone_on_with(
    server: Server, tmp_path: Path, name: str
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / name)
    assert_resumed(server, fetch(url, tmp_path / name, chunk_size=CHUNK))


def test_every_file_of_several_goes_on_by_itself(server: Server, tmp_path: Path) -> None:
    urls = [serve(server, data=body(3_500_001, name), path=f"/{name}") for name in "abc"]
    for name, url in zip("abc", urls, strict=True):
        stop_half_way(url, server, tmp_path / name)
    files = [(url, tmp_path / name) for name, url in zip("abc", urls, strict=True)]
    found = pgetpy.download_many(files, settings=impatient(chunk_size=CHUNK))
    for name, outcome in zip("abc", found, strict=True):
        assert isinstance(outcome, pgetpy.DownloadResult)
        assert outcome.resumed > 1_000_000
        assert (tmp_path / name).read_bytes() == body(3_500_001, name)
    assert names_in(tmp_path) == ["a", "b", "c"]


# ------------------------------------------------------------------- what is kept, and until when


@BOTH
@pytest.mark.parametrize("trouble", ["no server", "404", "503", "no name", "redirect circle"])
@pytest.mark.parametrize("resume", [True, False], ids=["", "no-resume"])
def test_a_rerun_that_does_not_get_anywhere_loses_nothing(
    server: Server, tmp_path: Path, trouble: str, resume: bool
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    before = landed(dest, BODY)
    resolve = {}
    if trouble == "no server":
        server.stop()
    elif trouble == "no name":
        resolve = {"resolve": {("127.0.0.1", server.port): "no-such-host.invalid"}}
    elif trouble == "redirect circle":
        from tests.support.faults import Redirect

        serve(server, Redirect("/model"))
    else:
        serve(server, Status(int(trouble)))
    with pytest.raises(TransferError):
        fetch(url, dest, retries=0, resume=resume, **resolve)
    assert landed(dest, BODY) == before
    if trouble == "no server":
        server.start()
    serve(server)
    server.requests.clear()
    assert_resumed(server, fetch(url, dest, chunk_size=CHUNK))


def test_no_resume_starts_anew(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    part_of(tmp_path / "got").write_bytes(bytes(len(BODY)))
    assert_fetched_whole(server, fetch(url, tmp_path / "got", resume=False))


def test_no_resume_leaves_for_the_next_run_only_what_it_fetched_itself(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    part_of(dest).write_bytes(bytes(len(BODY)))
    server.add("/model", Resource(BODY, faults=[broken_after(500_000)]))
    with pytest.raises(ConnectionFailedError):
        fetch(url, dest, chunk_size=100_000, resume=False, retries=0)
    serve(server)
    fetch(url, dest)
    assert dest.read_bytes() == BODY


# ------------------------------------------------------------------- a journal that is damaged


def test_a_journal_that_was_cut_off_anywhere_is_believed_as_far_as_it_goes(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    journal, part = journal_of(dest).read_bytes(), part_of(dest).read_bytes()
    first = journal.index(b"\n")
    resumed = []
    for cut in (0, 1, first - 1, first, first + 1, first + 20, len(journal) // 2, len(journal) - 1):
        journal_of(dest).write_bytes(journal[:cut])
        part_of(dest).write_bytes(part)
        result = fetch(url, dest, force=True)
        assert dest.read_bytes() == BODY
        assert names_in(tmp_path) == ["got"]
        resumed.append(result.resumed)
    assert resumed == sorted(resumed)
    assert resumed[0] == 0 < resumed[-1]


def test_a_run_after_a_torn_line_writes_a_journal_that_can_be_read(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    with journal_of(dest).open("ab") as journal:
        journal.write(b"w 3000000 34")
    server.add("/model", Resource(BODY, faults=[broken_after(600_000)]))
    with pytest.raises(ConnectionFailedError):
        fetch(url, dest, chunk_size=100_000, retries=0)
    held = parse_journal(journal_of(dest).read_bytes()).written.size
    assert held > 2_300_000
    serve(server)
    assert fetch(url, dest).resumed == held
    assert dest.read_bytes() == BODY


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 4096, b"w 0 3500001\n", b"w 0 3500001 00000000\n", b"\xff\xfe\n", b"x" * 100_000],
    ids=["zeros", "no sum", "wrong sum", "no text", "long"],
)
def test_nonsense_at_the_end_of_a_journal_is_not_believed(
    server: Server, tmp_path: Path, tail: bytes
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    with journal_of(dest).open("ab") as journal:
        journal.write(tail)
    assert_resumed(server, fetch(url, dest, chunk_size=CHUNK))


@pytest.mark.parametrize("data", [b"", b"\n", b"pgetpy 2 {} 0\n", b"\0" * 100, b"{}"])
def test_a_journal_that_is_none_is_no_trouble(server: Server, tmp_path: Path, data: bytes) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    journal_of(dest).write_bytes(data)
    part_of(dest).write_bytes(b"x" * 5_000_000)
    assert_fetched_whole(server, fetch(url, dest))


def cut_short(dest: Path) -> None:
    with part_of(dest).open("r+b") as part:
        part.truncate(1_000_000)


def made_empty(dest: Path) -> None:
    part_of(dest).write_bytes(b"")


def gone(dest: Path) -> None:
    part_of(dest).unlink()


@pytest.mark.parametrize("damage", [cut_short, made_empty, gone])
@pytest.mark.parametrize("checksum", [None, CHECKSUM], ids=["", "checksum"])
def test_what_a_part_file_lacks_is_fetched_whatever_the_journal_says(
    server: Server, tmp_path: Path, damage: Callable[[Path], None], checksum: str | None
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    damage(dest)
    fetch(url, dest, checksum=checksum)
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_what_a_part_file_lacks_is_not_believed_after_another_kill_either(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    journal = parse_journal(journal_of(dest).read_bytes())
    assert journal.subject is not None
    assert journal.written.size >= 1_500_000
    # Two stretches, of which the file will have the first.
    pieces = [written_line(0, 500_000), written_line(600_000, 1_500_000)]
    journal_of(dest).write_bytes(b"".join([subject_line(journal.subject), *pieces]))
    cut_short(dest)
    dying = """
import os, signal
stretch = os.ftruncate
def stretched(fd, size):
    stretch(fd, size)
    os.kill(os.getpid(), signal.SIGKILL)
os.ftruncate = stretched
"""
    assert run(url, dest, program=after(dying)).code == -signal.SIGKILL
    fetch(url, dest)
    assert dest.read_bytes() == BODY


def test_a_part_file_without_a_journal_is_not_believed(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    part_of(dest).write_bytes(OTHER + b"more")
    assert_fetched_whole(server, fetch(url, dest))


def test_a_part_file_that_is_longer_than_the_object_is_cut(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    with part_of(dest).open("ab") as part:
        part.write(b"x" * 4_000_000)
    assert_resumed(server, fetch(url, dest, chunk_size=CHUNK))


# ------------------------------------------------------------------- another boot


def rewrite(dest: Path, boot: str, flushed: tuple[tuple[int, int], ...]) -> None:
    """Make the journal of `dest` that of another boot; what is not `flushed` is lost."""
    journal = parse_journal(journal_of(dest).read_bytes())
    assert journal.subject is not None
    lines = [subject_line(journal.subject._replace(boot=boot))]
    lines += [written_line(span.start, span.stop) for span in journal.written]
    lines += [flushed_line(*span) for span in flushed]
    journal_of(dest).write_bytes(b"".join(lines))
    part = bytearray(part_of(dest).read_bytes())
    kept = [(start, stop, bytes(part[start:stop])) for start, stop in flushed]
    part[:] = bytes(len(part))
    for start, stop, data in kept:
        part[start:stop] = data
    part_of(dest).write_bytes(part)


@pytest.mark.parametrize("boot", ["another boot", ""], ids=["another", "unknown"])
def test_after_another_boot_only_what_was_flushed_is_trusted(
    server: Server, tmp_path: Path, boot: str
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    rewrite(dest, boot, ((0, 400_000), (900_000, 1_000_000)))
    result = fetch(url, dest)
    assert dest.read_bytes() == BODY
    assert result.resumed == 500_000
    stop_half_way(url, server, tmp_path / "other")
    rewrite(tmp_path / "other", boot, ())
    assert fetch(url, tmp_path / "other").resumed == 0
    assert (tmp_path / "other").read_bytes() == BODY


def test_what_was_flushed_before_a_power_cut_is_trusted_after_the_next_one_too(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    rewrite(dest, "first boot", ((0, 1_000_000),))
    server.add("/model", Resource(BODY, faults=[broken_after(300_000)]))
    with pytest.raises(ConnectionFailedError):
        fetch(url, dest, chunk_size=100_000, concurrency=2, retries=0)
    journal = parse_journal(journal_of(dest).read_bytes())
    assert journal.trusted("a third boot").size >= 1_000_000


def test_the_boot_is_that_of_the_machine(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "got"
    url = serve(server, Pace(8 * MIB), Dam(12 * MIB), data=LARGE)
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"00000000-0000-4000-8000-00000000000{len(name)}{name[0]}\n")

    def booted(name: str) -> tuple[str, ...]:
        return in_namespace(f"mount --bind {tmp_path / name} /proc/sys/kernel/random/boot_id")

    with Run(url, dest, "-c", "2", program=booted("one")) as running:
        killed_when(running, lambda: len(landed(dest, LARGE)) * PAGE > 6 * MIB)
    serve(server, data=LARGE)
    kept = {path: path.read_bytes() for path in (part_of(dest), journal_of(dest))}
    same = result_of(run(url, dest, "--json", program=booted("one")))
    assert same["resumed"] > 2 * MIB
    assert dest.read_bytes() == LARGE
    dest.unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    # Of what was never flushed nothing may be trusted.
    other = result_of(run(url, dest, "--json", program=booted("two")))
    assert other["resumed"] == 0
    assert dest.read_bytes() == LARGE


# ------------------------------------------------------------------- another object


@BOTH
@pytest.mark.parametrize(
    "data", [OTHER, body(4_000_000, "v2"), body(2_000_000, "v2"), b"tiny", b""], ids=len
)
def test_another_version_is_fetched_from_its_beginning_and_that_is_said(
    server: Server, tmp_path: Path, data: bytes
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    serve(server, data=data, etag='"v2"')
    events = Events()
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK, progress=events)
    assert_fetched_whole(server, result, data)
    (said,) = events.of(StartedOver)
    assert "changed" in said.reason
    assert '"v1"' in said.reason
    assert '"v2"' in said.reason
    events.assert_monotonic()


def test_another_version_under_the_same_etag_is_told_by_its_size(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    longer = body(3_600_000, "v2")
    serve(server, data=longer)
    assert_fetched_whole(server, fetch(url, tmp_path / "got"), longer)


@BOTH
def test_what_is_held_is_passed_over_where_the_whole_comes_for_a_range(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    serve(server, IgnoreRange())
    events = Events()
    result = fetch(url, tmp_path / "got", progress=events)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.resumed > 1_000_000
    assert result.single_stream
    assert not events.of(StartedOver)


@BOTH
def test_a_server_that_serves_no_ranges_any_more_is_read_from_the_beginning(
    server: Server, tmp_path: Path
) -> None:
    """Without a size nothing says that it is the same object."""
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    serve(server, IgnoreRange(), Chunked())
    events = Events()
    result = fetch(url, tmp_path / "got", progress=events)
    assert_fetched_whole(server, result)
    assert len(events.of(StartedOver)) == 1


SIGNED = [
    ("X-Amz-Date=1&X-Amz-Credential=me&X-Amz-Signature=aa", "X-Amz-Date=2&X-Amz-Signature=bb"),
    ("X-Goog-Signature=aa&X-Goog-Date=1", "X-Goog-Signature=bb&X-Goog-Date=2"),
    (
        "sv=2022-11-02&se=2030-01-01T00%3A00%3A00Z&sr=b&sp=r&sig=aa",
        "sv=2022-11-02&se=2031-01-01T00%3A00%3A00Z&sr=b&sp=r&sig=bb",
    ),
    ("Expires=1&Signature=aa&Key-Pair-Id=K", "Expires=2&Signature=bb&Key-Pair-Id=K"),
    ("", "X-Amz-Signature=bb"),
    ("rev=main&X-Amz-Signature=aa", "X-Amz-Signature=bb&rev=main"),
]


@pytest.mark.parametrize(("before", "now"), SIGNED)
def test_another_signature_is_the_same_object(
    server: Server, tmp_path: Path, before: str, now: str
) -> None:
    url = serve(server)
    stop_half_way(f"{url}?{before}", server, tmp_path / "got")
    assert_resumed(server, fetch(f"{url}?{now}", tmp_path / "got", chunk_size=CHUNK))


@pytest.mark.parametrize("query", ["?rev=2", "?id=1&X-Amz-Signature=aa"])
def test_another_url_is_another_object(server: Server, tmp_path: Path, query: str) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    # By their validators they could not be told apart.
    serve(server, data=OTHER)
    assert_fetched_whole(server, fetch(url + query, tmp_path / "got"), OTHER)


def test_another_path_is_another_object(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    other = serve(server, data=OTHER, path="/other")
    result = fetch(other, tmp_path / "got")
    assert_fetched_whole(server, result, OTHER, "/other")


def test_no_secret_of_a_url_is_written_beside_the_file(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "got"
    url = serve(server)
    secret = url.replace("http://", "http://me:hunter2@") + "?X-Amz-Signature=hunter2&token=hunter2"
    stop_half_way(secret, server, dest, headers={"Authorization": "Bearer hunter2"})
    assert b"hunter2" not in journal_of(dest).read_bytes()
    assert journal_of(dest).stat().st_mode & 0o077 == 0
    assert_resumed(server, fetch(secret, dest, chunk_size=CHUNK))


# ------------------------------------------------------------------- without a strong validator


WEAK = pytest.mark.parametrize(
    "fault", [WeakEtag(), NoValidators()], ids=lambda fault: type(fault).__name__
)


@WEAK
def test_without_a_strong_validator_nothing_is_left_for_a_rerun(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    url = serve(server, fault)
    stop_half_way(url, server, tmp_path / "got")
    assert names_in(tmp_path) == []
    assert_fetched_whole(server, fetch(url, tmp_path / "got"))


@WEAK
def test_without_a_strong_validator_what_a_kill_leaves_is_not_believed(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    dest = tmp_path / "got"
    url = serve(server, fault, Pace(2 * MIB), Dam(3 * MIB))
    with Run(url, dest, "-c", "1") as running:
        killed_when(running, lambda: len(landed(dest, BODY)) * PAGE > MIB)
    serve(server, fault, data=OTHER)
    server.requests.clear()
    assert_fetched_whole(server, fetch(url, dest), OTHER)


@BOTH
@WEAK
def test_a_checksum_allows_to_go_on_without_a_strong_validator(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    url = serve(server, fault)
    stop_half_way(url, server, tmp_path / "got", checksum=CHECKSUM)
    result = fetch(url, tmp_path / "got", checksum=CHECKSUM, chunk_size=CHUNK)
    assert_resumed(server, result)
    assert result.digest == CHECKSUM


@WEAK
def test_what_was_left_for_a_checksum_is_not_believed_without_one(
    server: Server, tmp_path: Path, fault: Fault
) -> None:
    url = serve(server, fault)
    stop_half_way(url, server, tmp_path / "got", checksum=CHECKSUM)
    serve(server, fault, data=OTHER)
    events = Events()
    assert_fetched_whole(server, fetch(url, tmp_path / "got", progress=events), OTHER)
    assert len(events.of(StartedOver)) == 1


def test_what_lost_its_strong_validator_midway_is_not_mixed_with_what_has_it(
    server: Server, tmp_path: Path
) -> None:
    # The journal of the first run may not speak for bytes of the second, which was killed.
    dest = tmp_path / "got"
    url = serve(server)
    stop_half_way(url, server, dest)
    # The first request asks whether it is still the same; of the answer nothing is kept. There is
    # one connection, so that nothing is asked for twice of what the dam lets out.
    dam = Dam(3 * MIB, when=When(request=at_least(2)))
    serve(server, WeakEtag(), Pace(2 * MIB), dam, data=OTHER)
    with Run(url, dest, "-c", "1") as running:
        killed_when(running, lambda: len(landed(dest, OTHER)) * PAGE > MIB // 2)
    serve(server)
    server.requests.clear()
    assert_fetched_whole(server, fetch(url, dest))


# ------------------------------------------------------------------- checksums


def spoil(dest: Path) -> None:
    """Change some bytes of the part file of `dest` that its journal vouches for."""
    with part_of(dest).open("r+b") as part:
        part.seek(100_000)
        part.write(b"spoiled")


@BOTH
def test_a_wrong_checksum_of_what_was_left_starts_over_once(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    spoil(tmp_path / "got")
    events = Events()
    result = fetch(url, tmp_path / "got", checksum=CHECKSUM, progress=events)
    assert_fetched_whole(server, result)
    assert result.digest == CHECKSUM
    (said,) = events.of(StartedOver)
    assert "checksum" in said.reason
    events.assert_monotonic()


def test_a_checksum_that_is_wrong_the_second_time_too_is_an_error(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    events = Events()
    with pytest.raises(DigestMismatchError) as caught:
        fetch(url, tmp_path / "got", checksum=f"sha256:{'0' * 64}", progress=events)
    assert caught.value.actual == CHECKSUM
    assert len(events.of(StartedOver)) == 1
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5", "blake2b"])
def test_what_was_left_is_part_of_the_digest(
    server: Server, tmp_path: Path, algorithm: str
) -> None:
    url = serve(server)
    checksum = f"{algorithm}:{hashlib.new(algorithm, BODY).hexdigest()}"
    stop_half_way(url, server, tmp_path / "got", checksum=checksum)
    result = fetch(url, tmp_path / "got", checksum=checksum, chunk_size=CHUNK)
    assert_resumed(server, result)
    assert result.digest == checksum


# ------------------------------------------------------------------- trouble while going on


@BOTH
@pytest.mark.parametrize(
    "fault",
    [
        ResetAfter(100_000, when=When(times=3)),
        FinAfter(0, when=When(times=2)),
        Status(503, when=When(times=2)),
        IgnoreRange(when=When(request=at_least(3), times=2)),
        Crawl(2_000_000),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_going_on_bears_what_beginning_bears(server: Server, tmp_path: Path, fault: Fault) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    serve(server, fault)
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.resumed > 1_000_000
    assert names_in(tmp_path) == ["got"]


def test_a_version_that_changes_while_a_run_goes_on_is_started_over(
    server: Server, tmp_path: Path
) -> None:
    from tests.support.faults import Replaced

    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    serve(server, Replaced(OTHER, etag='"v2"', when=When(request=at_least(2))))
    fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == OTHER
    assert names_in(tmp_path) == ["got"]


def test_a_mirror_goes_on_where_the_url_of_the_run_before_has_stopped(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    mirror = serve(other_server)
    server.remove("/model")
    result = fetch(url, tmp_path / "got", mirrors=[mirror], chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.resumed > 1_000_000
    assert bytes_asked(other_server, "/model") <= len(BODY) - result.resumed


def test_a_destination_that_appeared_meanwhile_stands(server: Server, tmp_path: Path) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    (tmp_path / "got").write_bytes(b"precious")
    with pytest.raises(PgetError, match="already exists"):
        fetch(url, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"precious"
    # What was left is not thrown away for that.
    (tmp_path / "got").unlink()
    assert_resumed(server, fetch(url, tmp_path / "got", chunk_size=CHUNK))


def test_a_folder_that_has_moved_takes_its_rest_along(server: Server, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    url = serve(server)
    stop_half_way(url, server, tmp_path / "here" / "got")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert_resumed(server, fetch(url, tmp_path / "there" / "got", chunk_size=CHUNK))


def test_a_connection_that_cannot_be_made_is_the_error_and_not_what_was_left(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    stop_half_way(url, server, tmp_path / "got")
    server.refuse(100)
    with pytest.raises(ConnectionFailedError):
        fetch(url, tmp_path / "got", retries=1)
    server.refuse(0)
    assert_resumed(server, fetch(url, tmp_path / "got", chunk_size=CHUNK))
