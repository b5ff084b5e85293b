"""A folder of locks is followed: what is new is built, one at a time, and what is old is pruned.

Nothing is remembered but how often something was done: after a kill the folder of locks and that of
generations say all there is to know. Two daemons on one folder do no harm: of what both build, one
is published, and files that one fetches the other waits for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgetpy.core.generations.lock import GenerationLock
from pgetpy.core.generations.retention import removable
from pgetpy.errors import PgetError, UsageError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.store import Generations, GenerationState, Readiness, read_lock
from pgetpy.system.logs import RoomLog

SUFFIX = ".lock"
# A build that fails is tried again after this many seconds, twice as many each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0
_LOG = RoomLog("generations")


@dataclass(frozen=True)
class DaemonRules:
    """What a daemon builds and keeps.

    Attributes:
        minimum: this number and higher ones are kept; None for no such rule.
        maximum: higher numbers are not built, and latest does not lead to them.
        keep: how many of the highest numbers are kept; None for no such rule.
    """

    minimum: int | None = None
    maximum: int | None = None
    keep: int | None = None

    @property
    def prunes(self) -> bool:
        return self.minimum is not None or self.keep is not None

    def wanted(self, numbers: set[int]) -> list[int]:
        """Return which of the locks' numbers are to be built: those that would not be pruned."""
        allowed = {each for each in numbers if self.maximum is None or each <= self.maximum}
        if self.prunes:
            allowed -= set(removable(allowed, keep=self.keep, minimum=self.minimum))
        return sorted(allowed)


@dataclass(frozen=True)
class DaemonStatus:
    """What a daemon has done, and what it is about.

    Attributes:
        wanted: the numbers that are to be there.
        building: the number that is being built; None if none is.
        failures: why files of locks could not be read or built, by their paths.
        in_use: the numbers that are not pruned yet because they are read.
        built: how many generations were built, by this process.
        failed: how many builds failed.
        pruned: how many generations were removed.
        seen: when the folder was last looked at, in seconds since the epoch.
    """

    wanted: tuple[int, ...] = ()
    building: int | None = None
    failures: dict[str, str] = field(default_factory=dict)
    in_use: tuple[int, ...] = ()
    built: int = 0
    failed: int = 0
    pruned: int = 0
    seen: float = 0.0


class GenerationDaemon:
    """Follows one folder of locks.

    Args:
        generations: where to build.
        folder: has the locks: files that end with `.lock`.
        rules: what to build and to keep.
        tell: gets a line about each build, failure and removal.
        clock: seconds that only grow, for the pauses after failures.
    """

    def __init__(
        self,
        generations: Generations,
        folder: Path,
        rules: DaemonRules,
        tell: Callable[[str], None] = _LOG.debug,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generations = generations
        self._folder = folder
        self._rules = rules
        self._tell = tell
        self._clock = clock
        self._status = DaemonStatus()
        # By path: the lock's modification time, how often it has failed, and when to try again.
        self._pauses: dict[str, tuple[int, int, float]] = {}

    @property
    def status(self) -> DaemonStatus:
        """The status at this moment, from any thread."""
        return self._status

    def follow(self, interval: float) -> None:
        """Look at the folder every `interval` seconds, until the thread is interrupted.

        Raises:
            UsageError: the folder of locks is not there at the beginning.
        """
        if not self._folder.is_dir():
            raise UsageError(f"{self._folder} is not a folder")
        while True:
            self.look()
            time.sleep(interval)

    def look(self) -> None:
        """Build what is new and prune what is old, once."""
        failures: dict[str, str] = {}
        locks = self._locks(failures)
        wanted = self._rules.wanted({lock.number for lock in locks.values()})
        self._note(wanted=tuple(wanted))
        chosen = [(lock.number, path) for path, lock in locks.items() if lock.number in wanted]
        for _, path in sorted(chosen):
            self._build(path, locks[path], failures)
        self._note(failures=failures)
        self._tidy(wanted)
        self._note(seen=time.time())

    def ready(self, minimum: int | None = None, maximum: int | None = None) -> Readiness:
        """Return whether generations are there: by default those that the rules want of the locks.

        Raises:
            UsageError: the range is empty.
        """
        if minimum is not None or maximum is not None:
            return self._generations.ready(minimum, maximum)
        states: list[GenerationState] = []
        latest = self._generations.ready().latest
        for number in self._status.wanted:
            states += self._generations.ready(number, number).states
        return Readiness(tuple(states), latest)

    # ------------------------------------------------------------------------------------ innards

    def _locks(self, failures: dict[str, str]) -> dict[str, GenerationLock]:
        """Return the locks in the folder by path."""
        found = {}
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(SUFFIX))
        except OSError as error:
            failures[str(self._folder)] = f"it cannot be read: {system_reason(error)}"
            return {}
        for name in names:
            path = str(self._folder / name)
            try:
                found[path] = read_lock(path)
            except UsageError as error:
                failures[path] = str(error)
        return found

    def _build(self, path: str, lock: GenerationLock, failures: dict[str, str]) -> None:
        """Build one lock unless that has just failed."""
        earlier = self._status.failures.get(path, "")
        if self._is_paused(path):
            failures[path] = earlier
            return
        (state,) = self._generations.ready(lock.number, lock.number).states
        if state.whole and state.digest == lock.digest:
            return
        self._tell(f"building generation {lock.number} of {path}")
        self._note(building=lock.number)
        try:
            self._generations.build(lock, maximum=self._rules.maximum)
        except PgetError as error:
            failures[path] = str(error)
            self._pause(path)
            self._note(failed=self._status.failed + 1)
            if str(error) != earlier:
                self._tell(f"generation {lock.number} of {path} was not built: {error}")
        else:
            self._pauses.pop(path, None)
            self._tell(f"generation {lock.number} is there")
            self._note(built=self._status.built + 1)
        finally:
            self._note(building=None)

    def _tidy(self, wanted: list[int]) -> None:
        """Prune what is old, and let latest lead to the highest number that is allowed."""
        try:
            latest = self._generations.point_latest(self._rules.maximum)
            if latest is None or not self._rules.prunes:
                return
            found = self._generations.prune(
                keep=self._rules.keep, minimum=self._rules.minimum, needed=wanted
            )
        except PgetError as error:
            self._tell(f"nothing was pruned: {error}")
            return
        for number in found.removed:
            self._tell(f"generation {number} was removed")
        in_use = tuple(each.number for each in found.in_use)
        self._note(in_use=in_use, pruned=self._status.pruned + len(found.removed))

    def _is_paused(self, path: str) -> bool:
        changed, _, until = self._pauses.get(path, (0, 0, 0.0))
        return changed == _changed(path) and self._clock() < until

    def _pause(self, path: str) -> None:
        _, times, _ = self._pauses.get(path, (0, 0, 0.0))
        pause = min(_FIRST_PAUSE * 2**times, _LONGEST_PAUSE)
        self._pauses[path] = (_changed(path), times + 1, self._clock() + pause)

    def _note(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
