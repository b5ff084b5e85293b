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
    """The file that this process counts into; in the end one that is in nobody's way."""
    yield tmp_path / "pgetpy.prom"
    METRICS_FILE.write_to(str(tmp_path / "unused.prom"))


def test_nodes_have_requests_failures_and_a_state(
    fleet: Fleet, metrics: Path, tmp_path: Path
) -> None:
    sound, refusing, dead = fleet.nodes
    refusing.change(PATH, faults=[Status(500)])
    dead.stop()
    fleet.fetch(tmp_path / "got", metrics_file=str(metrics))
    METRICS_FILE.flush()
    found = parse_metrics(metrics.read_text()) or {}
    assert (tmp_path / "got").read_bytes() == BODY
    asked = len(sound.seen(PATH))
    assert found["pgetpy_node_requests_total", fleet.name(sound)] == asked
    assert found["pgetpy_received_bytes_total", fleet.name(sound)] == sound.sent(PATH)
    assert ("pgetpy_node_failures_total", fleet.name(sound)) not in found
    refused = found["pgetpy_node_failures_total", fleet.name(refusing)]
    assert refused == found["pgetpy_node_requests_total", fleet.name(refusing)]
    assert refused == len(refusing.seen(PATH))
    assert found["pgetpy_node_failures_total", fleet.name(dead)] >= 1
    states = {name: value for (metric, name), value in found.items() if metric.endswith("_down")}
    assert (states[fleet.name(sound)], states[fleet.name(dead)]) == (0, 1)
