"""Turns of requests: those with the same LoRAs together, others in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pgetpy.errors import UsageError
from pgetpy.pipelines.turns import PipelineTurn, PipelineTurns


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
