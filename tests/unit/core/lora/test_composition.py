"""Steps from any composition to any other, carried out on a list of names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.lora.composition import Abilities, Steps, steps, sums

NAMES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)
ABILITIES = st.builds(Abilities, st.booleans(), st.booleans())


@given(
    wishes=st.lists(NAMES, max_size=8),
    keep=st.integers(0, 3),
    can=ABILITIES,
    altering=st.frozensets(st.sampled_from("abcdef"), max_size=2),
)
def test_any_way_through_compositions_ends_right(
    wishes: list[list[str]], keep: int, can: Abilities, altering: frozenset[str]
) -> None:
    loaded: tuple[str, ...] = ()
    for wanted in wishes:
        plan = steps(loaded, wanted, keep=keep, can=can, altering=altering)
        there = [] if plan.unload else list(loaded)
        # What changes the base is loaded into the base itself, in the order of the slots.
        assert not there or not set(plan.load) & altering
        for name in plan.load:
            assert name not in there
            there.append(name)
        assert set(wanted) <= set(there)
        for name in plan.delete:
            assert can.delete
            there.remove(name)
        assert set(there) == set(plan.loaded)
        idle = set(there) - set(wanted)
        assert len(idle) <= keep
        assert not (idle & altering)
        assert [name for name in there if name in altering] == [
            name for name in wanted if name in altering
        ]
        if not wanted and there:
            assert can.disable
        loaded = plan.loaded


@given(loaded=NAMES, keep=st.integers(0, 5))
def test_what_is_kept_was_used_last_and_is_used_last_from_now_on(
    loaded: list[str], keep: int
) -> None:
    plan = steps(loaded, ["x"], keep=keep, can=Abilities(delete=True, disable=True))
    assert plan.loaded == (*loaded[max(0, len(loaded) - keep) :], "x")


def test_what_is_as_it_should_be_needs_no_step() -> None:
    can = Abilities(delete=True, disable=True)
    assert steps(["a", "b"], ["b"], keep=1, can=can) == Steps(False, (), (), ("a", "b"))


def test_scales_of_the_same_name_are_added_where_it_stands_first() -> None:
    assert sums([("a", 0.5), ("b", 1.0), ("a", 0.25)]) == (("a", 0.75), ("b", 1.0))
    assert sums([]) == ()
