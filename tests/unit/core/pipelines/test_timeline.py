"""The timeline of a start: sums, table, JSON and picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.pipelines.timeline import BootTimeline, Stage, covered, joined, seconds_text
from pgetpy.core.pipelines.timeline_picture import picture

START = (
    Stage("interpreter", "python", 0.0, 0.5),
    Stage("unet.safetensors", "download", 0.5, 4.5, 5_000_000_000),
    Stage("torch", "import", 1.0, 3.0),
    Stage("pipeline", "load", 5.0, 6.0, note="2 components"),
)


def test_overlaps_are_counted_once_and_gaps_are_told() -> None:
    timeline = BootTimeline.of(reversed(START))
    assert timeline.stages == START
    assert timeline.total == 6.0
    assert timeline.by_kind() == {"python": 0.5, "download": 4.0, "import": 2.0, "load": 1.0}
    assert timeline.overlapped == pytest.approx(2.0)
    assert timeline.unrecorded == pytest.approx(0.5)
    assert timeline.summary() == (
        "started in 6.0 s: python 0.50 s, download 4.0 s, import 2.0 s, load 1.0 s, "
        "unrecorded 0.50 s; overlapping saved 2.0 s"
    )


def test_downloads_side_by_side_are_one_kind_and_save_nothing() -> None:
    both = BootTimeline.of([Stage("a", "download", 0, 2), Stage("b", "download", 1, 3)])
    assert both.by_kind() == {"download": 3}
    assert both.overlapped == 0


def test_a_table_has_a_row_for_each_stage_and_the_sums() -> None:
    lines = BootTimeline.of(START).lines()
    assert len(lines) == 5
    assert lines[1].startswith("download  unet.safetensors  ..")
    assert lines[1].endswith("4.0 s, 5.0 GB")
    assert lines[3].endswith("1.0 s, 2 components")


def test_what_failed_says_so() -> None:
    assert Stage("x", "load", 0, 1, failed=True).words == "1.0 s, failed"


def test_nothing_recorded_is_a_timeline_too() -> None:
    empty = BootTimeline.of([])
    assert empty.lines() == ["started in 0.00 s: no stages"]
    ET.fromstring(picture(empty))


def test_the_record_is_json_and_leaves_out_what_is_unknown() -> None:
    record = json.loads(json.dumps(BootTimeline.of(START).record()))
    assert record["total"] == 6.0
    assert record["stages"][2] == {
        "name": "torch",
        "kind": "import",
        "start": 1.0,
        "seconds": 2.0,
    }
    assert record["stages"][1]["size"] == 5_000_000_000


def test_many_short_stages_are_one_row_for_each_kind() -> None:
    many = [Stage(f"f{n}", "download", n / 10, n / 10 + 0.1, 10) for n in range(50)]
    few = joined([*many, *START], 10)
    assert len(few) <= 10
    rest = next(stage for stage in few if stage.name.endswith("more"))
    assert rest.kind == "download"
    kept = [stage for stage in few if stage.kind == "download" and stage is not rest]
    assert int(rest.name.split()[0]) + len(kept) == 51
    assert joined(START, 10) == list(START)


def test_the_picture_is_xml_in_which_names_are_only_text() -> None:
    hostile = Stage('</text><script>"&', "load", 0.0, 1.0)
    text = picture(BootTimeline.of([*START, hostile]), "a <b> & c")
    root = ET.fromstring(text)
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}
    titles = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "a <b> & c: 6.0 s"
    assert 'load: </text><script>"&, 1.0 s' in titles


# Nothing may lie outside the paper, whatever the stages are.
@given(
    st.lists(
        st.tuples(st.floats(0, 5000), st.floats(0, 500), st.text(max_size=80)),
        min_size=1,
        max_size=40,
    )
)
def test_all_bars_are_on_the_paper(rows: list[tuple[float, float, str]]) -> None:
    stages = [
        Stage(name, "load", start, start + length, note="n" * 60) for start, length, name in rows
    ]
    clean = [Stage("x", s.kind, s.start, s.stop, note=s.note) for s in stages]
    root = ET.fromstring(picture(BootTimeline.of(clean)))
    width = float(root.attrib["width"])
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.attrib["x"]) >= 0
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20))
def test_covered_seconds_are_those_in_which_something_ran(pairs: list[tuple[int, int]]) -> None:
    stages = [Stage("s", "load", start, start + length) for start, length in pairs]
    ticks = {tick for start, length in pairs for tick in range(start, start + length)}
    assert covered(stages) == len(ticks)


def test_seconds_have_as_many_digits_as_matter() -> None:
    assert [seconds_text(s) for s in (0.041, 4.52, 102.3)] == ["0.04 s", "4.5 s", "102 s"]
