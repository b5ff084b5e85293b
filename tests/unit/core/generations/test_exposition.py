"""Figures as Prometheus reads them."""

from __future__ import annotations

from pgetpy.core.generations.exposition import Figure, exposition


def test_figures_are_lines_with_their_kind() -> None:
    text = exposition(
        [
            Figure("pgetpy_ready", "gauge", "Whether it is.", True),
            Figure("pgetpy_built_total", "counter", "How many.", 1_700_000_000.25),
        ]
    )
    assert text == (
        "# HELP pgetpy_ready Whether it is.\n"
        "# TYPE pgetpy_ready gauge\n"
        "pgetpy_ready 1\n"
        "# HELP pgetpy_built_total How many.\n"
        "# TYPE pgetpy_built_total counter\n"
        "pgetpy_built_total 1700000000.25\n"
    )


def test_what_is_not_known_is_left_out() -> None:
    assert exposition([Figure("pgetpy_latest", "gauge", "The number.", None)]) == ""
