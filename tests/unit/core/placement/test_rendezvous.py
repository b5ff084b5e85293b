from __future__ import annotations

from collections import Counter

from pgetpy.core.placement.rendezvous import ranked

URL = "https://example.com/model.safetensors"
PLACED = [
    ["10.0.0.1", "[::1]", "10.0.0.2:8080"],
    ["[::1]", "10.0.0.1", "10.0.0.2:8080"],
    ["10.0.0.1", "[::1]", "10.0.0.2:8080"],
]
NAMES = [f"node-{number}.example.com:8080" for number in range(20)]


def test_the_choice_does_not_depend_on_the_order_of_the_list() -> None:
    assert ranked(URL, 5, NAMES, 4) == ranked(URL, 5, NAMES[::-1], 4)


def test_a_placement_never_changes() -> None:
    # Caches are shared with other versions: another function would empty them.
    names = ["10.0.0.1", "10.0.0.2:8080", "[::1]"]
    assert [ranked(URL, piece, names, 3) for piece in range(3)] == PLACED


def test_a_node_that_leaves_moves_only_its_own_pieces_to_their_second_choice() -> None:
    lost = NAMES[7]
    left = [name for name in NAMES if name != lost]
    for piece in range(300):
        first, second, *_ = ranked(URL, piece, NAMES, 4)
        assert ranked(URL, piece, left, 1) == [second if first == lost else first]


def test_pieces_spread_over_all_nodes() -> None:
    counts = Counter(ranked(URL, piece, NAMES, 1)[0] for piece in range(4000))
    assert len(counts) == 20
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_the_pieces_of_a_lost_node_spread_over_the_others() -> None:
    lost = NAMES[0]
    heirs = Counter(
        second
        for piece in range(4000)
        for first, second in [ranked(URL, piece, NAMES, 2)]
        if first == lost
    )
    assert len(heirs) == 19


def test_there_are_no_more_choices_than_nodes() -> None:
    assert (ranked(URL, 0, NAMES[:2], 4), ranked(URL, 0, [], 4)) == (
        ranked(URL, 0, NAMES[:2], 2),
        [],
    )
