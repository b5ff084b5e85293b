"""Whatever is thrown, wherever: the next composition is right, nothing stays leased or locked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pgetpy
from pgetpy import WeightsDownloadCache
from pgetpy.lora import LoraComposer
from tests.integration.lora.test_composer import Urls, leased
from tests.support.loras import BASE, FakePipeline, Picture, without
from tests.support.weights import opened

PACKAGE = Path(pgetpy.__file__).parent
# Whose byte codes an exception is injected at.
OURS = frozenset(
    str(PACKAGE / name)
    for name in (
        "lora/base.py",
        "lora/composer.py",
        "lora/record.py",
        "lora/state.py",
        "lora/validate.py",
        "system/interruptible_lock.py",
        "lora/pipeline.py",
        "core/lora/composition.py",
        "core/lora/adapters.py",
        "core/lora/naming.py",
    )
)


class Cancelled(BaseException):
    """As Cog's: no Exception."""


class Injector:
    """Raises at the n-th byte code that is run in `files`; counts them where n is never reached."""

    def __init__(self, number: int, files: frozenset[str] = OURS) -> None:
        self.number = number
        self.count = 0
        self._files = files

    def run(self, work: Callable[[], object]) -> bool:
        """Run `work`; return whether it was interrupted."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            work()
        except Cancelled:
            return True
        finally:
            sys.settrace(before)
        return False

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            self.count += 1
            if self.count == self.number:
                sys.settrace(None)
                raise Cancelled
        return self._step


def apply_elsewhere(loras: LoraComposer, slots: dict[str, tuple[str, float]]) -> None:
    """Apply in another thread, which a lock that was left taken would stop for ever."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            loras.apply(slots)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "a turn was never over"
    assert failures == []


def slots_of(urls: Urls, names: str, scale: float = 1.0) -> dict[str, tuple[str, float]]:
    return {name: (urls[name], scale) for name in names}


def picture_of(names: str, scale: float = 1.0) -> Picture:
    return tuple((name, scale) for name in names)


# ------------------------------------------------------------------- in the pipeline's calls

# From one composition to another, and the calls that this makes.
STEPS = [
    ("", "a", ["load", "set"]),
    ("a", "ab", ["load", "set"]),
    ("ab", "b", ["set"]),
    ("ab", "cd", ["load", "load", "set", "delete"]),
    ("ab", "", ["disable", "delete"]),
]
KINDS = [RuntimeError, KeyboardInterrupt, Cancelled]


@pytest.mark.parametrize("when", ["before", "midway"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("start", "end", "calls"), STEPS)
def test_a_failure_in_any_call_is_undone_by_the_next_composition(
    cache: WeightsDownloadCache,
    urls: Urls,
    start: str,
    end: str,
    calls: list[str],
    kind: type[BaseException],
    when: str,
) -> None:
    for number in range(len(calls)):
        pipeline = FakePipeline()
        loras = LoraComposer(pipeline, cache, keep_loaded=1)
        loras.apply(slots_of(urls, start))
        pipeline.drain()

        def fail(name: str, pipeline: FakePipeline = pipeline, number: int = number) -> None:
            if len(pipeline.calls) == number + 1:
                raise kind(name)

        setattr(pipeline, when, fail)
        with pytest.raises(kind, match=calls[number]):
            loras.apply(slots_of(urls, end))
        assert (dict(loras.active), loras.loaded) == ({}, ())
        setattr(pipeline, when, lambda name: None)
        assert pipeline.drain() == calls[: number + 1]
        loras.apply(slots_of(urls, end))
        assert pipeline.calls[0] == "unload"
        assert pipeline.picture() == picture_of(end)
        assert leased(cache) == set(end)
        loras.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_undone_yet_is_undone_later(
    cache: WeightsDownloadCache,
    loras: LoraComposer,
    pipeline: FakePipeline,
    urls: Urls,
    kind: type[BaseException],
) -> None:
    def fail(name: str) -> None:
        raise kind(name)

    loras.apply(slots_of(urls, "a"))
    pipeline.midway = fail
    for words in ("load", "unload", "unload"):
        with pytest.raises(kind, match=f"^{words}$"):
            loras.apply(slots_of(urls, "b"))
    pipeline.midway = lambda name: None
    loras.apply({})
    assert (pipeline.picture(), pipeline.adapters, leased(cache)) == (BASE, {}, set())


def test_the_base_is_back_before_anything_is_fetched(
    cache: WeightsDownloadCache, loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    pipeline.midway = lambda name: 1 / 0
    with pytest.raises(ZeroDivisionError):
        loras.apply(slots_of(urls, "a"))
    pipeline.midway = lambda name: None
    with pytest.raises(pgetpy.PgetError):
        loras.apply({"main": ("https:///nowhere", 1)})
    assert (pipeline.picture(), dict(loras.active), loras.loaded) == (BASE, {}, ())
    assert leased(cache) == set()


@pytest.mark.parametrize("missing", ["delete_adapters", "unload_lora_weights", "disable_lora"])
def test_pipelines_that_can_do_less_are_restored_too(
    cache: WeightsDownloadCache, urls: Urls, missing: str
) -> None:
    for call in ("load", "set", "disable", "delete", "unload"):
        pipeline = without(missing)
        loras = LoraComposer(pipeline, cache, keep_loaded=1)
        loras.apply(slots_of(urls, "ab"))

        def fail(name: str, call: str = call) -> None:
            if name == call:
                raise Cancelled

        pipeline.midway = fail
        for names in ("c", "", "ab"):
            try:
                loras.apply(slots_of(urls, names))
            except Cancelled:
                pipeline.midway = lambda name: None
        loras.apply(slots_of(urls, "ab"))
        assert pipeline.picture() == picture_of("ab")
        loras.close()


# -------------------------------------------------------------------------- at any byte code


# A file that is cut off between its opening and its `with` is closed by who collects it.
UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@UNCLOSED
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("start", "end", "stride"),
    [
        # Primes, so that no loop of the code is in step with them.
        ("ab", "cb", 11),
        ("ab", "", 11),
        ("", "ab", 13),
        pytest.param("ab", "cb", 1, marks=pytest.mark.soak),
        pytest.param("ab", "", 1, marks=pytest.mark.soak),
        pytest.param("", "ab", 1, marks=pytest.mark.soak),
    ],
)
def test_an_exception_at_any_byte_code_breaks_nothing(
    cache: WeightsDownloadCache, urls: Urls, start: str, end: str, stride: int
) -> None:
    cache.ensure_many([urls[name] for name in "abcd"])
    pipeline = FakePipeline()
    loras = LoraComposer(pipeline, cache, keep_loaded=1)
    tries, interrupted, stages = 0, True, set()
    with opened(cache.path) as other:
        while interrupted:
            tries += 1
            apply_elsewhere(loras, slots_of(urls, start))
            before = dict(loras.active)
            pipeline.drain()
            target = slots_of(urls, end, 0.5)
            injector = Injector(tries * stride)
            interrupted = injector.run(lambda target=target: loras.apply(target))
            if not pipeline.calls and interrupted:
                stages.add("untouched")
                assert dict(loras.active) in (before, {}), "touched or not"
                assert pipeline.picture() == picture_of(start)
            elif loras.loaded and dict(loras.active) == target:
                stages.add("done")
                assert pipeline.picture() == picture_of(end, 0.5)
            else:
                stages.add("dirty")
                assert dict(loras.active) == {}
            if tries % 3 == 0:
                continue  # straight to `start`
            apply_elsewhere(loras, target)
            assert pipeline.picture() == picture_of(end, 0.5)
            held = {row.record.about.reference[-13:-12] for row in other.entries() if row.leased_by}
            assert held == {url[-13] for url in loras.loaded}
    assert stages == {"untouched", "done", "dirty"}
    assert tries * stride > 300


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_an_exception_at_any_byte_code_of_a_close_is_made_good_by_another(
    cache: WeightsDownloadCache, urls: Urls, stride: int
) -> None:
    number, interrupted = 0, True
    while interrupted:
        number += stride
        pipeline = FakePipeline()
        loras = LoraComposer(pipeline, cache)
        loras.apply(slots_of(urls, "ab"))
        interrupted = Injector(number).run(loras.close)
        loras.close()
        assert (pipeline.picture(), pipeline.adapters) == (BASE, {})
    assert leased(cache) == set()
    assert number > 50
