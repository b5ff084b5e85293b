"""Which plainer way of asking is left after a failure."""

from __future__ import annotations

import pytest

from pgetpy.core.http.manner import Manner
from pgetpy.errors import (
    ConnectionFailedError,
    HttpStatusError,
    RangeNotHonouredError,
    StalledError,
    TransferError,
)

URL = "http://h/x"
WHOLE = RangeNotHonouredError(URL, "bytes=5-9", "200 with the whole object", whole=True)
ODD = RangeNotHonouredError(URL, "bytes=5-9", "bytes 6-10/20")


def refused(status: int) -> HttpStatusError:
    return HttpStatusError(URL, status, "no")


def becomes_plainer(
    manner: Manner, error: TransferError, *, tied: bool = False, proven: bool = False
) -> bool:
    return manner.becomes_plainer(error, tied=tied, proven=proven)


@pytest.mark.parametrize("error", [WHOLE, refused(412), refused(400), refused(501)])
def test_if_range_is_left_out_first(error: TransferError) -> None:
    manner = Manner()
    assert becomes_plainer(manner, error, tied=True, proven=True)
    assert (manner.tied, manner.whole, manner.single) == (False, False, False)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 412, 416, 500, 501])
def test_a_refused_range_is_asked_for_as_the_whole(status: int) -> None:
    manner = Manner()
    assert becomes_plainer(manner, refused(status))
    # Others may join in once it is answered.
    assert (manner.whole, manner.single) == (True, False)
    assert str(status) in manner.reason


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_who_has_no_time_is_asked_for_the_whole_at_the_last(status: int) -> None:
    manner = Manner()
    assert not becomes_plainer(manner, refused(status))
    assert manner == Manner()
    assert manner.becomes_plainer(refused(status), tied=False, proven=False, last_try=True)
    assert manner.whole


def test_what_a_proxy_wants_is_no_matter_of_ranges() -> None:
    assert not Manner().becomes_plainer(refused(407), tied=False, proven=False, last_try=True)


def test_a_server_that_served_ranges_before_may_have_a_bad_moment() -> None:
    manner = Manner()
    assert [becomes_plainer(manner, ODD, proven=True) for _ in range(3)] == [False, False, True]
    assert manner.single
    assert not becomes_plainer(Manner(), refused(500), proven=True)


def test_a_first_answer_that_reads_on_brings_the_rest() -> None:
    manner = Manner()
    assert manner.becomes_plainer(refused(403), tied=False, proven=False, reads_on=True)
    assert (manner.whole, manner.single) == (False, True)


def test_beside_a_whole_nothing_is_asked_for_once_that_is_refused() -> None:
    manner = Manner(whole=True)
    assert becomes_plainer(manner, refused(403))
    assert manner.single
    assert not becomes_plainer(manner, refused(403)), "there is no plainer way"


@pytest.mark.parametrize("error", [ConnectionFailedError(URL, "broken"), StalledError(URL, 1)])
def test_connections_that_fail_say_nothing_about_ranges(error: TransferError) -> None:
    assert not Manner().becomes_plainer(error, tied=True, proven=False, last_try=True)


def test_a_refusal_may_be_the_answer() -> None:
    assert not becomes_plainer(Manner(settled=True), refused(404))


def test_a_manner_that_has_failed_is_not_new_when_it_is_come_to_again() -> None:
    manner = Manner()
    assert becomes_plainer(manner, refused(403))
    assert manner.untried
    assert becomes_plainer(manner, WHOLE)
    assert manner.single
    assert manner.untried
    # The plain GET fails.
    manner.ask_ranges_again()
    assert not manner.untried
    assert becomes_plainer(manner, refused(403))
    assert not manner.untried
    assert becomes_plainer(manner, WHOLE)
    assert manner.single
    assert not manner.untried
