"""What a process remembers of its cache nodes, and when it asks them again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.fleet.health import FIRST_PAUSE, LONGEST_PAUSE, NodeHealth

NODE = "node-0"


def lose(health: NodeHealth, now: float) -> bool:
    return health.lost(NODE, now, asked=now)


def test_a_node_that_is_not_known_yet_is_asked_by_all() -> None:
    health = NodeHealth()
    assert all(health.admits(NODE, 0.0) for _ in range(5))
    assert not health.is_down(NODE, 0.0)


def test_a_lost_node_is_left_alone_then_asked_by_one_request_until_that_is_answered() -> None:
    health = NodeHealth()
    lose(health, 100.0)
    assert health.is_down(NODE, 100.0)
    assert not health.admits(NODE, 100.0 + FIRST_PAUSE - 0.01)
    assert health.admits(NODE, 100.0 + FIRST_PAUSE)
    # What tries again has time to be answered: the node may be filling.
    assert not health.is_down(NODE, 102.0 + FIRST_PAUSE)
    assert health.is_down(NODE, 104.0 + FIRST_PAUSE)
    assert not health.admits(NODE, 100.0 + FIRST_PAUSE)
    health.answered(NODE)
    assert all(health.admits(NODE, 110.0) for _ in range(3))


def test_other_nodes_are_not_affected() -> None:
    health = NodeHealth()
    lose(health, 0.0)
    assert health.admits("node-1", 0.0)


def test_requests_that_fail_for_one_outage_count_once() -> None:
    health = NodeHealth()
    assert health.lost(NODE, 10.0, asked=9.0)
    assert not health.lost(NODE, 10.1, asked=9.5)
    assert not health.admits(NODE, 10.0 + FIRST_PAUSE - 0.01)
    assert health.admits(NODE, 10.0 + FIRST_PAUSE)


def test_the_pause_doubles_up_to_a_limit_and_an_answer_resets_it() -> None:
    health = NodeHealth()
    now, pauses = 0.0, []
    for _ in range(8):
        lose(health, now)
        begin = now
        while not health.admits(NODE, now):
            now += 1.0
        pauses.append(now - begin)
    assert pauses == [10, 20, 40, 80, 160, 320, 320, 320]
    health.answered(NODE)
    lose(health, now)
    assert health.admits(NODE, now + FIRST_PAUSE)


def test_a_trial_that_reports_nothing_does_not_bar_the_node_for_good() -> None:
    health = NodeHealth()
    lose(health, 0.0)
    assert health.admits(NODE, FIRST_PAUSE)
    assert health.admits(NODE, FIRST_PAUSE + 5.0)


def test_a_liar_is_not_asked_again_whatever_it_answers() -> None:
    health = NodeHealth()
    health.lied(NODE)
    health.answered(NODE)
    assert not health.admits(NODE, 1e9)
    assert health.is_down(NODE, 1e9)


def test_one_probe_at_a_time() -> None:
    health = NodeHealth()
    assert health.may_probe(NODE, 0.0)
    assert not health.may_probe(NODE, 0.5)
    health.probed(NODE)
    assert health.may_probe(NODE, 0.6)
    assert health.admits(NODE, 0.7)


@given(st.lists(st.tuples(st.floats(0, 50), st.sampled_from(["lost", "answered", "ask"]))))
def test_a_node_is_never_barred_for_longer_than_the_longest_pause(
    steps: list[tuple[float, str]],
) -> None:
    health, now = NodeHealth(), 0.0
    for pause, step in steps:
        now += pause
        if step == "lost":
            lose(health, now)
        elif step == "answered":
            health.answered(NODE)
        else:
            health.admits(NODE, now)
    assert health.admits(NODE, now + LONGEST_PAUSE)
