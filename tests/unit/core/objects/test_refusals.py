"""What a store's refusal teaches."""

from __future__ import annotations

import pytest

from pgetpy.core.http.heads import Head
from pgetpy.core.objects.refusals import SKEWED, read_refusal

DATE = "Thu, 01 Jan 1970 00:20:00 GMT"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RequestTimeTooSkewed", ""),
        # rclone, for a clock that is behind.
        (
            "AccessDenied",
            "The difference between the request time and the server's time exceeds the maximum.",
        ),
    ],
)
def test_a_wrong_clock_is_told_by_code_or_message(code: str, message: str) -> None:
    head = Head(403, {"date": DATE}, details={"Code": code, "Message": message})
    refusal = read_refusal(head)
    assert refusal.code in SKEWED
    assert refusal.date == 1200.0
    other = read_refusal(Head(403, {}, details={"Code": "AccessDenied", "Message": "no"}))
    assert other.code == "AccessDenied"
