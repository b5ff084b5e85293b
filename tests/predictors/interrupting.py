"""Calls that are cut off inside of diffusers, peft or transformers, as Cog cuts predictions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Cancelled(BaseException):
    """As Cog's: no Exception."""


def interrupted(work: Callable[[], object], number: int) -> bool:
    """Run `work`, and raise when it enters its n-th function in diffusers, peft or transformers."""
    count = 0
    packages = ("/diffusers/", "/peft/", "/transformers/")

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        code = frame.f_code
        # What is raised in a generator that is being closed is thrown away.
        if code.co_name[0] != "<" and any(name in code.co_filename for name in packages):
            count += 1
            if count == number:
                sys.settrace(None)
                raise Cancelled

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        work()
    except Cancelled:
        return True
    finally:
        sys.settrace(before)
    return False
