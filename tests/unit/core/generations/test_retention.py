"""Which generations may go, and which have to be there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.generations.retention import removable, wanted_numbers
from pgetpy.errors import UsageError


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ({"keep": 2}, [1, 2, 5]),
        ({"keep": 9}, []),
        ({"keep": 0}, [1, 2, 5, 7, 8]),
        ({"minimum": 5}, [1, 2]),
        ({"minimum": 99}, [1, 2, 5, 7, 8]),
        ({"keep": 1, "minimum": 5}, [1, 2]),
        ({"keep": 4, "minimum": 8}, [1]),
        ({"keep": 0, "latest": 2}, [1, 5, 7, 8]),
    ],
)
def test_what_a_rule_keeps_stays(rules: dict[str, int], gone: list[int]) -> None:
    assert removable([8, 1, 7, 2, 5], **rules) == gone


@given(st.sets(st.integers(0, 50)), st.integers(0, 5), st.integers(0, 50))
def test_no_rule_removes_what_another_keeps(numbers: set[int], keep: int, minimum: int) -> None:
    both = set(removable(numbers, keep=keep, minimum=minimum))
    assert both == set(removable(numbers, keep=keep)) & set(removable(numbers, minimum=minimum))


@pytest.mark.parametrize(
    ("present", "minimum", "maximum", "wanted"),
    [
        ([], None, None, []),
        ([3, 6], None, None, [6]),
        ([3, 6], 6, None, [6]),
        ([3, 6], 5, None, [5, 6]),
        ([3, 6], 8, None, [8]),
        ([3, 6], None, 7, [7]),
        ([3, 6], 0, 1, [0, 1]),
        ([], 2, None, [2]),
    ],
)
def test_the_wanted_numbers_are_a_range(
    present: list[int], minimum: int | None, maximum: int | None, wanted: list[int]
) -> None:
    assert list(wanted_numbers(present, minimum, maximum)) == wanted


@pytest.mark.parametrize(("minimum", "maximum"), [(7, 6), (0, 10**12)])
def test_an_empty_or_endless_range_is_refused(minimum: int, maximum: int) -> None:
    with pytest.raises(UsageError):
        wanted_numbers([], minimum, maximum)
