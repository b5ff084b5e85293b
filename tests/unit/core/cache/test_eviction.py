from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.cache.eviction import (
    FRUITLESS_VICTIMS,
    Candidate,
    EvictionPriority,
    Gains,
    Goal,
    Group,
    batches,
    most_gain,
    total_size,
    victims,
)


def candidate(
    name: str,
    *,
    size: int = 10,
    used: int = 0,
    standing: EvictionPriority = EvictionPriority.IDLE,
    inode: int | None = None,
    names: int = 1,
) -> Candidate:
    return Candidate(name, size, used, standing, (1, hash(name) if inode is None else inode), names)


def leaving(candidates: list[Candidate], goal: Goal) -> list[str] | None:
    chosen = victims(candidates, goal)
    return None if chosen is None else [m.key for group in chosen for m in group.members]


def test_the_one_used_longest_ago_leaves_first_and_no_more_than_needed() -> None:
    there = [candidate("new", used=3), candidate("old", used=1), candidate("middle", used=2)]
    assert leaving(there, Goal(budget=11)) == ["old", "middle"]
    assert leaving(there, Goal(disk=10)) == ["old"]


def test_nobody_leaves_where_nothing_is_short() -> None:
    assert leaving([candidate("a")], Goal()) == []


def test_what_was_handed_out_leaves_after_all_else_and_what_was_just_handed_out_last() -> None:
    there = [
        candidate("just", used=9, standing=EvictionPriority.JUST_HANDED_OUT),
        candidate("out", used=1, standing=EvictionPriority.HANDED_OUT),
        candidate("older just", used=8, standing=EvictionPriority.JUST_HANDED_OUT),
        candidate("idle", used=100),
    ]
    assert leaving(there, Goal(budget=40)) == ["idle", "out", "older just", "just"]


def test_what_is_held_stays_and_if_that_is_too_much_all_stays() -> None:
    there = [candidate("held", used=0, standing=EvictionPriority.HELD), candidate("idle", used=5)]
    assert leaving(there, Goal(budget=10)) == ["idle"]
    assert leaving(there, Goal(budget=11)) is None


def test_names_of_one_inode_count_once_and_leave_together() -> None:
    there = [candidate("a", inode=7, names=2), candidate("b", inode=7, names=2, used=1)]
    assert total_size(there) == 10
    assert leaving(there, Goal(budget=1)) == ["a", "b"]
    assert leaving(there, Goal(budget=11)) is None


def test_an_inode_is_as_young_and_as_much_in_use_as_the_youngest_of_its_names() -> None:
    twin = candidate("twin", inode=7, names=2, used=9)
    there = [candidate("old", inode=7, names=2, used=1), twin, candidate("other", used=5)]
    assert leaving(there, Goal(budget=10)) == ["other"]
    held = [
        candidate("old", inode=7, used=1),
        candidate("pin", inode=7, standing=EvictionPriority.HELD),
    ]
    assert leaving(held, Goal(budget=10)) is None


def test_what_has_a_name_elsewhere_gives_the_disk_nothing_and_is_spared_where_that_is_short() -> (
    None
):
    there = [candidate("linked", used=1, names=2), candidate("alone", used=2)]
    assert leaving(there, Goal(disk=10)) == ["alone"]
    assert leaving(there, Goal(budget=10)) == ["linked"]
    assert most_gain(there) == Goal(budget=20, disk=10)


def test_both_goals_are_met() -> None:
    there = [
        candidate("linked", used=1, names=2),
        candidate("alone", used=2),
        candidate("new", used=3),
    ]
    assert leaving(there, Goal(budget=20, disk=10)) == ["linked", "alone"]


@given(
    st.lists(
        st.tuples(
            st.integers(1, 50),
            st.integers(0, 9),
            st.sampled_from(list(EvictionPriority)),
            st.integers(0, 5),
        ),
        max_size=12,
    ),
    st.integers(0, 200),
)
def test_the_choice_is_the_shortest_beginning_of_one_order(
    drawn: list[tuple[int, int, EvictionPriority, int]], needed: int
) -> None:
    there = [
        candidate(str(i), size=size, used=used, standing=standing, inode=i)
        for i, (size, used, standing, _) in enumerate(drawn)
    ]
    free = [c for c in there if c.standing is not EvictionPriority.HELD]
    chosen = victims(there, Goal(budget=needed))
    if sum(c.size for c in free) < needed:
        assert chosen is None
        return
    assert chosen is not None
    gone = [group.members[0] for group in chosen]
    assert sum(c.size for c in gone) >= needed
    assert not gone or sum(c.size for c in gone[:-1]) < needed
    ranks = [(c.standing, c.used) for c in gone]
    assert ranks == sorted(ranks)
    assert all(max(ranks, default=(0, 0)) <= (c.standing, c.used) for c in free if c not in gone)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 258, 259, 260, 1000])
def test_the_first_victims_are_taken_one_by_one_and_none_is_forgotten(number: int) -> None:
    chosen = [Group.of(candidate(str(i))) for i in range(number)]
    cut = batches(chosen, 256)
    assert [group for batch in cut for group in batch] == chosen
    assert all(len(batch) == 1 for batch in cut[:FRUITLESS_VICTIMS])
    assert all(batch for batch in cut)
    assert all(len(batch) <= 256 for batch in cut)


def test_three_victims_in_a_row_that_give_nothing_are_enough() -> None:
    gains = Gains()
    gains.took(10, 0)
    gains.took(10, 4)
    gains.took(10, 10)  # other writers may take half of it
    gains.took(10, 0)
    gains.took(0, 0)  # nothing was expected of it
    gains.took(10, 0)
    assert not gains.hopeless
    gains.took(10, -20)
    assert gains.hopeless
