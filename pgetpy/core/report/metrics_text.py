"""Counts of a machine in Prometheus' text format, as node exporter's textfile collector reads it.

The format is that of prometheus.io/docs/instrumenting/exposition_formats. All processes of a
machine add to one file: node exporter refuses two files that hold the same series, and a process
that replaced the file at its end would take away what others have counted since the last scrape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

HEAD = "# Written by pgetpy, see --metrics-file. All processes of this machine add to it."
# Hosts of mirrors and names of pods come and go; further ones are counted together.
MOST_LABELS = 200
OTHERS = "other"

_SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)(?:\{[a-z]+="(?P<label>(?:[^"\\]|\\.)*)"\})? (?P<value>[0-9.e+-]+)'
)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


@dataclass(frozen=True)
class Metric:
    """A row of METRICS: `kind` is counter or gauge; `label` is empty if there is one series."""

    kind: str
    label: str
    about: str


METRICS: Mapping[str, Metric] = {
    "pgetpy_transfers_total": Metric(
        "counter", "result", "Transfers that have ended: ok or failed."
    ),
    "pgetpy_received_bytes_total": Metric(
        "counter",
        "source",
        "Bytes of finished transfers by where they came from: origin, a cache node, a mirror, or "
        "remote for a cache's second tier.",
    ),
    "pgetpy_transfer_seconds_total": Metric(
        "counter", "", "Wall-clock time of finished transfers; parallel ones add up."
    ),
    "pgetpy_last_transfer_timestamp_seconds": Metric(
        "gauge", "", "When a transfer last ended well, in seconds since 1970."
    ),
    "pgetpy_cache_requests_total": Metric(
        "counter", "result", "Requests for objects in the cache: hit, or miss."
    ),
    "pgetpy_cache_evictions_total": Metric("counter", "", "Entries evicted from the cache."),
    "pgetpy_cache_evicted_bytes_total": Metric("counter", "", "Bytes evicted from the cache."),
    "pgetpy_node_requests_total": Metric("counter", "node", "Requests to a cache node."),
    "pgetpy_node_failures_total": Metric(
        "counter", "node", "Requests to a cache node that failed, or were answered wrongly."
    ),
    "pgetpy_node_down": Metric(
        "gauge", "node", "1 if the process that asked last found the cache node down, else 0."
    ),
}

# A series: the metric's name and the value of its label, which is empty if it has none.
Series = tuple[str, str]


def added(before: Mapping[Series, float], changes: Mapping[Series, float]) -> dict[Series, float]:
    """Return `before` with counters raised by `changes`, and gauges replaced."""
    after = dict(before)
    for (name, label), value in changes.items():
        series = name, label
        if series not in after and sum(each == name for each, _ in after) >= MOST_LABELS:
            series = name, OTHERS
        counts = METRICS[name].kind == "counter"
        after[series] = after.get(series, 0) + value if counts else value
    return after


def metrics_text(samples: Mapping[Series, float]) -> str:
    """Return the text of a file with these samples."""
    return "\n".join(_lines(samples)) + "\n"


def parse_metrics(text: str) -> dict[Series, float] | None:
    """Return the samples of a file that `metrics_text` has written; None if another program has.

    What is not ours in it, such as metrics of a later version, is left out.
    """
    if not text.strip():
        return {}
    head, _, rest = text.partition("\n")
    if head != HEAD:
        return None
    samples: dict[Series, float] = {}
    for line in rest.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is not None and found["name"] in METRICS:
            value = _number(found["value"])
            if value is not None:
                samples[found["name"], _unescaped(found["label"] or "")] = value
    return samples


def _lines(samples: Mapping[Series, float]) -> Iterator[str]:
    yield HEAD
    for name, metric in METRICS.items():
        rows = sorted((label, value) for (each, label), value in samples.items() if each == name)
        if not rows:
            continue
        yield f"# HELP {name} {metric.about}"
        yield f"# TYPE {name} {metric.kind}"
        for label, value in rows:
            escaped = "".join(_ESCAPES.get(char, char) for char in label)
            labels = f'{{{metric.label}="{escaped}"}}' if metric.label else ""
            yield f"{name}{labels} {value:.15g}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
