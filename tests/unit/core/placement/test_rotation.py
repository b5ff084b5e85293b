from __future__ import annotations

from collections import Counter

from pgetpy.core.placement.rotation import starting_piece

URL = "https://example.com/x"


def test_machines_begin_at_different_pieces() -> None:
    counts = Counter(starting_piece(f"host-{number}", URL, 50) for number in range(1000))
    assert len(counts) == 50
    assert max(counts.values()) < 50


def test_a_machine_begins_each_object_elsewhere_and_each_time_alike() -> None:
    starts = {starting_piece("a", f"{URL}/{number}", 100) for number in range(50)}
    assert len(starts) > 20
    assert starting_piece("a", URL, 100) == starting_piece("a", URL, 100)


def test_an_object_of_one_piece_or_unknown_size_begins_at_its_beginning() -> None:
    assert [starting_piece("a", URL, pieces) for pieces in (0, 1)] == [0, 0]
