"""Whether what comes is worth waiting for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgetpy.core.http.speed_limit import SpeedLimit


def undercut_after(
    limit: SpeedLimit, moved: Callable[[float], int], *, within: float, waiting: bool = True
) -> float | None:
    """Return when `limit` is undercut by what `moved` says has come by then; None for never."""
    for tick in range(int(within * 40)):
        now = tick / 40
        if limit.undercut(now, moved(now), waiting=waiting):
            return now
    return None


def test_nothing_at_all_is_too_little_after_the_time() -> None:
    found = undercut_after(SpeedLimit(1024, 60), lambda _: 0, within=100)
    assert found == pytest.approx(60, abs=2)


def test_a_thousand_bytes_now_and_then_are_too_little() -> None:
    """As connections do that deliver a little and go silent, one after the other."""
    found = undercut_after(SpeedLimit(1024, 60), lambda now: 1000 * int(now // 15), within=200)
    assert found == pytest.approx(60, abs=2)


def test_what_comes_fast_enough_is_waited_for_however_long_it_takes() -> None:
    assert undercut_after(SpeedLimit(1024, 60), lambda now: int(now * 1100), within=400) is None


def test_a_burst_after_a_long_silence_is_progress() -> None:
    """A megabyte every 50 s is 20 kB/s."""
    bursts = undercut_after(SpeedLimit(1024, 60), lambda now: int(now // 50) << 20, within=400)
    assert bursts is None


def test_who_becomes_slow_is_found_out() -> None:
    found = undercut_after(SpeedLimit(1024, 60), lambda now: min(int(now * 1e6), 10**8), within=400)
    assert found == pytest.approx(160, abs=3)


@pytest.mark.parametrize("limit", [SpeedLimit(0, 60), SpeedLimit(1024, 0)])
def test_nought_waits_for_ever(limit: SpeedLimit) -> None:
    assert undercut_after(limit, lambda _: 0, within=400) is None


def test_time_in_which_nobody_waits_for_the_network_does_not_count() -> None:
    limit = SpeedLimit(1024, 60)
    assert undercut_after(limit, lambda _: 0, within=400, waiting=False) is None


def test_time_in_which_this_process_was_stopped_does_not_count() -> None:
    limit = SpeedLimit(1024, 60)
    limit.undercut(0, 0, waiting=True)
    assert not limit.undercut(10_000, 0, waiting=True)
