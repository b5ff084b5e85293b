"""Who composes on which modules: two composers on the same ones would undo each other's work."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any

from pgetpy.errors import BadSettingError
from pgetpy.system.forks import call_in_children


class ModuleClaim:
    """The right to change some modules; given up by letting go of it."""


class ModuleOwners:
    """The modules that composers change, each with the claim on it."""

    def __init__(self) -> None:
        self._begin()
        call_in_children(self._begin)

    def check(self, modules: Iterable[Any], kind: str) -> None:
        """Check that nobody has claimed any of `modules`.

        Args:
            kind: what they belong to, for the error.

        Raises:
            BadSettingError: somebody has.
        """
        for module in filter(_is_key, modules):
            reference = self._claims.get(module)
            if reference is not None and reference() is not None:
                shared = type(module).__name__
                reason = f"another LoraComposer, to be closed first, is at work on its {shared}"
                raise BadSettingError("pipeline", kind, reason)

    def claim(self, modules: Iterable[Any], kind: str) -> ModuleClaim:
        """Return the claim on `modules`; raise as `check` does."""
        mine = list(filter(_is_key, modules))
        with self._lock:
            self.check(mine, kind)
            claim = ModuleClaim()
            for module in mine:
                self._claims[module] = weakref.ref(claim)
            return claim

    def _begin(self) -> None:
        """Know of nobody. In a child the lock may be held by a thread that it does not have."""
        self._lock = threading.Lock()
        self._claims: weakref.WeakKeyDictionary[Any, weakref.ref[ModuleClaim]]
        self._claims = weakref.WeakKeyDictionary()


def _is_key(module: Any) -> bool:
    try:
        hash(module)
        weakref.ref(module)
    except TypeError:
        return False
    return True


OWNERS = ModuleOwners()
