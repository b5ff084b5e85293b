"""What is called in a forked child, and for how long."""

from __future__ import annotations

import gc
import os
import weakref

from pgetpy.system.forks import call_in_children


class Told:
    """Notes whether it was called."""

    def __init__(self) -> None:
        self.times = 0

    def take_note(self) -> None:
        self.times += 1


def times_in_a_child(told: Told) -> int:
    child = os.fork()
    if child == 0:
        os._exit(told.times)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_method_is_called_once_in_each_child_and_not_in_the_parent() -> None:
    told = Told()
    call_in_children(told.take_note)
    assert [times_in_a_child(told) for _ in range(2)] == [1, 1]
    assert told.times == 0


def test_an_object_is_not_kept_for_the_sake_of_its_children() -> None:
    told = Told()
    call_in_children(told.take_note)
    gone = weakref.ref(told)
    del told
    gc.collect()
    assert gone() is None
    assert times_in_a_child(Told()) == 0
