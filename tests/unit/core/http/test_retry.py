import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.retry import LONGEST_RETRY_AFTER, Retries, retryable
from pgetpy.errors import (
    ConnectionFailedError,
    DigestMismatchError,
    DiskFullError,
    HttpStatusError,
    NotAllowedError,
    ObjectChangedError,
    PgetError,
    RangeNotHonouredError,
    StalledError,
    TransferError,
)

URL = "http://h/x"
BROKEN = ConnectionFailedError(URL, "reset")
JITTER = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507, 599])
def test_a_status_that_may_pass_is_retried(status: int) -> None:
    assert retryable(HttpStatusError(URL, status))


@pytest.mark.parametrize(
    "status", [204, 304, 400, 401, 403, 404, 405, 407, 409, 410, 412, 416, 418, 451]
)
def test_a_status_that_will_not_pass_is_not(status: int) -> None:
    assert not retryable(HttpStatusError(URL, status))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BROKEN, True),
        (StalledError(URL, 15), True),
        (RangeNotHonouredError(URL, "a", "b"), True),
        (ObjectChangedError(URL, "a", "b"), False),
        (NotAllowedError(URL, "--max-size", "too large"), False),
        (TransferError(URL, "an answer that cannot be read"), False),
        (DigestMismatchError(URL, "md5:a", "md5:b"), False),
        (DiskFullError("x", 1, 0), False),
    ],
)
def test_what_the_network_did_is_retried_and_what_is_so_is_not(
    error: PgetError, expected: bool
) -> None:
    assert retryable(error) is expected
    assert (Retries(5).delay(error, 0.5) is not None) is expected


@given(limit=st.integers(0, 12), jitter=JITTER)
def test_so_many_failures_in_a_row_are_borne_and_no_more(limit: int, jitter: float) -> None:
    retries = Retries(limit)
    delays = [retries.delay(BROKEN, jitter) for _ in range(limit)]
    assert None not in delays
    assert retries.delay(BROKEN, jitter) is None
    assert retries.attempts == limit + 1
    assert retries.made == limit


@given(jitter=JITTER)
def test_delays_grow_and_stay_bounded(jitter: float) -> None:
    retries = Retries(40)
    delays = [retries.delay(BROKEN, jitter) or 0.0 for _ in range(40)]
    assert delays == sorted(delays)
    assert 0 < delays[0] <= 0.1
    assert delays[-1] <= 20


def test_progress_makes_the_count_begin_again() -> None:
    retries = Retries(1)
    for _ in range(10):
        assert retries.delay(BROKEN, 0.0) is not None
        retries.progressed()
    assert retries.made == 10
    assert retries.delay(BROKEN, 0.0) is not None
    assert retries.delay(BROKEN, 0.0) is None


@given(asked=st.floats(0, LONGEST_RETRY_AFTER), jitter=JITTER)
def test_a_server_that_names_a_time_is_never_asked_earlier(asked: float, jitter: float) -> None:
    delay = Retries(1).delay(HttpStatusError(URL, 503, retry_after=asked), jitter)
    assert delay is not None
    assert asked <= delay <= asked + 1


def test_a_server_that_names_too_long_a_time_is_given_up() -> None:
    assert Retries(5).delay(HttpStatusError(URL, 503, retry_after=3600), 0.0) is None


def test_those_that_failed_together_do_not_come_back_together() -> None:
    delays = {Retries(5).delay(BROKEN, jitter / 10) for jitter in range(10)}
    assert len(delays) == 10


def test_the_patience_for_a_first_byte_grows_with_each_failure_in_a_row() -> None:
    retries = Retries(3)
    waited = [retries.first_byte_patience(15)]
    for _ in range(3):
        retries.delay(BROKEN, 0.5)
        waited.append(retries.first_byte_patience(15))
    assert waited == [15, 30, 45, 60]
    retries.progressed()
    assert retries.first_byte_patience(15) == 15
