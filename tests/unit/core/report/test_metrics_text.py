"""Prometheus' text format, judged by prometheus_client's parser where that is installed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.report.metrics_text import (
    HEAD,
    METRICS,
    MOST_LABELS,
    OTHERS,
    Series,
    added,
    metrics_text,
    parse_metrics,
)

BYTES = "pgetpy_received_bytes_total"
DOWN = "pgetpy_node_down"
LABELS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), max_size=20)
NUMBERS = st.integers(0, 2**53) | st.floats(0, 1e12)


@st.composite
def samples(draw: st.DrawFn) -> dict[Series, float]:
    names = draw(st.lists(st.sampled_from(sorted(METRICS)), max_size=8))
    return {(name, draw(LABELS) if METRICS[name].label else ""): draw(NUMBERS) for name in names}


@given(samples())
def test_what_is_written_is_read_back(found: dict[Series, float]) -> None:
    read = parse_metrics(metrics_text(found))
    assert read is not None
    assert read.keys() == found.keys()
    assert all(read[each] == pytest.approx(found[each], rel=1e-12) for each in found)


@given(samples())
def test_the_parser_of_prometheus_reads_the_same(found: dict[Series, float]) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(metrics_text(found)))
    read = {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
    }
    assert read == {each: pytest.approx(value, rel=1e-12) for each, value in found.items()}
    assert all(
        (family.type, family.documentation)
        == (METRICS[family.samples[0].name].kind, METRICS[family.samples[0].name].about)
        for family in families
    )


def test_counters_add_up_and_gauges_are_replaced() -> None:
    before = {(BYTES, "origin"): 5.0, (DOWN, "a"): 1.0}
    after = added(before, {(BYTES, "origin"): 2, (BYTES, "a"): 3, (DOWN, "a"): 0})
    assert after == {(BYTES, "origin"): 7, (BYTES, "a"): 3, (DOWN, "a"): 0}


def test_labels_are_bounded() -> None:
    many: dict[Series, float] = {(BYTES, f"host-{at}"): 1 for at in range(MOST_LABELS + 30)}
    after = added({}, many)
    assert len(after) == MOST_LABELS + 1
    assert after[BYTES, OTHERS] == 30


def test_a_file_of_another_program_is_told_from_ours() -> None:
    assert parse_metrics("# HELP x y\nx 1\n") is None
    assert parse_metrics("") == {}
    assert parse_metrics(f'{HEAD}\nx 1\n{BYTES} nonsense\n{BYTES}{{source="a"}} 2\n') == {
        (BYTES, "a"): 2
    }
