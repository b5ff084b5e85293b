"""The sums over all transfers of a call."""

from __future__ import annotations

from pgetpy.core.report.events import Progressed, Queued, Started
from pgetpy.core.report.tally import Tally

GB = 1_000_000_000


def tally_of(*events: Queued | Started | Progressed, step: float = 1.0) -> tuple[Tally, float]:
    tally, now = Tally(), 0.0
    for event in events:
        tally.take(event, now)
        now += step
    return tally, now


def test_a_total_that_was_announced_is_not_guessed() -> None:
    small = Started(1, "u", "config.json", 100, 0), Progressed(1, 100, 100, 1)
    guessed, _ = tally_of(Queued(2), *small)
    assert guessed.expected == 200
    announced, _ = tally_of(Queued(2, GB), *small)
    assert announced.total == announced.expected == GB


def test_a_few_small_files_do_not_tell_how_long_large_ones_take() -> None:
    events = Queued(2, GB), Started(1, "u", "config.json", 100, 0), Progressed(1, 100, 100, 1)
    early, now = tally_of(*events)
    assert early.remaining_seconds(now) is None
    later, now = tally_of(*events, Started(2, "u", "x", GB - 100, 0), Progressed(2, GB // 2, GB, 1))
    assert later.remaining_seconds(now) is not None
