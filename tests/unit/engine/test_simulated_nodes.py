"""Cache nodes that fail in every combination, on a clock that jumps: what that costs in seconds,
requests and pieces that are fetched twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.virtual_fleet import NodeLine, VirtualFleet

MIB = 1 << 20
TOTAL = 400 * MIB
# Seconds that one lost node may cost in all.
MOST = 5.0
LOSSES = {
    "gone before": NodeLine(lost_at=0.0),
    "stopped before": NodeLine(lost_at=0.0, stopped=True),
    "cable out": NodeLine(lost_at=1.0),
    "stopped": NodeLine(lost_at=1.0, stopped=True),
    "breaks": NodeLine(breaks=MIB),
    "refuses": NodeLine(status=503),
}


def fetched(*nodes: NodeLine, total: int = TOTAL, times: int = 1) -> VirtualFleet:
    fleet = VirtualFleet(total, list(nodes))
    fleet.transfer(times)
    return fleet


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_node_of_several_costs_a_few_seconds(loss: str, count: int) -> None:
    usual = fetched(*[NodeLine()] * count)
    fleet = fetched(LOSSES[loss], *[NodeLine()] * (count - 1))
    assert "origin" not in fleet.sources
    assert fleet.seconds <= usual.seconds + MOST


@pytest.mark.parametrize("stopped", [False, True])
def test_a_dead_node_costs_one_time_out_a_process(stopped: bool) -> None:
    dead = NodeLine(lost_at=0.0, stopped=stopped)
    once = fetched(dead, NodeLine(), NodeLine())
    twice = fetched(dead, NodeLine(), NodeLine(), times=2)
    # Requests that are under way when the first fails have been made by then.
    assert once.connected["10.0.0.1"] <= 8
    # It is tried again after ten seconds, by one request.
    assert twice.connected["10.0.0.1"] <= once.connected["10.0.0.1"] + 1


@pytest.mark.parametrize("fill", [0.0, pytest.param(1.0, marks=pytest.mark.soak), 4.0])
def test_a_node_that_comes_back_is_used_again(fill: float) -> None:
    slow = NodeLine(rate=2e6, fill=fill)
    back = NodeLine(rate=2e6, fill=fill, lost_at=1.0, back_at=8.0)
    fleet = fetched(back, slow, total=1200 * MIB)
    # In a second it had delivered a few megabytes.
    assert fleet.sources["10.0.0.1"] > 100 * MIB


def test_a_piece_is_asked_of_one_node_however_long_it_takes_to_fill() -> None:
    fleet = fetched(*[NodeLine(fill=8.0)] * 3, total=100 * MIB)
    pieces = {piece for _, piece in fleet.asked}
    for piece in pieces:
        assert len([name for name, at in fleet.asked if at == piece]) == 1
    assert "origin" not in fleet.sources


def test_a_node_that_never_fills_is_left_at_last() -> None:
    fleet = fetched(NodeLine(fill=1e9), NodeLine(), total=100 * MIB)
    assert set(fleet.sources) == {"10.0.0.2"}
    assert fleet.seconds < 120


def test_without_any_node_the_origin_is_asked() -> None:
    fleet = fetched(*[NodeLine(lost_at=0.0)] * 3, total=100 * MIB)
    assert set(fleet.sources) == {"origin"}


LINES = st.builds(
    NodeLine,
    latency=st.sampled_from([0.001, 0.05, 0.5]),
    rate=st.sampled_from([5e6, 20e6, 200e6]),
    fill=st.sampled_from([0.0, 0.0, 1.0, 5.0]),
    lost_at=st.one_of(st.just(float("inf")), st.floats(0, 10)),
    stopped=st.booleans(),
    breaks=st.sampled_from([float("inf"), float("inf"), 3e6]),
    status=st.sampled_from([0, 0, 0, 404, 500, 503]),
)


@given(st.lists(LINES, min_size=1, max_size=6), st.integers(1, 300 * MIB))
def test_all_bytes_arrive_whatever_the_nodes_do(nodes: list[NodeLine], total: int) -> None:
    fleet = fetched(*nodes, total=total)
    assert sum(fleet.sources.values()) >= total
    # The slowest way: one connection after another by the slowest node, each filled, each lost.
    assert fleet.seconds < 400
