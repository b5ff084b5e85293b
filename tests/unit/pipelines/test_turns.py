"""Turns of requests: those with the same LoRAs together, others in their order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pgetpy.errors import UsageError
from pgetpy.pipelines.turns import PipelineTurn, PipelineTurns
from tests.support.waiting import eventually


class Bench:
    """A pipeline that notes what it was composed with."""

    def __init__(self) -> None:
        self.turns = PipelineTurns()
        self.composed: str | None = None
        self.order: list[str] = []

    def enter(self, composition: str) -> PipelineTurn:
        turn = self.turns.take(composition)
        if turn.wait(lambda: self.composed == composition):
            self.composed = composition
            self.order.append(composition)
        return turn


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run `work` in a thread; return what waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(30)
        assert results, "it did not end"
        return results[0]

    return result


def test_the_same_composition_is_used_by_several_at_once() -> None:
    bench = Bench()
    turns = [in_thread(lambda: bench.enter("a"))() for _ in range(3)]
    assert bench.order == ["a"]
    assert bench.turns.in_use()
    for turn in turns:
        turn.over = True
    assert not bench.turns.in_use()


def test_others_wait_and_come_in_the_order_in_which_they_arrived() -> None:
    bench = Bench()
    first = bench.enter("a")

    def use(name: str, arrived: threading.Event) -> None:
        turn = bench.turns.take(name)
        arrived.set()
        if turn.wait(lambda: bench.composed == name):
            bench.composed = name
        bench.order.append(name)
        turn.over = True

    waits = []
    for name in ("b", "a", "b"):
        arrived = threading.Event()
        waits.append(in_thread(partial(use, name, arrived)))
        assert arrived.wait(30)
    assert bench.order == ["a"]
    first.over = True
    for wait in waits:
        wait()
    assert bench.order == ["a", "b", "a", "b"]


def test_a_turn_ends_with_its_object() -> None:
    bench = Bench()
    turn = bench.enter("a")
    del turn
    assert not bench.turns.in_use()
    other = in_thread(lambda: bench.enter("b"))()
    assert bench.order == ["a", "b"]
    other.over = True


def test_a_thread_does_not_wait_for_itself() -> None:
    bench = Bench()
    turn = bench.enter("a")
    with pytest.raises(UsageError, match="other LoRAs"):
        bench.enter("b")
    again = bench.enter("a")
    again.over = turn.over = True
    bench.enter("b").over = True
    assert bench.order == ["a", "b"]


def test_a_thread_that_uses_it_twice_does_not_wait_for_those_who_wait_for_it() -> None:
    bench = Bench()
    turn = bench.enter("a")
    other = in_thread(lambda: bench.turns.take("b"))()
    again = bench.enter("a")
    assert bench.order == ["a"]
    turn.over = again.over = other.over = True


def test_one_that_was_interrupted_while_it_waited_does_not_keep_its_thread_out() -> None:
    bench = Bench()
    kept = bench.turns.take("b")  # a traceback keeps it alive
    turn = bench.enter("a")
    assert bench.order == ["a"]
    assert not kept.over
    turn.over = True


# ---------------------------------------------------------------------------- of several pipelines


def nested(
    outer: tuple[Bench, str], inner: tuple[Bench, str], entered: Callable[[], object]
) -> Callable[[], str]:
    """Use two pipelines in a thread; call `entered` once it is using the first one."""

    def work() -> str:
        first = outer[0].enter(outer[1])
        try:
            entered()
            inner[0].enter(inner[1]).over = True
        except UsageError as error:
            return str(error)
        finally:
            first.over = True
        return "done"

    return in_thread(work)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_one_of_the_threads_that_wait_for_each_other_gets_an_error(threads: int) -> None:
    """Each uses a pipeline that the next one waits for, with other LoRAs."""
    benches = [Bench() for _ in range(threads)]
    entered = threading.Barrier(threads, timeout=30).wait
    ring = [*benches[1:], benches[0]]
    works = [
        nested((own, "a"), (other, "b"), entered) for own, other in zip(benches, ring, strict=True)
    ]
    outcomes = sorted(work() for work in works)
    assert outcomes[:-1] == ["done"] * (threads - 1)
    assert "in the same order" in outcomes[-1]
    assert not any(bench.turns.in_use() for bench in benches)


def test_threads_that_nest_the_same_loras_in_any_order_do_not_wait() -> None:
    one, two = Bench(), Bench()
    entered = threading.Barrier(2, timeout=30).wait
    works = [
        nested((one, "a"), (two, "a"), entered),
        nested((two, "a"), (one, "a"), entered),
    ]
    assert [work() for work in works] == ["done", "done"]


def test_a_thread_that_uses_one_pipeline_alone_never_gets_the_error() -> None:
    """It waits between two that wait for each other: one of those gets it."""
    one, two = Bench(), Bench()
    first, second = threading.Event(), threading.Event()

    def wait_for_the_second() -> None:
        first.set()
        assert second.wait(30)

    def between() -> str:
        one.enter("b").over = True
        return "done"

    works = [nested((one, "a"), (two, "b"), wait_for_the_second)]
    assert first.wait(30)
    works.append(in_thread(between))
    eventually(lambda: len(one.turns._queue) == 2)
    # What it waits for has the LoRAs that it wants, but another came before it.
    works.append(nested((two, "a"), (one, "a"), second.set))
    outcomes = [work() for work in works]
    assert outcomes[1] == "done"
    assert sorted(each == "done" for each in outcomes) == [False, True, True]


def test_threads_that_nest_at_random_all_end() -> None:
    benches = [Bench() for _ in range(3)]
    choose = random.Random(5)
    plans = [
        [(choose.sample(benches, 2), choose.choices("ab", k=2)) for _ in range(8)] for _ in range(6)
    ]

    def use(plan: list[tuple[list[Bench], list[str]]]) -> int:
        errors = 0
        for (outer, inner), names in plan:
            turn = outer.enter(names[0])
            try:
                inner.enter(names[1]).over = True
            except UsageError:
                errors += 1
            finally:
                turn.over = True
        return errors

    works = [in_thread(partial(use, plan)) for plan in plans]
    assert sum(work() for work in works) < 6 * 8
    assert not any(bench.turns.in_use() for bench in benches)
