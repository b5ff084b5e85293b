"""Which pipelines on disk go when they keep too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.pipelines.tree_eviction import TreeUse, kept_bytes, trees_to_remove

# A file has one size in every tree that keeps it.
FILES = st.sets(st.integers(1, 6)).map(lambda found: {(0, each): each * 10 for each in found})
TREES = st.lists(
    st.builds(
        TreeUse, st.text("abcdef", min_size=4, max_size=4), st.integers(0, 9), FILES, st.booleans()
    ),
    max_size=6,
    unique_by=lambda tree: tree.key,
)


@given(TREES, st.integers(0, 250))
def test_the_budget_is_met_unless_trees_in_use_exceed_it(trees: list[TreeUse], most: int) -> None:
    gone = set(trees_to_remove(trees, most))
    kept = [tree for tree in trees if tree.key not in gone]
    held = [tree for tree in trees if tree.held]
    assert all(tree in kept for tree in held)
    assert kept_bytes(kept) <= max(most, kept_bytes(held))


@given(TREES, st.integers(0, 250))
def test_nothing_goes_for_nothing(trees: list[TreeUse], most: int) -> None:
    gone = trees_to_remove(trees, most)
    kept = [tree for tree in trees if tree.key not in gone]
    for tree in trees:
        if tree.key in gone:
            again = kept_bytes([*kept, tree])
            assert again > most
            assert again > kept_bytes(kept)


def test_the_least_recently_used_goes_first() -> None:
    trees = [TreeUse("old", 1, {(0, 1): 10}), TreeUse("new", 2, {(0, 2): 10})]
    assert trees_to_remove(trees, 10) == ["old"]


def test_a_tree_whose_files_another_one_keeps_stays() -> None:
    shared = {(0, 1): 10}
    trees = [
        TreeUse("old", 1, shared),
        TreeUse("middle", 2, {(0, 2): 5}),
        TreeUse("used", 3, shared, held=True),
    ]
    assert trees_to_remove(trees, 10) == ["middle"]
