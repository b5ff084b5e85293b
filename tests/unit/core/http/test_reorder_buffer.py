"""What waits comes out whole, in order and once, however it was cut and repeated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.http.reorder_buffer import ReorderBuffer

BODY = bytes(range(200))
CUTS = st.tuples(st.integers(0, 199), st.integers(0, 199)).map(sorted)


@given(st.lists(CUTS, max_size=30), st.integers(0, 200))
def test_what_waited_comes_out_once_up_to_the_first_hole(cuts: list[list[int]], first: int) -> None:
    waiting = ReorderBuffer()
    for start, stop in [*cuts, (0, first)]:
        waiting.keep(start, memoryview(BODY)[start:stop])
    got = b""
    while (piece := waiting.take(len(got))) is not None:
        assert piece[0] == len(got)
        got += piece[1]
    there = {pos for start, stop in [*cuts, (0, first)] for pos in range(start, stop)}
    assert got == BODY[: next(pos for pos in range(201) if pos not in there)]
