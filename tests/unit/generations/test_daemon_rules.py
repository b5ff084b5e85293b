"""Which locks a daemon builds: those that it would not prune afterwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.generations.retention import removable
from pgetpy.generations import DaemonRules

NUMBERS = st.one_of(st.none(), st.integers(0, 12))


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        (DaemonRules(), [1, 2, 5, 7]),
        (DaemonRules(keep=2), [5, 7]),
        (DaemonRules(keep=2, maximum=5), [2, 5]),
        (DaemonRules(minimum=5), [5, 7]),
        (DaemonRules(minimum=5, keep=3), [2, 5, 7]),
        (DaemonRules(maximum=0), []),
    ],
)
def test_locks_are_chosen_by_number(rules: DaemonRules, wanted: list[int]) -> None:
    assert rules.wanted({7, 1, 2, 5}) == wanted


@given(st.sets(st.integers(0, 12)), NUMBERS, NUMBERS, NUMBERS)
def test_what_is_built_is_not_pruned(
    numbers: set[int], minimum: int | None, maximum: int | None, keep: int | None
) -> None:
    rules = DaemonRules(minimum, maximum, keep)
    built = rules.wanted(numbers)
    if rules.prunes:
        assert removable(built, keep=keep, minimum=minimum) == []
