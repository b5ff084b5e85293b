import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.rate_limit import TokenBucket

RATE = 1000.0
TAKES = st.lists(st.integers(0, 500), min_size=1, max_size=60)


@given(TAKES)
def test_who_waits_as_told_goes_at_the_rate_and_no_slower(takes: list[int]) -> None:
    now = 0.0
    bucket = TokenBucket(RATE, now)
    for count in takes:
        now += bucket.take(count, now)
    ideal = sum(takes) / RATE
    assert ideal - 0.1 <= now + 1e-6
    assert now <= ideal + 1e-6


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 2)), min_size=1, max_size=60))
def test_time_spent_elsewhere_is_no_credit_beyond_the_burst(
    takes: list[tuple[int, float]],
) -> None:
    now = 0.0
    bucket = TokenBucket(RATE, now)
    moved: list[tuple[float, int]] = []
    for count, elsewhere in takes:
        now += elsewhere
        moved.append((now, count))
        now += bucket.take(count, now)
    for first, (begin, _) in enumerate(moved):
        # In any while that ends with a wait: no more than the rate and one burst.
        total = sum(count for _, count in moved[first:])
        assert total <= (now - begin) * RATE + RATE * 0.1 + 1e-6


def test_a_rest_lets_a_burst_through() -> None:
    bucket = TokenBucket(RATE, 0.0)
    assert bucket.take(100, 0.0) == 0.0
    assert bucket.take(100, 0.0) == pytest.approx(0.1)
    assert bucket.take(0, 100.0) == 0.0
    assert bucket.take(100, 100.0) == 0.0
    assert bucket.take(1, 100.0) > 0.0


def test_those_who_share_a_bucket_share_its_rate() -> None:
    bucket = TokenBucket(RATE, 0.0)
    waits = [bucket.take(100, 0.0) for _ in range(11)]
    assert waits[-1] == pytest.approx(1.0)
