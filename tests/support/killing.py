"""For children that are killed at each step of some work: what runs in them.

    die_at(number)             the process kills itself at an act that an audit hook sees
    run_copies(work, stride)   for each line of input a copy runs `work(n)`; n grows by the stride

What a copy needs is imported before it is made, because imports are acts as well.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

ACTS = ("os.", "open", "fcntl.", "shutil.")


def die_at(number: int, *, after: Callable[[str, Any], bool] | None = None) -> None:
    """Have this process killed at its act `number`, counted from 0.

    Args:
        number: of the act.
        after: returns whether the counting begins behind this event; by default it begins at once.
    """
    left = number if after is None else None

    def count(event: str, arguments: Any) -> None:
        nonlocal left
        if after is not None and after(event, arguments):
            left = number
        elif left is not None and left >= 0 and event.startswith(ACTS):
            left -= 1
            if left == -1:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def run_copies(work: Callable[[int], object], stride: int, first: int = 0) -> None:
    """For each line of input fork a copy that runs `work`, and print its status."""
    for number in itertools.count(first, stride):
        input()
        copy = os.fork()
        if copy == 0:
            try:
                work(number)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitpid(copy, 0)[1], flush=True)
