"""Figures as text for Prometheus.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Figure(NamedTuple):
    """One figure: `kind` is `gauge` or `counter`, `value` None for one that is not known."""

    name: str
    kind: str
    about: str
    value: float | None


def exposition(figures: Iterable[Figure]) -> str:
    """Return the text of a /metrics."""
    lines = []
    for each in figures:
        if each.value is not None:
            lines += [f"# HELP {each.name} {each.about}", f"# TYPE {each.name} {each.kind}"]
            lines.append(f"{each.name} {each.value:.16g}")
    return "".join(f"{line}\n" for line in lines)
