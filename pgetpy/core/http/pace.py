"""Goodput in, number of connections out.

A store may give each connection 20 MB/s, so that 64 of them are 64 times as fast, or a single
stream may already fill the machine, so that a second only gets in its way. Nothing in the protocol
tells which. The controller finds out by hill climbing: measure the goodput of a level (a number of
connections), raise the level, measure again, and keep the higher level only if it has paid.

A step from level n, which moved g bytes a second, to level m, which moves h, is judged by the part
of perfect scaling it achieved:

    gained = (h/g - 1) / (m/n - 1)        1: each connection as fast as before;  0: nothing gained

    measure n ----> raise to m, measure ----+-- gained >= 0.6   keep m, next step x 4
        ^                  ^                +-- gained >= 0.25  keep m, next step x 2
        |                  | once           +-- gained > 0      the new ones may only be starting:
        |                  +----------------+                   measure m a second time
        +--- rest 0.5, 1, 2 ... 16 s <------+-- else            back to n

After a rest n is measured anew: networks change, and the old figure says little about now. Each
failed attempt doubles the next rest; a step that pays resets it.

Invariants: 1 <= `level` <= `ceiling`. `_best` holds the level and the goodput that the current
level is compared with, or None, in which case the next period measures a base and judges nothing.
A period counts only while the level is really used, since an idle connection shows no limit.

Connections compete for processors as well. Where this process is busy and the machine has little
idle time, another connection only takes from the others, and the level is not raised, unless the
last step scaled: connections that scale do not compete.

A step also costs the time to the first byte of the connections that it adds. Where that is long,
climbing in small steps costs more than opening a few connections too many, so the first step is
larger (`_FIRST_STEPS`), as it is if the first connection is slow (`_SLOW_STEP`). If it overshoots,
`_judge` estimates how many would have been enough.

Some servers hold each connection back by sending in bursts: 2 MB at once, then nothing for half a
second. While nothing at all comes, which no full network does for long, the level rises without a
comparison, and none is found too high. Once bursts overlap, a period contains a few lulls.
"""

from __future__ import annotations

from collections.abc import Callable

from pgetpy.core.lazy_dataclass import dataclass

# A period long enough to average over scheduling, short enough to climb in a cold start.
PERIOD = 0.06
_LONGEST_PERIOD = 0.6
# Goodput has to rise by this part of what perfect scaling would add for a higher level to stay.
_PAYS = 0.25
# Nearly perfect scaling: each connection has its own limit, so climb faster.
_SCALES = 0.6
_BOLD, _CAREFUL = 4, 2
# The first step, by the least time to a first byte in seconds: the steps after it cost that time
# again.
_FIRST_STEPS = ((0.25, 64), (0.1, 32), (0.02, 16), (0.0, _BOLD))
# A connection that delivers no more than this, bytes a second, leaves room for others even where
# the rate has been seen for a moment only. The first step is at least this large then.
_SLOW = 80e6
_SLOW_STEP = 16
# The first step adds no more connections than would fill the fastest networks there are.
_FASTEST = 3e9
# Some connections are always between two ranges; a level counts as reached with this part of it.
_DELIVERING = 0.7
# A level is in use when this part of it has work; below that the work is the limit, not the level.
_USED = 0.9
# After a step that was too large, keep this many times the estimate of what would have sufficed.
_SPARE = 1.25
# Seconds of rest after the first failed climb, and the most that doubling takes it to.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 16.0
# In processors: a process that uses less than the first is not limited by them; a machine with less
# than the second idle cannot carry another connection.
_BUSY, _LITTLE = 0.5, 0.3
# After so many seconds without any answer one more connection is opened: the requests of other
# transfers may be waiting for the slot of a slow one.
_SILENCE = 0.5
# Nothing comes for this part of a period, and of the time since a climb has failed: connections are
# held back. Nothing comes for the last of these: the period proves success only.
_HELD_BACK, _NO_OUTAGE, _UNSTEADY = 0.5, 0.3, 0.1
# Of a lull, and of the time between two looks, no more than so many seconds count.
_LONGEST_LULL, _LONGEST_LOOK = 2.0, 0.1
# Seconds in which a host may still count a connection that has just been closed.
_NOTICED = 1.0


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

    It reads no clock: every method that depends on time is given `now`, in seconds of one
    monotonic clock.

    Attributes:
        ceiling: the most connections ever, at least 1. It falls where a host shows its limit.
        level: how many there may be now; at first from 1 to the ceiling.
    """

    ceiling: int
    level: int = 1
    _load: Callable[[], CpuTimes] = _unknown
    _load_then: CpuTimes = CpuTimes(0.0)
    # The next step multiplies the level by this.
    _factor: int = _BOLD
    # Level and goodput of the last level that was kept; None until a base has been measured.
    _best: tuple[int, float] | None = None
    # The same of the first connection by itself; None if no step was based on that.
    _alone: tuple[int, float] | None = None
    # Whether `_best` is that, and later levels have waits that it had not: it proves success only.
    _unlike: bool = False
    # The period being measured: when it began, and the counters at that moment.
    _since: float | None = None
    _moved_then: int = 0
    _ended_then: int = 0
    # Seconds in which nothing came: of the period, and since a climb has failed; when that was.
    _silent: float = 0.0
    _silent_in_all: float = 0.0
    _failed_at: float = 0.0
    _looked: float = 0.0
    # How long the next rest lasts, and when the current one ends.
    _pause: float = _FIRST_PAUSE
    _resting_until: float = 0.0
    _silent_since: float | None = None
    _ended_seen: int = 0
    # Whether this level has been measured once already and the result was unclear.
    _doubted: bool = False
    _climbing: bool = True
    # Whether the first step, which depends on the latency, has been made.
    _stepped: bool = False
    # When the host last refused a connection; the second time lowers the ceiling.
    _capped_at: float | None = None
    # The most connections that have delivered at a time since then.
    _delivered: int = 0

    @property
    def expected(self) -> int:
        """How many connections there may soon be: the ceiling as long as the climb goes on."""
        return self.ceiling if self._climbing else self.level

    @property
    def is_new(self) -> bool:
        """Whether it has learned nothing yet, so that `first_seen` may change it."""
        return self._best is None

    def first_seen(self, rate: float, latency: float) -> None:
        """Take the first step at once where the first connection is slow, or slow to answer.

        A full period would tell more, but in these cases the answer is clear without it.

        Args:
            rate: what the first connection delivers, bytes a second.
            latency: seconds to its first byte.
        """
        if self._best is None and (rate <= _SLOW or latency >= PERIOD):
            self._best = self._alone = (1, rate)
            self._since = None
            self._raise(latency, _SLOW_STEP if rate <= _SLOW else 1)
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
        quiet: int = 0,
        lull: float = 0.0,
    ) -> int:
        """Return the level for the next moments. Call this several times a period.

        Args:
            now: seconds.
            moved: bytes received from the host so far, over all connections.
            ended: answers that have ended so far.
            busy: connections that have a request under way.
            delivering: those of them whose bytes have begun to arrive.
            latency: seconds from a request to its first byte, typically.
            quiet: how many of the delivering ones have delivered no byte since the last look.
            lull: seconds between two bursts of a connection, typically.
        """
        silent = min(now - self._looked, _LONGEST_LOOK) if 0 < delivering <= quiet else 0.0
        self._silent += silent
        self._silent_in_all += silent
        self._looked = now
        self._delivered = max(self._delivered, delivering)
        if busy < _USED * self.level or now < self._resting_until:
            # Discard the period: part of it would measure a lack of work.
            self._since = self._silent_since = None
            self._ended_then = ended
            return self.level
        self._listen(now, latency, silent=not delivering and ended == self._ended_seen)
        self._ended_seen = ended
        reached = delivering >= _DELIVERING * self.level
        if self._since is None:
            # Small answers may end before most connections deliver at the same time, so enough of
            # them also show that the level is reached.
            if reached or ended - self._ended_then >= self.level / 2:
                self._since, self._moved_then, self._ended_then = now, moved, ended
                self._load_then, self._silent = self._load(), 0.0
            return self.level
        elapsed = now - self._since
        if silent and self._is_held_back(now, elapsed):
            self._best = self._since = None
            self._ended_then, self._factor = ended, _BOLD
            self._raise(latency)
            return self.level
        goodput = (moved - self._moved_then) / elapsed if elapsed > 0 else 0.0
        wait = max(latency, min(lull, _LONGEST_LULL))
        if self._is_over(elapsed, ended - self._ended_then, goodput, wait, reached=reached):
            crowded = self._load().crowded_since(self._load_then, elapsed)
            steady = self._silent < _UNSTEADY * elapsed
            self._judge(now, goodput, latency, crowded=crowded, steady=steady)
            self._since, self._ended_then = None, ended
        return self.level

    def _listen(self, now: float, latency: float, *, silent: bool) -> None:
        """Open one more connection where none has been answered for a while."""
        if not silent:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since >= max(_SILENCE, 2 * latency):
            self.level = min(self.ceiling, self.level + 1)
            self._silent_since = now

    def _is_held_back(self, now: float, elapsed: float) -> bool:
        """Whether the server has limited each connection of this period. A network that has shown
        its limit has to be silent more often than now and then."""
        often = self._silent_in_all >= _NO_OUTAGE * (now - self._failed_at) or not self._failed_at
        return elapsed >= PERIOD and self._silent >= _HELD_BACK * elapsed and often

    def _gained(self, goodput: float) -> float:
        """Return the gain of the last step as a part of perfect scaling (see above)."""
        assert self._best is not None
        level, before = self._best
        return (goodput / before - 1) / (self.level / level - 1) if before else 1.0

    def _is_over(
        self, elapsed: float, ended: int, goodput: float, wait: float, *, reached: bool
    ) -> bool:
        """Whether the period has lasted long enough to be judged.

        Where ranges, or bursts, follow each other on a connection, the wait between them belongs
        to its goodput, so the period has to contain it: hence `cycle`. A level that is not reached
        is judged by its number of answers, or after `_LONGEST_PERIOD` by what there is. A clear
        success needs none of this.
        """
        anew = self._best is None or self._unlike
        cycle = 2 * wait if ended or self._doubted or anew else 0.0
        if elapsed < PERIOD:
            return False
        rising = self._best is not None and self._best[0] < self.level
        if rising and reached and self._gained(goodput) >= _SCALES:
            return True
        if elapsed < PERIOD + cycle:
            return False
        return reached or ended >= 2 * self.level or elapsed >= _LONGEST_PERIOD + 2 * wait

    def _judge(
        self, now: float, goodput: float, latency: float, *, crowded: bool, steady: bool
    ) -> None:
        """Draw the conclusion from a period that is over: up, stay, measure again or back."""
        if self._best is None or self._best[0] >= self.level:
            # A base: nothing lower to compare it with.
            self._rebase(now, goodput, latency, crowded=crowded)
            return
        level, before = self._best
        gained = self._gained(goodput)
        if gained >= _PAYS:
            self._best, self._unlike = (self.level, goodput), False
            self._pause = _FIRST_PAUSE
            self._factor = _BOLD if gained >= _SCALES else _CAREFUL
            # Connections that scale do not compete for processors.
            self._rest(now) if crowded and gained < _SCALES else self._raise(latency)
        elif self._unlike:
            self._rebase(now, goodput, latency, crowded=crowded)
        elif gained > 0 and not self._doubted:
            # The connections that were added have only just begun: look once more.
            self._doubted = True
        elif steady:
            if before and self.level > _BOLD * level:
                # A large step overshot. Goodput rose by goodput/before, so that many times the old
                # level would have carried it, had each connection kept its old rate.
                level = max(level, int(level * goodput / before * _SPARE))
            self._factor = _CAREFUL
            self._best = None
            self.level = min(self.level, level)
            self._silent_in_all, self._failed_at = 0.0, now
            self._rest(now)

    def _rebase(self, now: float, goodput: float, latency: float, *, crowded: bool) -> None:
        """Climb from `goodput` on, if processors allow it."""
        self._best, self._unlike = (self.level, goodput), False
        self._rest(now) if crowded else self._raise(latency)

    def _rest(self, now: float) -> None:
        """Stay at this level for a while, each time longer."""
        self._climbing = self._doubted = False
        self._resting_until = now + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _raise(self, latency: float, least: int = 1) -> None:
        """Multiply the level; the first step depends on how long it takes to see its effect, and
        is at least `least`."""
        factor = self._factor
        if not self._stepped:
            factor = max(least, next(step for from_, step in _FIRST_STEPS if latency >= from_))
        self._stepped, self._doubted = True, False
        # A host that has refused connections is near its limit: one more costs one refusal at most.
        raised = self.level * factor if self._capped_at is None else self.level + 1
        self.level = min(self.ceiling, raised)
        self._climbing = self.level < self.ceiling

    def measure_anew(self, now: float) -> None:
        """Forget the measurements: a connection has ended that was unlike the others.

        That is the open-ended first request, which never waited between two ranges. What it
        delivered by itself still shows whether the connections since then scale.
        """
        self._best = self._alone if self.level > 1 else None
        self._unlike = self._best is not None
        self._since = None
        self._resting_until = now
        self._pause, self._factor = _FIRST_PAUSE, _BOLD
        self._climbing = self.level < self.ceiling

    def cap(self, now: float, connections: int, asked: float) -> None:
        """Stay at `connections`: the host refuses more, or breaks them off.

        The first time this may be chance, and the level may rise again after a rest. The second
        time it becomes the ceiling. Of several requests made at the same moment all but a few are
        refused, which counts once; the few may be answered after the first refusal.

        Args:
            now: seconds.
            connections: how many are answered at the moment.
            asked: when the refused request was made.
        """
        before = self._capped_at
        if before is not None and self.in_volley(asked):
            self.level = max(self.level, min(connections, self.ceiling))
            return
        self._capped_at = now
        # One of those that the host allows may be between two ranges just now.
        most = max(connections, self._delivered)
        if before is not None:
            self.ceiling = max(1, min(self.ceiling, most))
        soon = before is not None and now - before < _NOTICED
        self._delivered = most if soon else connections
        self.level = max(1, min(self.level, connections))
        self._best = None
        self._since = None
        self._rest(now)

    def in_volley(self, asked: float) -> bool:
        """Whether a request made at `asked` was made before it was known that the host refuses any,
        so that others of the same moment may still be answered."""
        return self._capped_at is None or asked < self._capped_at

    def lower(self, now: float) -> None:
        """Halve the level: the host is overloaded (429, 503).

        The ceiling falls to the level before, so that the climb does not provoke the same answer
        over and over.
        """
        self.level = max(1, self.level // 2)
        self.ceiling = max(1, min(self.ceiling, self.level * 2))
        self._best = None
        self._since = None
        self._rest(now)
