"""Turns come one after the other, and end with whoever had them."""

from __future__ import annotations

import gc
import threading

from pgetpy.system.interruptible_lock import InterruptibleLock


def test_many_threads_are_never_inside_at_once() -> None:
    turns, inside, most = InterruptibleLock(), [0], [0]

    def work() -> None:
        for _ in range(20):
            with turns.take():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most, inside) == ([1], [0])


def test_who_came_first_is_first() -> None:
    turns, order = InterruptibleLock(), []
    first = turns.take()
    second = turns.take()
    first.__enter__()
    stood = threading.Event()

    def wait() -> None:
        stood.set()
        with second:
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    assert stood.wait(10)
    order.append("first")
    first.__exit__(None, None, None)
    thread.join(10)
    assert order == ["first", "second"]


def _takes_a_turn(turns: InterruptibleLock) -> bool:
    done = threading.Event()

    def work() -> None:
        with turns.take():
            done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return done.wait(10)


def test_a_turn_that_nobody_has_any_more_is_over() -> None:
    turns = InterruptibleLock()
    turn = turns.take()
    turn.__enter__()
    del turn
    gc.collect()
    assert _takes_a_turn(turns)


def test_a_thread_does_not_wait_for_what_it_has_left_behind() -> None:
    turns = InterruptibleLock()
    left = turns.take()
    left.__enter__()
    with turns.take():
        pass
    left.__exit__(None, None, None)
    assert _takes_a_turn(turns)
