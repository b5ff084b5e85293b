"""What a forked child does with what its parent's threads, locks and leases leave in its memory.

A fork copies one thread alone: locks that others hold stay locked, and nobody works any more.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_METHODS: set[weakref.WeakMethod[Callable[[], Any]]] = set()


def call_in_children(method: Callable[[], Any]) -> None:
    """Have bound `method` called in every forked child, for as long as its object lives."""
    _METHODS.add(weakref.WeakMethod(method, _METHODS.discard))


def _forked() -> None:
    for reference in list(_METHODS):
        method = reference()
        if method is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
