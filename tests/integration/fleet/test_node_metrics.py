"""What the file of --metrics-file says of cache nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.core.report.metrics_text import parse_metrics
from pgetpy.system.metrics_file import METRICS_FILE
from tests.support.faults import Status
from tests.support.fleet import BODY, PATH, Fleet


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Path]:
    """The file that this process counts into; afterwards it is one that no test reads."""
    yield tmp_path / "pgetpy.prom"
    METRICS_FILE.write_to(str(tmp_path / "unused.prom"))


def counted(fleet: Fleet, metrics: Path, dest: Path) -> dict[tuple[str, str], float]:
    fleet.fetch(dest, metrics_file=str(metrics))
    METRICS_FILE.flush()
    assert dest.read_bytes() == BODY
    return parse_metrics(metrics.read_text()) or {}


def test_a_node_that_refuses_has_failures_and_is_up(
    fleet: Fleet, metrics: Path, tmp_path: Path
) -> None:
    refusing, *others = fleet.nodes
    refusing.change(PATH, faults=[Status(500)])
    found = counted(fleet, metrics, tmp_path / "got")
    asked = len(refusing.seen(PATH))
    assert found["pgetpy_node_requests_total", fleet.name(refusing)] == asked > 0
    assert found["pgetpy_node_failures_total", fleet.name(refusing)] == asked
    assert found.get(("pgetpy_node_down", fleet.name(refusing)), 0) == 0
    for node in others:
        name = fleet.name(node)
        assert found.get(("pgetpy_node_requests_total", name), 0) == len(node.seen(PATH))
        assert found.get(("pgetpy_received_bytes_total", name), 0) == node.sent(PATH)
        assert ("pgetpy_node_failures_total", name) not in found


def test_a_node_that_is_dead_is_down(fleet: Fleet, metrics: Path, tmp_path: Path) -> None:
    dead, *others = fleet.nodes
    dead.stop()
    found = counted(fleet, metrics, tmp_path / "got")
    assert found["pgetpy_node_failures_total", fleet.name(dead)] >= 1
    assert found["pgetpy_node_down", fleet.name(dead)] == 1
    states = [found.get(("pgetpy_node_down", fleet.name(node)), 0) for node in others]
    assert states == [0] * len(others)
