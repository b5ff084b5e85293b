"""Waiting for a condition with a deadline, in place of sleeping for a guess."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], within: float = 30, what: str = "the condition") -> T:
    """Poll ``probe`` until it gives something true, and return that."""
    deadline = time.monotonic() + within
    while True:
        if found := probe():
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not hold within {within} s")
        time.sleep(0.01)
