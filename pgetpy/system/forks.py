"""What a forked child does with the threads, locks and leases that its parent had.

A fork copies all memory and one thread. In the child

- a lock that another thread held at that moment stays locked for ever;
- counters of threads, queues and event loops describe threads that do not exist;
- descriptors of pipes, locks and leases are shared with the parent, which still uses them.

Python programs fork in the middle of anything (data loaders, prefork servers). So every object that
owns such things registers a method here, which puts it back to its first state in the child: new
locks, no threads, descriptors closed but not released. It makes new locks instead of taking old
ones, and relies on no other object: the order in which these methods run is not fixed.

Only a weak reference is kept, so registering does not keep an object alive.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

_METHODS: weakref.WeakKeyDictionary[object, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def call_in_children(method: Callable[[], object]) -> None:
    """Have bound `method` called in every forked child as long as its object lives.

    An object has one such method: a second one replaces the first.
    """
    assert isinstance(method, MethodType)
    _METHODS[method.__self__] = method.__func__


def _forked() -> None:
    for owner, method in list(_METHODS.items()):
        method(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
