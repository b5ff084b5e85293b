"""Servers that take their time before each answer: the wait is paid once, nothing goes on for ever,
and nothing is asked for that is not needed."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

import pgetpy
from pgetpy import tensors
from pgetpy.errors import StalledError
from tests.support.authority import Authority
from tests.support.bodies import body, digest
from tests.support.faults import IgnoreRange, Late, Pace, When
from tests.support.fetching import extract, fetch
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import opened, weights

MIB = 1 << 20
BODY = body(48 * MIB)
LATENCIES = (0.3, 0.5, 1.0, 5.0)
PATIENT = 30.0

pytestmark = pytest.mark.timeout(180)
# What the kernel takes of an answer for its two sockets, at most.
BUFFERED = 10 * MIB


def assert_asked_economically(server: Server, path: str, size: int, *, slow: int = 0) -> None:
    """2 % of the object may come twice, the ranges whose answers were `slow`, and for each request
    without an end what was in the sockets' buffers when it was known how much it was to bring.

    No byte is asked for three times, but by a request without an end.
    """
    seen = [each for each in server.seen(path) if each.method == "GET"]
    spans = [each.asked for each in seen if each.asked is not None and each.asked[1] is not None]
    bounded = [(start or 0, min(stop or 0, size)) for start, stop in spans]
    open_ended = len(seen) - len(bounded)
    assert open_ended <= 2
    sizes = sorted((stop - start for start, stop in bounded), reverse=True)
    sent = sum(each.sent for each in seen)
    assert sent <= size * 1.02 + MIB + sum(sizes[:slow]) + open_ended * BUFFERED
    edges = sorted([(start, 1) for start, _ in bounded] + [(stop, -1) for _, stop in bounded])
    depth = 0
    for _, step in edges:
        depth += step
        assert depth <= 2
    assert len(seen) <= 80


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize("pace", [None, 10_000_000])
def test_a_file_from_a_store_that_answers_late(
    server: Server, tmp_path: Path, latency: float, pace: int | None
) -> None:
    faults = [Late(latency), *([Pace(pace)] if pace else [])]
    url = server.add("/x", Resource(BODY, faults=faults))
    result = fetch(url, tmp_path / "x", stall_timeout=PATIENT)
    assert digest((tmp_path / "x").read_bytes()) == digest(BODY)
    assert result.requests == len(server.asked("/x"))
    assert_asked_economically(server, "/x", len(BODY))


@pytest.mark.parametrize("latency", LATENCIES)
def test_the_same_over_tls(
    tls_server: Server, ca: Authority, tmp_path: Path, latency: float
) -> None:
    url = tls_server.add("/x", Resource(BODY, faults=[Late(latency)]))
    fetch(url, tmp_path / "x", stall_timeout=PATIENT, cacert=str(ca.pem))
    assert digest((tmp_path / "x").read_bytes()) == digest(BODY)
    assert_asked_economically(tls_server, "/x", len(BODY))


@pytest.mark.parametrize("latency", LATENCIES)
def test_the_same_by_the_command_line(server: Server, tmp_path: Path, latency: float) -> None:
    url = server.add("/x", Resource(BODY, faults=[Late(latency)]))
    command = [sys.executable, "-m", "pgetpy", url, str(tmp_path / "x"), "--stall-timeout", "30s"]
    subprocess.run(command, check=True, timeout=120)
    assert digest((tmp_path / "x").read_bytes()) == digest(BODY)
    assert_asked_economically(server, "/x", len(BODY))


@pytest.mark.parametrize("latency", LATENCIES)
def test_the_same_into_a_cache(server: Server, tmp_path: Path, latency: float) -> None:
    content = weights(24 * MIB)
    url = server.add("/x.safetensors", Resource(content, faults=[Late(latency)]))
    with closing(opened(tmp_path / "cache", stall_timeout=PATIENT)) as cache:
        assert digest(cache.ensure(url).read_bytes()) == digest(content)
    assert_asked_economically(server, "/x.safetensors", len(content))


@pytest.mark.parametrize("latency", LATENCIES)
def test_the_same_as_tensors(server: Server, tmp_path: Path, latency: float) -> None:
    content = weights(24 * MIB)
    url = server.add("/x.safetensors", Resource(content, faults=[Late(latency)]))
    with closing(opened(tmp_path / "cache", stall_timeout=PATIENT)) as cache:
        assert tensors.load(url, cache=cache)
    assert_asked_economically(server, "/x.safetensors", len(content))


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize("kind", ["", "gz"])
def test_the_same_extracted(server: Server, tmp_path: Path, latency: float, kind: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{kind}") as archive:
        for name, size in (("large", 20 * MIB), ("small", 1000), ("other", 3 * MIB)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(BODY))
    url = server.add("/x.tar", Resource(packed.getvalue(), faults=[Late(latency)]))
    extract(url, tmp_path / "x", stall_timeout=PATIENT)
    assert digest((tmp_path / "x" / "large").read_bytes()) == digest(BODY[: 20 * MIB])
    assert_asked_economically(server, "/x.tar", len(packed.getvalue()))


@pytest.mark.parametrize("latency", LATENCIES)
def test_the_same_by_a_manifest(server: Server, tmp_path: Path, latency: float) -> None:
    files = []
    for number in range(12):
        content = body(300_000 + 900_000 * (number % 3), str(number))
        url = server.add(f"/{number}", Resource(content, faults=[Late(latency)]))
        files.append((url, tmp_path / str(number)))
    pgetpy.download_many(files, settings=pgetpy.Settings(stall_timeout=PATIENT))
    for number in range(12):
        content = body(300_000 + 900_000 * (number % 3), str(number))
        assert (tmp_path / str(number)).read_bytes() == content
        assert_asked_economically(server, f"/{number}", len(content))


@pytest.mark.parametrize("latency", LATENCIES)
def test_the_same_without_ranges(server: Server, tmp_path: Path, latency: float) -> None:
    url = server.add("/x", Resource(BODY, faults=[Late(latency), IgnoreRange()]))
    result = fetch(url, tmp_path / "x", stall_timeout=PATIENT)
    assert digest((tmp_path / "x").read_bytes()) == digest(BODY)
    assert not result.retries
    # The first request, the same once more where it was late, and one for a range while the body
    # comes, with If-Range and without.
    asked = [each.asked for each in server.seen("/x")]
    assert asked.count((0, None)) <= 2
    assert len(asked) - asked.count((0, None)) <= 2


def test_one_answer_in_twenty_takes_3_s(server: Server, tmp_path: Path) -> None:
    slow = Late(3.0, when=When(request=range(1, 10_000, 20)))
    url = server.add("/x", Resource(BODY, faults=[Pace(5_000_000), slow]))
    fetch(url, tmp_path / "x", concurrency=16)
    assert digest((tmp_path / "x").read_bytes()) == digest(BODY)
    # The first of all is one of them: its twin brings what it was to bring.
    assert_asked_economically(server, "/x", len(BODY), slow=len(server.asked("/x")) // 20 + 1)


def test_who_is_slower_than_the_stall_limit_allows_is_told_so(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/x", Resource(BODY, faults=[Late(30)]))
    with pytest.raises(StalledError):
        fetch(url, tmp_path / "x", stall_timeout=0.5, retries=0)
