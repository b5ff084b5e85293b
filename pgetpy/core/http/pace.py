"""Goodput in, number of connections out.

The search is a climb: keep a level of connections for a measuring period, raise it while goodput
rises with it, go back one step when it does not, and try again later, since networks change. A
store that gives each connection 20 MB/s is saturated within half a second; a single stream that
already fills the machine is left nearly alone.

Each step waits for the first bytes of the connections that it adds. Where these take long to come,
waiting costs more than a few connections too many, so the first step is larger (`_FIRST_STEPS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# A period long enough to average over scheduling, short enough to climb in a cold start.
PERIOD = 0.06
_LONGEST_PERIOD = 0.6
# Goodput has to rise by this part of what perfect scaling would add for a higher level to stay.
_PAYS = 0.25
# Nearly perfect scaling: the limit is each connection's, so climb faster.
_SCALES = 0.6
_BOLD, _CAREFUL = 4, 2
# The first step, by the least time to a first byte in seconds: the steps after it cost that time
# again.
_FIRST_STEPS = ((0.25, 64), (0.1, 32), (0.02, 16), (0.0, _BOLD))
# A connection that delivers no more than this, bytes a second, leaves room for others even where
# the rate has been seen for a moment only.
_SLOW = 80e6
# The first step adds no more connections than would fill the fastest networks there are.
_FASTEST = 3e9
# Some connections are always between two ranges; a level counts as reached with this part of it.
_DELIVERING = 0.7
_USED = 0.9
# Who goes back from a step that was too large keeps this many times what would have been enough.
_SPARE = 1.25
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 16.0
# Processors: who uses less is not held back by them, and what is left carries no other connection.
_BUSY, _LITTLE = 0.5, 0.3
# When no connection has been answered for so long, one more is tried: others may wait behind it.
_SILENCE = 0.5


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of processor time since some moment: `used` by this process, and left `idle`.

    `idle` is None where that is not known.
    """

    used: float
    idle: float | None = None

    def crowded_since(self, before: CpuTimes, elapsed: float) -> bool:
        """Whether processors, not the network, have held this process back since `before`.

        Then another connection would only take from the others.
        """
        if self.idle is None or before.idle is None or elapsed <= 0:
            return False
        used, idle = (self.used - before.used) / elapsed, (self.idle - before.idle) / elapsed
        return used >= _BUSY and idle < _LITTLE


def _unknown() -> CpuTimes:
    return CpuTimes(0.0)


@dataclass
class ConcurrencyController:
    """The number of connections to one host. The third argument tells how busy processors are.

    Attributes:
        ceiling: the most connections ever, at least 1.
        level: how many there may be now; at first from 1 to the ceiling.
    """

    ceiling: int
    level: int = 1
    _load: Callable[[], CpuTimes] = _unknown
    _load_then: CpuTimes = CpuTimes(0.0)
    _factor: int = _BOLD
    _best: tuple[int, float] | None = None
    _since: float | None = None
    _moved_then: int = 0
    _ended_then: int = 0
    _pause: float = _FIRST_PAUSE
    _resting_until: float = 0.0
    _silent_since: float | None = None
    _ended_seen: int = 0
    _doubted: bool = False
    _climbing: bool = True
    _stepped: bool = False
    _capped: bool = False

    @property
    def expected(self) -> int:
        """How many connections there may soon be: the ceiling as long as the climb goes on."""
        return self.ceiling if self._climbing else self.level

    def first_seen(self, rate: float, latency: float) -> None:
        """The first connection delivers `rate` bytes a second after `latency` seconds: the first
        step need not wait for a period where that is little, or slow to come."""
        if self._best is None and (rate <= _SLOW or latency >= PERIOD):
            self._best = (1, rate)
            self._since = None
            self._raise(latency)
            # Where answers are late each of them waits for most of its time.
            self.level = min(self.level, max(_BOLD, int(_FASTEST / rate * (1 + latency))))

    def observe(
        self,
        now: float,
        moved: int,
        ended: int,
        busy: int,
        delivering: int,
        latency: float = 0.0,
    ) -> int:
        """Return the level, having seen `moved` bytes, in `ended` answers and others under way.

        `busy` connections have been given something to do, `delivering` of them have begun, and
        `latency` seconds go by before one begins. Call it several times a period. A level is
        measured only while it is used: what it can do shows then.
        """
        if busy < _USED * self.level or now < self._resting_until:
            self._since = self._silent_since = None
            self._ended_then = ended
            return self.level
        self._listen(now, latency, silent=not delivering and ended == self._ended_seen)
        self._ended_seen = ended
        reached = delivering >= _DELIVERING * self.level
        if self._since is None:
            if reached or ended - self._ended_then >= self.level / 2:
                self._since, self._moved_then, self._ended_then = now, moved, ended
                self._load_then = self._load()
            return self.level
        elapsed = now - self._since
        goodput = (moved - self._moved_then) / elapsed if elapsed > 0 else 0.0
        if self._is_over(elapsed, ended - self._ended_then, goodput, latency, reached=reached):
            crowded = self._load().crowded_since(self._load_then, elapsed)
            self._judge(now, goodput, latency, crowded=crowded)
            self._since, self._ended_then = None, ended
        return self.level

    def _listen(self, now: float, latency: float, *, silent: bool) -> None:
        if not silent:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since >= max(_SILENCE, 2 * latency):
            self.level = min(self.ceiling, self.level + 1)
            self._silent_since = now

    def _gained(self, goodput: float) -> float:
        """What part of what perfect scaling would have added since the last level has been."""
        assert self._best is not None
        level, before = self._best
        return (goodput / before - 1) / (self.level / level - 1) if before else 1.0

    def _is_over(
        self, elapsed: float, ended: int, goodput: float, latency: float, *, reached: bool
    ) -> bool:
        """Whether a period says enough: of small answers it has to have seen several, and where
        ranges follow each other, the wait for their first bytes is a part of it."""
        cycle = 2 * latency if ended or self._doubted or self._best is None else 0.0
        if elapsed < PERIOD:
            return False
        rising = self._best is not None and self._best[0] < self.level
        if rising and reached and self._gained(goodput) >= _SCALES:
            return True
        if elapsed < PERIOD + cycle:
            return False
        return reached or ended >= 2 * self.level or elapsed >= _LONGEST_PERIOD + 2 * latency

    def _judge(self, now: float, goodput: float, latency: float, *, crowded: bool) -> None:
        if self._best is None or self._best[0] >= self.level:
            self._best = (self.level, goodput)
            self._rest(now) if crowded else self._raise(latency)
            return
        level, before = self._best
        gained = self._gained(goodput)
        if gained >= _PAYS:
            self._best = (self.level, goodput)
            self._pause = _FIRST_PAUSE
            self._factor = _BOLD if gained >= _SCALES else _CAREFUL
            # Connections that scale do not take processors from each other.
            self._rest(now) if crowded and gained < _SCALES else self._raise(latency)
        elif gained > 0 and not self._doubted:
            # The connections that were added have only just begun: look once more.
            self._doubted = True
        else:
            if before and self.level > _BOLD * level:
                # As many as would have brought the same, had each brought as much as before.
                level = max(level, int(level * goodput / before * _SPARE))
            self._factor = _CAREFUL
            self._best = None
            self.level = min(self.level, level)
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Stay at this level for a while, each time longer."""
        self._climbing = self._doubted = False
        self._resting_until = now + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _raise(self, latency: float) -> None:
        factor = self._factor
        if not self._stepped:
            factor = next(step for least, step in _FIRST_STEPS if latency >= least)
        self._stepped, self._doubted = True, False
        self.level = min(self.ceiling, self.level * factor)
        self._climbing = self.level < self.ceiling

    def measure_anew(self, now: float) -> None:
        """What has been measured holds no more: a connection has ended that was not like others."""
        self._best = self._since = None
        self._resting_until = now
        self._pause, self._factor = _FIRST_PAUSE, _BOLD
        self._climbing = self.level < self.ceiling

    def cap(self, now: float, connections: int) -> None:
        """More than `connections` are refused or broken off: make no more of them. Where it was
        not the first time, never more."""
        if self._capped:
            self.ceiling = max(1, min(self.ceiling, connections))
        self._capped = True
        self.level = max(1, min(self.level, connections))
        self._best = None
        self._since = None
        self._rest(now)

    def lower(self, now: float) -> None:
        """The host is overloaded (429, 503): halve the level and leave it there for a while."""
        self.level = max(1, self.level // 2)
        self.ceiling = max(1, min(self.ceiling, self.level * 2))
        self._best = None
        self._since = None
        self._rest(now)
