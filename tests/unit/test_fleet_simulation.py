"""The simulation of fleets: its figures for dead nodes, and that its page can be made."""

from __future__ import annotations

import random

from scripts.fleet_simulation import (
    Fleet,
    moves,
    page,
    pget_with_dead_nodes,
    with_dead_nodes,
)

URL = "https://weights.example.com/model-0.safetensors"
PIECES = 400
# One of those in which both nodes that pget asks for some piece are dead.
SEED = 1


def test_five_in_a_hundred_dead_nodes_cost_the_origin_next_to_nothing() -> None:
    fleet = Fleet(nodes=1000, clients=1000)
    dead = set(random.Random(SEED).sample(range(fleet.nodes), 50))
    by_index, by_name = fleet.by_index(URL, PIECES), fleet.by_name(URL, PIECES)
    outcomes = [with_dead_nodes(fleet, each, dead) for each in (by_index, by_name)]
    assert all(1 <= each.origin_fetches <= 1.01 for each in outcomes)
    # One time-out for each dead node at most, and a few that try whether one is back.
    assert all(each.time_outs <= 1.2 * fleet.clients * len(dead) for each in outcomes)
    assert pget_with_dead_nodes(fleet, by_index, dead).origin_fetches > 2


def test_without_dead_nodes_each_piece_is_fetched_once() -> None:
    fleet = Fleet(nodes=20, clients=5)
    outcome = with_dead_nodes(fleet, fleet.by_name(URL, 50), set())
    assert (outcome.origin_fetches, outcome.time_outs) == (1, 0)


def test_where_all_nodes_are_dead_every_client_asks_the_origin() -> None:
    fleet = Fleet(nodes=20, clients=5)
    outcome = with_dead_nodes(fleet, fleet.by_name(URL, 50), set(range(20)))
    assert outcome.origin_fetches == 5


def test_by_name_only_the_pieces_of_a_node_that_leaves_move() -> None:
    found = moves(Fleet(nodes=20, clients=1), 400)
    moved, least = found["by name"]
    assert moved == least > 0
    assert (
        found["by index, with a hole in its place"][0]
        == found["by index, with a hole in its place"][1]
    )
    assert found["by index, the list closes up"][0] > 0.3


def test_the_page_has_all_tables() -> None:
    text = page(Fleet(nodes=20, clients=5), 2_000_000_000)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Piece size and load", "## A node leaves", "## Dead nodes",
    ]  # fmt: skip
    assert "| 5% |" in text
