"""Which pipelines leave memory when they take too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.pipelines.memory import (
    MemoryBudget,
    MemorySize,
    MemoryUse,
    Storage,
    pipelines_to_drop,
    taken_by,
)

# A storage has one size in every pipeline that has it.
STORAGES = st.sets(st.tuples(st.sampled_from(["cpu", "cuda:0", "cuda:1"]), st.integers(1, 4))).map(
    lambda found: {Storage(*each): each[1] * 10 for each in found}
)
USES = st.lists(
    st.builds(MemoryUse, st.text("abcdef", min_size=4, max_size=4), STORAGES, st.booleans()),
    max_size=6,
    unique_by=lambda use: use.key,
)
BUDGETS = st.builds(MemoryBudget, st.none() | st.integers(0, 150), st.none() | st.integers(0, 150))


def cpu(*addresses: int) -> dict[Storage, int]:
    return {Storage("cpu", each): 10 for each in addresses}


@given(USES, BUDGETS)
def test_budgets_are_met_unless_pipelines_in_use_exceed_them(
    uses: list[MemoryUse], budget: MemoryBudget
) -> None:
    gone = pipelines_to_drop(uses, budget)
    kept = [use for use in uses if use.key not in gone]
    held = [use for use in uses if use.held]
    assert all(use in kept for use in held)
    for taken, least, most in zip(taken_by(kept), taken_by(held), budget, strict=True):
        assert most is None or taken <= max(most, least)


@given(USES, BUDGETS)
def test_nothing_is_dropped_for_nothing(uses: list[MemoryUse], budget: MemoryBudget) -> None:
    gone = pipelines_to_drop(uses, budget)
    kept = [use for use in uses if use.key not in gone]
    for use in uses:
        if use.key in gone:
            again = taken_by([*kept, use])
            assert any(
                most is not None and there > most and there > before
                for there, before, most in zip(again, taken_by(kept), budget, strict=True)
            )


def test_the_least_recently_used_is_dropped_first() -> None:
    uses = [MemoryUse(name, cpu(at)) for at, name in enumerate("abc")]
    assert pipelines_to_drop(uses, MemoryBudget(host=20)) == ["a"]
    assert pipelines_to_drop(uses, MemoryBudget(host=20), MemorySize(host=10)) == ["a", "b"]


def test_the_host_and_gpus_are_counted_apart() -> None:
    uses = [MemoryUse("host", cpu(1, 2)), MemoryUse("gpu", {Storage("cuda:0", 1): 50})]
    assert taken_by(uses) == (20, 50)
    assert pipelines_to_drop(uses, MemoryBudget(host=0)) == ["host"]
    assert pipelines_to_drop(uses, MemoryBudget(gpu=0)) == ["gpu"]
    assert pipelines_to_drop(uses, MemoryBudget()) == []


def test_shared_storages_count_once_and_go_with_the_last_that_has_them() -> None:
    uses = [MemoryUse("a", cpu(1, 2)), MemoryUse("b", cpu(1, 2)), MemoryUse("c", cpu(3))]
    assert taken_by(uses) == (30, 0)
    assert pipelines_to_drop(uses, MemoryBudget(host=30)) == []
    assert pipelines_to_drop(uses[:2], MemoryBudget(host=10)) == ["a", "b"]
