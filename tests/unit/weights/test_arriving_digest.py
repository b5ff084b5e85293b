"""A file whose digest is not known is hashed while it arrives, and not read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.core.http.ranges import Span, Spans
from pgetpy.weights.arriving_digest import ArrivingDigest
from tests.support.bodies import body, digest

MIB = 1 << 20
SIZE = 20 * MIB + 5
BODY = body(SIZE)


class Thread:
    """Stands in for the hasher's thread: does at once what that is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def hash_along(self, arriving: ArrivingDigest) -> None:
        self.asked += 1
        arriving.advance(never)


def never() -> bool:
    return False


@pytest.fixture
def thread() -> Thread:
    return Thread()


@pytest.fixture
def arriving(thread: Thread) -> ArrivingDigest:
    return ArrivingDigest(thread.hash_along)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, BODY, 0)
    yield fd
    os.close(fd)


def test_what_was_hashed_as_it_landed_is_not_read_again(
    arriving: ArrivingDigest, thread: Thread, fd: int
) -> None:
    arriving.began(fd, SIZE)
    for stop in range(MIB, 18 * MIB, MIB):
        arriving.landed(Spans([Span(0, stop), Span(19 * MIB, SIZE)]))
    assert thread.asked == 2  # for 8 MiB each
    os.pwrite(fd, bytes(16 * MIB), 0)
    arriving.landed(Spans([Span(0, SIZE)]))
    assert arriving.finish(never) == f"sha256:{digest(BODY)}"


def test_bytes_behind_a_gap_wait(arriving: ArrivingDigest, thread: Thread, fd: int) -> None:
    arriving.began(fd, SIZE)
    arriving.landed(Spans([Span(MIB, SIZE)]))
    assert thread.asked == 0
    arriving.landed(Spans([Span(0, SIZE)]))
    assert arriving.finish(never) == f"sha256:{digest(BODY)}"


def test_what_is_fetched_anew_is_hashed_anew(arriving: ArrivingDigest, fd: int) -> None:
    os.pwrite(fd, bytes(SIZE), 0)
    arriving.began(fd, SIZE)
    arriving.landed(Spans([Span(0, 10 * MIB)]))
    arriving.lost()
    os.pwrite(fd, BODY, 0)
    arriving.began(fd, SIZE)
    arriving.landed(Spans([Span(0, SIZE)]))
    assert arriving.finish(never) == f"sha256:{digest(BODY)}"


def test_no_digest_of_what_is_small_incomplete_shortened_or_stopped(
    arriving: ArrivingDigest, fd: int
) -> None:
    arriving.began(fd, MIB)
    arriving.landed(Spans([Span(0, MIB)]))
    assert arriving.finish(never) is None  # read in moments, once it is there
    arriving.began(fd, SIZE)
    arriving.landed(Spans([Span(0, 10 * MIB)]))
    assert arriving.finish(never) is None
    arriving.began(fd, SIZE)
    os.ftruncate(fd, MIB)
    arriving.landed(Spans([Span(0, SIZE)]))
    assert arriving.finish(never) is None
    arriving.began(fd, SIZE)
    assert arriving.finish(lambda: True) is None
