"""The pipelines in the memory of this process: the most recently used ones, and all in use."""

from __future__ import annotations

import threading
import weakref
from dataclasses import replace

from pgetpy.core.pipelines.memory import (
    NOTHING,
    MemoryBudget,
    MemorySize,
    pipelines_to_drop,
    taken_by,
)
from pgetpy.pipelines.resident import ResidentPipeline
from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("pipelines")


class PipelineMemory:
    """Keeps pipelines by their keys.

    The most recently used ones are kept alive. Those that were dropped are found as long as a view
    of theirs lives, so nothing is loaded twice.

    Args:
        budget: what they may take together.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        # In order of use.
        self._kept: dict[str, ResidentPipeline] = {}
        self._alive: weakref.WeakValueDictionary[str, ResidentPipeline]
        self._alive = weakref.WeakValueDictionary()
        self._lock = threading.Lock()
        call_in_children(self._forked)

    def find(self, key: str) -> ResidentPipeline | None:
        """Return a pipeline, counted as used; None if it is not in memory."""
        with self._lock:
            found = self._alive.get(key)
            if found is not None:
                self._kept.pop(key, None)
                self._kept[key] = found
            return found

    def keep(self, resident: ResidentPipeline) -> None:
        """Add a pipeline that was loaded, as the most recently used one."""
        with self._lock:
            self._alive[resident.key] = resident
            self._kept[resident.key] = resident

    def trim(self, coming: MemorySize = NOTHING, *, used: str = "") -> list[str]:
        """Drop what is over the budget; return the keys.

        Args:
            coming: what is going to be added.
            used: the key of a pipeline that stays.
        """
        if not any(most is not None for most in self._budget):
            return []
        with self._lock:
            uses = [
                replace(each.use, held=True) if each.key == used else each.use
                for each in self._kept.values()
            ]
            keys = pipelines_to_drop(uses, self._budget, coming)
            dropped = [self._kept.pop(key) for key in keys]
        for each in dropped:
            _LOG.debug("pipeline %s is dropped from memory", each.key)
        return keys

    @property
    def size(self) -> MemorySize:
        """The bytes that all take, in use or kept, each storage counted once."""
        with self._lock:
            return taken_by(each.use for each in self._alive.values())

    def clear(self) -> None:
        """Drop all that are not in use."""
        with self._lock:
            for key, each in list(self._kept.items()):
                if not each.turns.in_use():
                    del self._kept[key]

    def _forked(self) -> None:
        self._lock = threading.Lock()
