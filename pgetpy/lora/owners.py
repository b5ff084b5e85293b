"""Which composer works on which modules: two on the same ones would undo each other's work.

Claims are per module and not per pipeline, since pipelines share modules: `from_pipe` makes an
image-to-image pipeline around the very UNet of a text-to-image one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any

from pgetpy.errors import BadSettingError
from pgetpy.system.forks import call_in_children


class ModuleClaim:
    """The right to change some modules. It ends when the object is garbage collected.

    There is no release method to forget, or to be interrupted in.
    """


class ModuleOwners:
    """The modules that composers change, each with a weak reference to the claim on it."""

    def __init__(self) -> None:
        self._begin()
        call_in_children(self._begin)

    def check(self, modules: Iterable[Any], kind: str) -> None:
        """Check that none of `modules` is claimed.

        Args:
            kind: the class of the pipeline, for the error.

        Raises:
            BadSettingError: one is claimed.
        """
        for module in filter(_is_key, modules):
            reference = self._claims.get(module)
            if reference is not None and reference() is not None:
                shared = type(module).__name__
                reason = f"another LoraComposer works on its {shared}; close that one first"
                raise BadSettingError("pipeline", kind, reason)

    def claim(self, modules: Iterable[Any], kind: str) -> ModuleClaim:
        """Claim `modules` and return the claim.

        Raises:
            BadSettingError: one is claimed already.
        """
        mine = list(filter(_is_key, modules))
        with self._lock:
            self.check(mine, kind)
            claim = ModuleClaim()
            for module in mine:
                self._claims[module] = weakref.ref(claim)
            return claim

    def _begin(self) -> None:
        """Start empty. Also runs in a forked child, where another thread may have held the lock."""
        self._lock = threading.Lock()
        self._claims: weakref.WeakKeyDictionary[Any, weakref.ref[ModuleClaim]]
        self._claims = weakref.WeakKeyDictionary()


def _is_key(module: Any) -> bool:
    """Whether `module` can be a key of a weak dictionary; test doubles often cannot."""
    try:
        hash(module)
        weakref.ref(module)
    except TypeError:
        return False
    return True


OWNERS = ModuleOwners()
