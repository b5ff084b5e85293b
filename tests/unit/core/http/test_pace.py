"""The number of connections follows goodput, and no further than processors carry it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from pgetpy.core.http.pace import ConcurrencyController, CpuTimes
from pgetpy.core.http.range_request import RateMeter, is_straggler

TICK = 0.02


class Machine:
    """Two processors; each connection uses `each` of one, as far as there is some left."""

    def __init__(self, each: float, others: float = 0.0) -> None:
        self.now = 0.0
        self.moved = 0.0
        self.used = self.idle = 0.0
        self._each = each
        self._others = others

    def run(self, connections: int, rate: float) -> None:
        """Let a tick pass; `rate` is what a connection that is not held up moves in a second."""
        wanted = connections * self._each
        had = min(wanted, 2.0 - self._others)
        self.now += TICK
        self.moved += rate * connections * TICK * (had / wanted if wanted else 1.0)
        self.used += had * TICK
        self.idle += (2.0 - self._others - had) * TICK

    def load(self) -> CpuTimes:
        return CpuTimes(self.used, self.idle)


def most(machine: Machine, load: Callable[[], CpuTimes], seconds: float = 1.0) -> int:
    """The highest level within `seconds`."""
    pace = ConcurrencyController(64, 1, load)
    levels = []
    while machine.now < seconds:
        machine.run(pace.level, 100e6)
        pace.observe(machine.now, int(machine.moved), 0, pace.level, pace.level)
        levels.append(pace.level)
    return max(levels)


def test_requests_that_are_refused_together_count_once() -> None:
    pace = ConcurrencyController(64, 16)
    pace.cap(1.0, 1, asked=0.9)
    for _ in range(11):
        pace.cap(1.01, 1, asked=0.9)
    pace.cap(1.02, 4, asked=0.9)
    assert (pace.level, pace.ceiling) == (4, 64)


def test_what_a_host_refuses_twice_becomes_its_ceiling() -> None:
    pace = ConcurrencyController(64, 16)
    pace.cap(1.0, 4, asked=0.9)
    pace.cap(3.0, 4, asked=2.9)
    assert (pace.level, pace.ceiling) == (4, 4)


def test_a_connection_between_two_ranges_is_not_refused_to_it() -> None:
    pace = ConcurrencyController(64, 16)
    pace.cap(1.0, 2, asked=0.9)
    pace.observe(1.5, 10_000_000, 2, 2, 2)
    pace.cap(3.0, 1, asked=2.9)
    assert pace.ceiling == 2


def test_a_refusal_soon_after_another_does_not_lower_the_ceiling_further() -> None:
    """The host may still count a connection that has just been closed."""
    pace = ConcurrencyController(64, 16)
    pace.cap(1.0, 1, asked=0.9)
    pace.observe(1.5, 10_000_000, 2, 2, 2)
    pace.cap(1.6, 1, asked=1.55)
    pace.cap(1.7, 1, asked=1.65)
    assert (pace.level, pace.ceiling) == (1, 2)


def test_a_host_that_allows_fewer_than_before_is_followed() -> None:
    pace = ConcurrencyController(64, 16)
    for now, connections in ((1.0, 8), (3.0, 4), (5.0, 2)):
        pace.cap(now, connections, asked=now - 0.1)
    assert pace.ceiling == 4
    pace.cap(7.0, 2, asked=6.9)
    assert pace.ceiling == 2


def test_after_a_refusal_the_level_rises_by_one() -> None:
    pace = ConcurrencyController(64, 4)
    pace.cap(0.0, 2, asked=0.0)
    levels, moved = [], 0
    for tick in range(200):
        moved += int(pace.level * 5e6 * TICK)
        levels.append(pace.observe(tick * TICK, moved, 0, pace.level, pace.level))
    assert levels[-1] > 4
    assert max(after - before for before, after in pairwise(levels)) == 1


def test_connections_that_need_little_of_a_processor_become_many() -> None:
    machine = Machine(each=0.02)
    assert most(machine, machine.load) == 64


def test_a_connection_that_leaves_no_processor_for_another_stays_alone() -> None:
    machine = Machine(each=1.0, others=0.8)
    assert most(machine, machine.load) == 1


def test_connections_become_more_where_a_processor_is_left() -> None:
    machine = Machine(each=1.0)
    assert most(machine, machine.load) == 4


def test_a_machine_that_others_keep_busy_does_not_hold_back_slow_connections() -> None:
    machine = Machine(each=0.001, others=2.0 - 0.07)
    assert most(machine, machine.load) == 64


def climb_after_the_first_request(goodput: float) -> ConcurrencyController:
    """One connection has shown 20 MB/s; the first request ends, and 16 others go on, on a machine
    with no processor to spare."""
    machine = Machine(each=0.001, others=2.0)
    busy = 0.0

    def load() -> CpuTimes:
        nonlocal busy
        busy += 1.0
        return CpuTimes(busy, machine.idle)

    pace = ConcurrencyController(64, 1, load)
    pace.first_seen(20e6, 0.002)
    assert pace.level == 16
    pace.measure_anew(0.0)
    for tick in range(6):
        now = tick * TICK
        pace.observe(now, int(goodput * now), 0, pace.level, pace.level)
    return pace


def test_connections_that_scale_become_more_although_the_first_request_has_ended() -> None:
    assert climb_after_the_first_request(16 * 18e6).level == 64


def test_a_busy_machine_keeps_its_connections_where_the_first_was_faster() -> None:
    assert climb_after_the_first_request(16 * 8e6).level == 16


def test_a_fast_connection_to_a_near_host_gets_few_others() -> None:
    pace = ConcurrencyController(64, 1)
    pace.first_seen(500e6, 0.002)
    assert pace.level == 1


def test_where_nobody_knows_what_is_idle_goodput_alone_decides() -> None:
    machine = Machine(each=0.02)
    assert most(machine, lambda: CpuTimes(machine.used)) == 64


@pytest.mark.parametrize(
    ("rate", "others", "expected"),
    [
        (0.9, [10.0, 10.0, 10.0], True),
        (1.1, [10.0, 10.0, 10.0], False),
        (0.5, [1.0, 10.0, 10.0, 1.0], True),
        (0.6, [1.0, 10.0, 10.0, 1.0], False),
        (0.0, [10.0, 10.0], False),
    ],
)
def test_a_straggler_has_a_tenth_of_the_median_of_at_least_three(
    rate: float, others: list[float], expected: bool
) -> None:
    assert is_straggler(rate, others) == expected


def looked_at(*times: float) -> RateMeter:
    """A connection that began at 0 and has brought nothing at any of `times`."""
    meter = RateMeter(born=0.0, quiet_since=0.0, seen_at=0.0, seen_pos=0)
    for now in times:
        meter.observe(now, 0, waiting=True)
    return meter


def test_silence_is_as_long_as_somebody_listens_to_it() -> None:
    times = [number * TICK for number in range(1, 101)]
    assert looked_at(*times).quiet(times[-1]) == pytest.approx(2.0)


@pytest.mark.parametrize("looks_since", [(), (60.5,), (60.5, 60.52)])
def test_a_process_that_was_stopped_takes_its_own_absence_for_no_silence(
    looks_since: tuple[float, ...],
) -> None:
    meter = looked_at(0.5, *looks_since)
    assert meter.quiet(60.52) < 0.25


def test_silence_after_an_absence_counts_again() -> None:
    times = [60 + number * TICK for number in range(1, 101)]
    assert 2.0 <= looked_at(*times).quiet(times[-1]) < 2.25
