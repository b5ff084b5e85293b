"""Plans of objects that come from cache nodes: ranges within pieces, a start of one's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.fleet.piece_plan import PiecePlan
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.range_request import RangeRequest, Window
from pgetpy.core.http.ranges import Span, Spans

PIECE = 20_000


def plan_of(total: int, *, first_piece: int = 0, held: Spans | None = None) -> PiecePlan:
    made = Plan(chunk_size=1 << 30, first=1000, open_ended=True, held=held)
    plan = PiecePlan.of(made, PIECE)
    plan.total = total
    plan.first_piece = first_piece
    return plan


def land(plan: PiecePlan, part: RangeRequest) -> None:
    part.pos = part.stop or 0
    plan.end(part)


def take_all(plan: PiecePlan, rate: float = 1e6, connections: int = 4) -> list[Span]:
    taken = []
    while not plan.complete:
        part = plan.take(0.0, rate, connections)
        assert part is not None, "nothing is asked for although bytes are missing"
        assert part.stop is not None
        taken.append(Span(part.start, part.stop))
        land(plan, part)
    return taken


@given(
    st.integers(1, 500_000),
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 500_000), st.integers(1, 50_000)), max_size=4),
)
def test_ranges_cover_all_that_is_missing_once_and_cross_no_border(
    total: int, first_piece: int, held: list[tuple[int, int]]
) -> None:
    spans = Spans(Span(min(a, total), min(a + n, total)) for a, n in held)
    plan = plan_of(total, first_piece=first_piece, held=Spans(spans))
    asked = take_all(plan)
    assert sum(span.size for span in asked) == total - spans.size
    assert all(span.start // PIECE == (span.stop - 1) // PIECE for span in asked)
    assert all(not spans.overlaps(*span) for span in asked)


def test_a_file_begins_at_its_first_piece_and_ends_before_it() -> None:
    asked = take_all(plan_of(5 * PIECE, first_piece=3), rate=1e9)
    pieces = list(dict.fromkeys(span.start // PIECE for span in asked))
    assert pieces == [3, 4, 0, 1, 2]


def test_what_is_read_in_order_begins_at_its_horizon() -> None:
    plan = plan_of(5 * PIECE, first_piece=3)
    plan.window = Window(size=2 * PIECE)
    part = plan.take(0.0, 1e6, 4)
    assert part is not None
    assert part.start == 0


def test_the_first_request_asks_for_no_more_than_its_piece_and_does_not_read_on() -> None:
    made = Plan(chunk_size=1 << 30, first=3 * PIECE, open_ended=True)
    probe = PiecePlan.of(made, PIECE).probe(0.0)
    assert (probe.start, probe.stop, probe.reads_on) == (0, PIECE, False)


def test_a_blocked_piece_is_passed_over_until_it_is_not_blocked() -> None:
    plan = plan_of(3 * PIECE)
    part = plan.take(0.0, 1e9, 1)
    assert part is not None
    plan.take_back(part)
    following = plan.take(0.0, 1e9, 1)
    assert following is not None
    assert following.start == PIECE
    plan.blocked.clear()
    again = plan.take(0.0, 1e9, 1)
    assert again is not None
    assert again.start == 0


def test_a_late_answer_is_not_asked_for_a_second_time() -> None:
    plan = plan_of(PIECE)
    for _ in range(8):
        plan.latency.add(0.01)
    part = plan.take(0.0, 1e9, 1)
    assert part is not None
    for look in range(1, 41):
        part.meter.observe(look * 0.05, part.pos, waiting=True)
    assert plan.take(2.0, 1e9, 1) is None
    plan.piece = None
    twin = plan.take(2.0, 1e9, 1)
    assert twin is not None
    assert twin.again
