"""What a forked child does with what its parent's threads, locks and leases leave in its memory.

A fork copies one thread alone: locks that others hold stay locked, and nobody works any more.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

_METHODS: weakref.WeakKeyDictionary[object, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def call_in_children(method: Callable[[], object]) -> None:
    """Have bound `method` called in every forked child, for as long as its object lives.

    An object has one such method.
    """
    assert isinstance(method, MethodType)
    _METHODS[method.__self__] = method.__func__


def _forked() -> None:
    for owner, method in list(_METHODS.items()):
        method(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
