"""The way to an accelerator, with one that is made up: it copies late, and in any order.

A copy reads its buffer at the last moment that it may, when somebody waits for its event, so that a
buffer which is filled again too early shows as wrong bytes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.tensors.choices import Choice
from pgetpy.core.weights.safetensors import SafetensorsHeader, parse_head
from pgetpy.errors import NotWeightsError
from pgetpy.tensors import checkpoint
from pgetpy.tensors.arrays import TorchFramework
from pgetpy.tensors.base import Descriptor, Wakeup
from pgetpy.tensors.devices import Device, staged_device
from pgetpy.tensors.readers import BLOCK, Readers
from pgetpy.tensors.staging import Ring, StagedCopier
from tests.support.checkpoints import Made, file_of
from tests.support.weights import opened

from ..support.bodies import body
from ..support.waiting import eventually


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    with opened(tmp_path / "cache") as cache:
        yield cache


class LateEvent:
    """Copies when it is waited for, or when the accelerator gets round to it."""

    def __init__(self, target: Any, source: Any) -> None:
        self._target = target
        self._source = source
        self._lock = threading.Lock()

    def synchronize(self) -> None:
        with self._lock:
            if self._source is not None:
                self._target.copy_(self._source)
                self._target = self._source = None


class LateAccelerator:
    """An accelerator in the host's memory.

    Args:
        seed: in which order copies are done that nobody has waited for yet.
        failing: which of its works raises: `empty`, `buffer` or `copy`, and at which call.
    """

    def __init__(self, seed: int = 0, failing: tuple[str, int] = ("", 0)) -> None:
        self.buffers = 0
        self.moved = 0
        self._chance = random.Random(seed)
        self._pending: list[LateEvent] = []
        self._lock = threading.Lock()
        self._failing = failing
        self._calls: dict[str, int] = {}

    def empty(self, size: int) -> Any:
        self._count("empty")
        return torch.full((size,), 0xEE, dtype=torch.uint8)

    def buffer(self, size: int) -> Any:
        self._count("buffer")
        self.buffers += 1
        return torch.full((size,), 0xBB, dtype=torch.uint8)

    def copy(self, target: Any, source: Any) -> LateEvent:
        self._count("copy")
        event = LateEvent(target, source)
        with self._lock:
            self.moved += source.numel()
            self._pending.append(event)
            done = self._chance.random() < 0.3
            early = self._pending.pop(self._chance.randrange(len(self._pending))) if done else None
        if early is not None:
            early.synchronize()
        return event

    def _count(self, name: str) -> None:
        with self._lock:
            self._calls[name] = self._calls.get(name, 0) + 1
            if (name, self._calls[name]) == self._failing:
                raise RuntimeError(f"{name} failed")


def device(accelerator: LateAccelerator, dtype: Any = None) -> Device:
    return staged_device(TorchFramework(dtype), accelerator)


def loaded(path: Path, accelerator: LateAccelerator, cache: WeightsDownloadCache) -> dict[str, Any]:
    wish = checkpoint.LoadRequest(path, Choice.of(None), device(accelerator), cache)
    with checkpoint.Checkpoint(wish) as found:
        return {arrival.name: arrival.array for arrival in found.arrivals()}


def bits(tensor: Any) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).numpy())


SIZES = st.sampled_from([0, 1, 4095, 70_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])


@settings(max_examples=12)
@given(data=st.data())
def test_any_sizes_and_orders_of_landing_give_the_bytes_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(SIZES, min_size=1, max_size=5))
    made = {f"{at}": Made("U8", [size], body(size, f"{at}")) for at, size in enumerate(sizes)}
    content = file_of(made, pad=data.draw(st.integers(0, 3)))
    path = tmp_path_factory.mktemp("staged") / "file"
    path.write_bytes(content)
    header = parse_head(content, len(content))
    cuts = data.draw(st.lists(st.integers(1, len(content) - 1), max_size=8))
    pieces = data.draw(st.permutations(list(pairwise(sorted({0, len(content), *cuts})))))
    accelerator = LateAccelerator(data.draw(st.integers(0, 9)))
    ring = Ring(accelerator, data.draw(st.integers(1, 4)))
    found = staged(path, header, pieces, accelerator, ring)
    assert {name: bits(tensor) for name, tensor in found.items()} == {
        name: each.data for name, each in made.items()
    }
    assert accelerator.moved == sum(sizes)
    assert accelerator.buffers <= 4


def staged(
    path: Path,
    header: SafetensorsHeader,
    pieces: list[tuple[int, int]],
    accelerator: LateAccelerator,
    ring: Ring,
) -> dict[str, Any]:
    """The tensors of a file whose pieces land in this order."""
    copier = StagedCopier(Descriptor(path), TorchFramework(), accelerator, ring)
    readers = Readers(copier, header.tensors, Wakeup(), threads=3)
    found: dict[str, Any] = {}
    landed = Spans()
    for piece in pieces:
        landed.add(*piece)
        readers.offer(Spans(landed))
        found.update(readers.take())

    def take() -> bool:
        found.update(readers.take())
        return not readers.unfinished

    eventually(take)
    readers.close()
    return found


def test_dtypes_and_shapes_are_those_of_the_file(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    made = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "half": torch.randn(5, 7).to(torch.bfloat16),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 4, dtype=torch.float16),
        "truth": torch.tensor([True, False, True]),
        "eighth": torch.randn(9).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "file.safetensors"
    save_file(made, path)
    judge = load_file(path)
    for seed in range(3):
        found = loaded(path, LateAccelerator(seed), cache)
        assert found.keys() == judge.keys()
        for name, tensor in judge.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert bits(found[name]) == bits(tensor)


@pytest.mark.parametrize("work", ["empty", "buffer", "copy"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_work_of_the_accelerator_that_fails_is_raised_and_the_next_call_works(
    tmp_path: Path, cache: WeightsDownloadCache, work: str, call: int
) -> None:
    made = {name: Made("U8", [BLOCK + 9], body(BLOCK + 9, name)) for name in "abc"}
    path = tmp_path / "file.safetensors"
    path.write_bytes(file_of(made))
    accelerator = LateAccelerator(failing=(work, call))
    if (work, call) != ("buffer", 2):  # one buffer may do
        with pytest.raises(RuntimeError, match=f"{work} failed"):
            loaded(path, accelerator, cache)
    found = loaded(path, LateAccelerator(), cache)
    assert {name: bits(tensor) for name, tensor in found.items()} == {
        name: each.data for name, each in made.items()
    }
    eventually(lambda: not any(t.name == "pgetpy-reader" for t in threading.enumerate()))


def test_a_buffer_that_could_not_be_made_may_be_made_later() -> None:
    ring = Ring(LateAccelerator(failing=("buffer", 1)), 1)
    with pytest.raises(RuntimeError):
        ring.take()
    assert ring.take().numel() == BLOCK


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    content = file_of({"a": Made("U8", [5000], body(5000))})
    path = tmp_path / "file"
    path.write_bytes(content)
    header = parse_head(content, len(content))
    path.write_bytes(content[:-1])
    accelerator = LateAccelerator()
    copier = StagedCopier(Descriptor(path), TorchFramework(), accelerator, Ring(accelerator, 1))
    (tensor,) = header.tensors
    with pytest.raises(OSError, match="shorter"):
        copier.move(tensor, Span(tensor.start, tensor.stop))
    path.write_bytes(content)
    copier.move(tensor, Span(tensor.start, tensor.stop))  # the buffer was given back
    assert bits(copier.finish(tensor)) == content[tensor.start :]


def test_who_closes_in_the_middle_leaves_no_thread(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    made = {f"{at}": Made("U8", [BLOCK], body(BLOCK)) for at in range(4)}
    path = tmp_path / "file.safetensors"
    path.write_bytes(file_of(made))
    wish = checkpoint.LoadRequest(path, Choice.of(None), device(LateAccelerator()), cache)
    with checkpoint.Checkpoint(wish) as found:
        next(found.arrivals())
    eventually(lambda: not any(t.name == "pgetpy-reader" for t in threading.enumerate()))


def test_what_is_no_safetensors_file_is_said_to_be_none(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(bytes(100))
    with pytest.raises(NotWeightsError):
        loaded(path, LateAccelerator(), cache)
    with pytest.raises(NotWeightsError):
        tensors.load(path, cache=cache)
