"""`ulimit -u`, or a container's limit of pids: with few threads there are fewer at work."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.support.bodies import body, digest
from tests.support.children import MIB, after, result_of
from tests.support.faults import Encoded, Pace
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(6 * MIB + 11)
# A child that may have so many threads, the first among them; counted as the system counts.
_FEW = """
import sys, threading
own = threading.Thread.start
def start(thread):
    if sum(each.is_alive() for each in threading.enumerate()) >= {most}:
        raise RuntimeError("can't start new thread")
    own(thread)
threading.Thread.start = start
"""
MOST = [2, 3, 4, 8, 14]


def few(most: int) -> tuple[str, ...]:
    return after(_FEW.format(most=most))


@pytest.mark.parametrize("most", MOST)
def test_a_download_makes_do(server: Server, tmp_path: Path, most: int) -> None:
    url = server.add("/x", Resource(BODY))
    dest = tmp_path / "x"
    checksum = f"sha256:{digest(BODY)}"
    flags = ("-c", "64", "-m", "64K", "--json", "--checksum", checksum)
    assert result_of(run(url, dest, *flags, program=few(most)))["digest"] == checksum
    assert dest.read_bytes() == BODY


@pytest.mark.parametrize("most", [14])
def test_many_slow_connections_make_do(server: Server, tmp_path: Path, most: int) -> None:
    """More of them pay than there are threads."""
    data = body(24 * MIB)
    url = server.add("/x", Resource(data, faults=[Pace(800_000)]))
    told = run(url, tmp_path / "x", "-c", "64", "-m", "1M", "--json", program=few(most))
    assert result_of(told)["requests"] > most
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("most", [2, 5])
@pytest.mark.parametrize("flags", [(), ("--limit-rate", "60M")], ids=["", "limited"])
def test_what_may_have_to_wait_makes_do(
    server: Server, tmp_path: Path, most: int, flags: tuple[str, ...]
) -> None:
    text = bytes(at % 94 + 33 for at in range(3 * MIB))
    url = server.add("/x", Resource(text))
    told = run(url, "-", "-c", "8", "-m", "64K", *flags, program=few(most))
    assert (told.code, told.out.encode()) == (0, text)


@pytest.mark.parametrize("most", [2, 5])
def test_what_has_to_be_decoded_makes_do(server: Server, tmp_path: Path, most: int) -> None:
    url = server.add("/x", Resource(BODY, faults=[Encoded("gzip")]))
    told = run(url, tmp_path / "x", program=few(most))
    assert told.code == 0, told.err
    assert (tmp_path / "x").read_bytes() == BODY


@pytest.mark.parametrize("most", [4, 8])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_makes_do(server: Server, tmp_path: Path, most: int, mode: str) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("a.bin")
        member.size = len(BODY)
        archive.addfile(member, io.BytesIO(BODY))
    url = server.add("/a.tar", Resource(made.getvalue()))
    told = run("-x", url, tmp_path / "out", "-c", "16", "-m", "64K", program=few(most))
    assert told.code == 0, told.err
    assert (tmp_path / "out" / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("most", [2, 4])
def test_a_cache_makes_do(server: Server, tmp_path: Path, most: int) -> None:
    urls = [server.add(f"/{name}", Resource(body(5 * MIB, name))) for name in "abc"]
    cache = ("--cache-dir", str(tmp_path / "cache"))
    told = run("ensure", "--any-file", *cache, *urls, program=few(most))
    assert told.code == 0, told.err
    assert [Path(line).read_bytes() for line in told.out.split()] == [
        body(5 * MIB, name) for name in "abc"
    ]
    told = run("cache", "verify", *cache, program=few(most))
    assert told.code == 0, told.out


@pytest.mark.parametrize("arguments", [("x",), ("-x", "y")])
def test_where_not_even_the_first_can_be_had_one_sentence_says_so(
    server: Server, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    url = server.add("/x", Resource(BODY))
    told = run(url, tmp_path / "x", program=few(1))
    assert told.code == 1
    assert told.err.splitlines() == [
        "pgetpy: cannot start a thread: the system's limit has been reached; raise ulimit -u, or "
        "the container's pids limit"
    ]
