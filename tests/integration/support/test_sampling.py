"""A run of the whole suite leaves rows of long tables to `make soak`, and no test altogether."""

from __future__ import annotations

from itertools import product

from tests.support.sampling import LONG, left_out


def rows(count: int) -> list[str]:
    return [f"tests/test_a.py::test_a[{number}]" for number in range(count)]


def test_a_third_of_a_long_table_is_run() -> None:
    assert len(left_out(rows(LONG))) == LONG - LONG // 3
    assert len(left_out(rows(101))) == 67
    assert left_out(rows(101)) < set(rows(101))


def test_a_short_table_and_a_single_test_are_run_whole() -> None:
    assert left_out([*rows(LONG - 1), "tests/test_a.py::test_b"]) == set()


def test_of_two_tables_that_are_crossed_both_rows_of_the_short_one_are_run() -> None:
    crossed = [f"test_a.py::test_a[{one}-{two}]" for one, two in product("abcdefgh", ("x", "y"))]
    run = set(crossed) - left_out(crossed)
    assert {name[-2] for name in run} == {"x", "y"}


def test_every_process_leaves_out_the_same() -> None:
    assert left_out(rows(50)) == left_out(reversed(rows(50)))
