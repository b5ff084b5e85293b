"""Goodput in, number of connections out; and what counts as a stall or a straggler.

The search is a climb: keep a level of connections for a measuring period, raise it while goodput
rises with it, go back one step when it does not, and try again later, since networks change. A
store that gives each connection 20 MB/s is saturated within half a second; a single stream that
already fills the machine is left nearly alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# A period long enough to average over scheduling, short enough to climb in a cold start.
PERIOD = 0.06
_LONGEST_PERIOD = 0.6
# Goodput has to rise by this part of what perfect scaling would add for a higher level to stay.
_PAYS = 0.25
# Nearly perfect scaling: the limit is each connection's, so climb faster.
_SCALES = 0.8
_BOLD, _CAREFUL = 4, 2
# Some connections are always between two ranges; a level counts as reached with this part of it.
_DELIVERING = 0.7
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 16.0
# Processors: who uses less is not held back by them, and what is left carries no other connection.
_BUSY, _LITTLE = 0.5, 0.3
# When no connection has been answered for so long, one more is tried: others may wait behind it.
_SILENCE = 0.5
# Looks at a connection come several times in this. Where the next one comes later, this process was
# stopped or found no processor, and what it did not look at is no silence of the network's.
_LATE = 0.1
# A connection this much slower than the others' median is better replaced.
_STRAGGLER = 0.1
# Below this many others a median says little.
_QUORUM = 3


@dataclass(frozen=True)
class Load:
    """Seconds of processor time since some moment: `used` by this process, and left `idle`.

    `idle` is None where that is not known.
    """

    used: float
    idle: float | None = None

    def crowded_since(self, before: Load, elapsed: float) -> bool:
        """Whether processors, not the network, have held this process back since `before`.

        Then another connection would only take from the others.
        """
        if self.idle is None or before.idle is None or elapsed <= 0:
            return False
        used, idle = (self.used - before.used) / elapsed, (self.idle - before.idle) / elapsed
        return used >= _BUSY and idle < _LITTLE


def _unknown() -> Load:
    return Load(0.0)


class Pace:
    """The number of connections to one host.

    Args:
        ceiling: the most connections ever.
        start: the level to begin with.
        load: tells how busy the processors have been.
    """

    def __init__(self, ceiling: int, start: int = 1, load: Callable[[], Load] = _unknown) -> None:
        self.ceiling = max(1, ceiling)
        self.level = min(max(1, start), self.ceiling)
        self._factor = _BOLD
        self._best: tuple[int, float] | None = None
        self._load = load
        self._load_then = Load(0.0)
        self._since: float | None = None
        self._moved_then = 0
        self._ended_then = 0
        self._pause = _FIRST_PAUSE
        self._resting_until = 0.0
        self._silent_since: float | None = None
        self._ended_seen = 0

    def observe(self, now: float, moved: int, ended: int, busy: int, delivering: int) -> int:
        """Return the level, having seen `moved` bytes, in `ended` answers and others under way.

        `busy` connections have been given something to do, `delivering` of them have begun. Call it
        several times a period. A level is measured only while it is used: what it can do shows
        then.
        """
        if busy < self.level or now < self._resting_until:
            self._since = self._silent_since = None
            return self.level
        self._listen(now, silent=not delivering and ended == self._ended_seen)
        self._ended_seen = ended
        if self._since is None:
            if delivering >= _DELIVERING * self.level or ended != self._ended_then:
                self._since, self._moved_then, self._ended_then = now, moved, ended
                self._load_then = self._load()
        elif self._is_over(now - self._since, ended - self._ended_then):
            elapsed = now - self._since
            crowded = self._load().crowded_since(self._load_then, elapsed)
            self._judge(now, (moved - self._moved_then) / elapsed, crowded=crowded)
            self._since, self._ended_then = None, ended
        return self.level

    def _listen(self, now: float, *, silent: bool) -> None:
        if not silent:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since >= _SILENCE:
            self.level = min(self.ceiling, self.level + 1)
            self._silent_since = now

    def _is_over(self, elapsed: float, ended: int) -> bool:
        """Whether a period says enough: of small answers it has to have seen several."""
        if elapsed < PERIOD:
            return False
        return ended == 0 or ended >= 2 * self.level or elapsed >= _LONGEST_PERIOD

    def _judge(self, now: float, goodput: float, *, crowded: bool) -> None:
        if self._best is None or self._best[0] >= self.level:
            self._best = (self.level, goodput)
            self._rest(now) if crowded else self._raise()
            return
        level, before = self._best
        gained = (goodput / before - 1) / (self.level / level - 1) if before else 1.0
        self._factor = _BOLD if gained >= _SCALES else _CAREFUL
        if gained >= _PAYS:
            self._best = (self.level, goodput)
            self._pause = _FIRST_PAUSE
            self._rest(now) if crowded else self._raise()
        else:
            self.level = level
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Stay at this level for a while, each time longer."""
        self._resting_until = now + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _raise(self) -> None:
        self.level = min(self.ceiling, self.level * self._factor)

    def lower(self, now: float) -> None:
        """The host is overloaded (429, 503): halve the level and leave it there for a while."""
        self.level = max(1, self.level // 2)
        self.ceiling = max(1, min(self.ceiling, self.level * 2))
        self._best = None
        self._since = None
        self._rest(now)


@dataclass
class Pulse:
    """How one connection is doing, seen at intervals.

    Attributes:
        rate: bytes a second, averaged over about a second.
        quiet_since: when it was last seen to move, or not to wait for the network; later by the
            time that nobody looked.
        born: when it began.
    """

    born: float
    quiet_since: float
    rate: float = 0.0
    _seen_at: float = 0.0
    _seen_pos: int = 0

    @classmethod
    def at(cls, now: float, pos: int) -> Pulse:
        return cls(born=now, quiet_since=now, _seen_at=now, _seen_pos=pos)

    def observe(self, now: float, pos: int, *, waiting: bool) -> None:
        """Take note that the connection stands at `pos` and whether it waits for the network."""
        elapsed = now - self._seen_at
        if elapsed <= 0:
            return
        if pos != self._seen_pos or not waiting:
            self.quiet_since = now
        else:
            self.quiet_since += max(0.0, elapsed - _LATE)
        current = (pos - self._seen_pos) / elapsed
        weight = min(1.0, max(elapsed, 0.05) / min(1.0, max(now - self.born, elapsed)))
        self.rate += (current - self.rate) * weight
        self._seen_at, self._seen_pos = now, pos

    def quiet(self, now: float) -> float:
        """Seconds spent waiting for the network without a byte."""
        return now - self.quiet_since - max(0.0, now - self._seen_at - _LATE)


def is_straggler(rate: float, others: Sequence[float]) -> bool:
    """Whether a connection at `rate` bytes a second is far behind the `others`' rates."""
    return len(others) >= _QUORUM and rate < _median(others) * _STRAGGLER


def _median(values: Sequence[float]) -> float:
    """The middle of `values`; importing statistics would cost each run 8 ms."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
