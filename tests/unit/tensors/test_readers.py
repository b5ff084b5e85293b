"""Whatever order bytes land in, each is moved once, and each tensor given out once and whole."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.weights.safetensors import Tensor
from pgetpy.tensors.base import Descriptor, Wakeup
from pgetpy.tensors.growing_file import GrowingFile
from pgetpy.tensors.readers import BLOCK, Readers
from tests.support.waiting import eventually

MIB = 1 << 20


class Notes:
    """A copier that moves nothing and notes what it was asked to."""

    def __init__(self, landed: Spans) -> None:
        self.moved: dict[str, list[Span]] = {}
        self.wrong: list[Span] = []
        self._landed = landed
        self._lock = threading.Lock()

    def move(self, tensor: Tensor, span: Span) -> None:
        with self._lock:
            if not self._landed.covers(*span):
                self.wrong.append(span)
            self.moved.setdefault(tensor.name, []).append(span)

    def finish(self, tensor: Tensor) -> Any:
        with self._lock:
            return sum(span.size for span in self.moved.get(tensor.name, []))


def tensors_of(sizes: list[int], begin: int) -> list[Tensor]:
    stops = [begin + sum(sizes[: at + 1]) for at in range(len(sizes))]
    return [
        Tensor(f"{at}", "U8", (size,), stop - size, stop)
        for at, (size, stop) in enumerate(zip(sizes, stops, strict=True))
    ]


@given(data=st.data())
def test_any_order_of_landing_moves_every_byte_once(data: st.DataObject) -> None:
    sizes = st.sampled_from([0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
    found = tensors_of(data.draw(st.lists(sizes, max_size=6)), begin=data.draw(st.integers(8, 99)))
    size = max((tensor.stop for tensor in found), default=8)
    cuts = data.draw(st.lists(st.integers(1, size), max_size=12))
    pieces = data.draw(st.permutations(list(pairwise(sorted({0, size, *cuts})))))
    chosen = [tensor for tensor in found if data.draw(st.booleans())]
    landed, wakeup = Spans(), Wakeup()
    copier = Notes(landed)
    readers = Readers(copier, chosen, wakeup, threads=3)
    given_out: dict[str, int] = {}
    for piece in pieces:
        landed.add(*piece)
        readers.offer(Spans(landed))
        for name, moved in readers.take():
            assert name not in given_out
            given_out[name] = moved

    def take() -> bool:
        given_out.update(readers.take())
        return not readers.unfinished

    eventually(take)
    readers.close()
    assert copier.wrong == []
    assert given_out == {tensor.name: tensor.stop - tensor.start for tensor in chosen}
    for tensor in chosen:
        spans = sorted(copier.moved.get(tensor.name, []))
        assert [tensor.start, *(span.stop for span in spans)] == [
            *(span.start for span in spans), tensor.stop
        ]  # fmt: skip


def test_a_failure_is_told_and_raised() -> None:
    class Failing(Notes):
        def move(self, tensor: Tensor, span: Span) -> None:
            raise OSError(5, "cannot be read")

    wakeup = Wakeup()
    readers = Readers(Failing(Spans()), tensors_of([5, 6], 8), wakeup, threads=1)
    readers.offer(Spans([Span(0, 19)]))
    wakeup.wait(20)
    with pytest.raises(OSError, match="cannot be read"):
        readers.take()
    readers.close()


def test_who_has_closed_them_has_no_threads_left() -> None:
    class Held(Notes):
        free = threading.Event()

        def move(self, tensor: Tensor, span: Span) -> None:
            self.free.wait(20)

    readers = Readers(Held(Spans()), tensors_of([3 * BLOCK], 8), Wakeup(), threads=3)
    readers.offer(Spans([Span(0, 8 + 3 * BLOCK)]))
    readers.close()
    Held.free.set()
    eventually(lambda: not any(t.name == "pgetpy-reader" for t in threading.enumerate()))


# -------------------------------------------------------------------------- a file that is followed


def test_a_file_that_goes_on_is_the_same_and_one_that_begins_anew_is_not(tmp_path: Path) -> None:
    growing = GrowingFile(Wakeup())
    path = tmp_path / "part"
    path.write_bytes(bytes(10))
    with path.open("rb") as file:
        growing.began(file.fileno(), 10)
        growing.landed(Spans([Span(0, 4)]))
        first = growing.snapshot
        growing.began(file.fileno(), 10)  # another server goes on with it
    assert growing.snapshot is first
    assert growing.adopt(path).life == 1
    growing.lost()
    assert growing.snapshot is None
    growing.landed(Spans([Span(0, 4)]))
    assert growing.snapshot is None
    other = tmp_path / "other"
    other.write_bytes(bytes(10))
    with other.open("rb") as file:
        growing.began(file.fileno(), 10)
    now = growing.snapshot
    assert now is not None
    assert (now.life, now.landed.size) == (2, 0)
    whole = growing.adopt(path)
    assert (whole.life, whole.landed.size) == (3, 10)


def test_news_are_heard_however_often_and_early_they_are_told() -> None:
    wakeup = Wakeup()
    for _ in range(3):
        wakeup.tell()
    wakeup.wait(20)
    threading.Timer(0.01, wakeup.tell).start()
    wakeup.wait(20)
    wakeup.wait(0)


def test_a_descriptor_closes_what_it_was_given_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        copy = Descriptor.copy(file.fileno())
        assert copy.fd != file.fileno()
    assert copy.read() == b"abc"
    copy.close()
    del copy
    with pytest.raises(IsADirectoryError):
        Descriptor(tmp_path)
