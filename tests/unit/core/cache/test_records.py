from __future__ import annotations

from dataclasses import replace

import pytest

from pgetpy.core.cache.records import (
    About,
    Record,
    State,
    fact,
    parse_record,
    record_lines,
)

RECORD = Record(
    "ab" * 32,
    "gen",
    "wéights\n.safetensors",
    12,
    folder=False,
    boot="boot",
    created=1.5,
    about=About("https://h/a?token=***", '"etag"', "scope", {"revision": "main"}),
)


def test_a_record_says_what_was_written_into_it() -> None:
    for record in (RECORD, replace(RECORD, digest="sha256:00", flushed=True, damaged=True)):
        assert parse_record(record_lines(record)) == record


def test_facts_are_learnt_later_and_in_any_order() -> None:
    data = record_lines(RECORD) + fact("flushed") + fact("digest", "sha256:11")
    assert parse_record(data) == replace(RECORD, digest="sha256:11", flushed=True)
    assert parse_record(data + fact("damaged")) == replace(
        RECORD, digest="sha256:11", flushed=True, damaged=True
    )


def test_a_fact_that_was_cut_off_is_none_and_spoils_no_other() -> None:
    whole = fact("digest", "sha256:11")
    for cut in range(1, len(whole) - 1):
        data = record_lines(RECORD) + whole[:cut]
        assert parse_record(data) == RECORD
        assert parse_record(data + fact("flushed")) == replace(RECORD, flushed=True)


def test_a_record_that_is_cut_off_damaged_or_anothers_is_none() -> None:
    data = record_lines(RECORD)
    assert all(parse_record(data[:cut]) is None for cut in range(len(data) - 1))
    assert parse_record(data.replace(b"12", b"13")) is None
    assert parse_record(b"") is None


@pytest.mark.parametrize(
    ("record", "boot", "state"),
    [
        (RECORD, "boot", State.SOUND),
        (RECORD, "other", State.UNFLUSHED),
        (replace(RECORD, boot=""), "", State.UNFLUSHED),
        (replace(RECORD, flushed=True), "other", State.SOUND),
        (replace(RECORD, flushed=True, damaged=True), "boot", State.DAMAGED),
    ],
)
def test_what_was_not_flushed_is_trusted_in_its_own_boot_alone(
    record: Record, boot: str, state: State
) -> None:
    assert record.state(boot) is state
