"""Records of built generations: what is written is read, and damage is noticed."""

from __future__ import annotations

import json

import pytest

from pgetpy.core.generations.lock import FileLine, GenerationLock
from pgetpy.core.generations.record import (
    GenerationRecord,
    RecordedEnvironment,
    RecordedFile,
    RecordedLink,
    parse_generation_record,
)
from pgetpy.errors import IntegrityError

LOCK = GenerationLock(7, (FileLine("https://example.com/x", "x", f"sha256:{'a' * 64}"),))
RECORD = GenerationRecord(
    LOCK.number,
    LOCK.digest,
    LOCK.text,
    (RecordedFile("files/x", 5, 1_700_000_000_123_456_789, "a" * 64),),
    (RecordedLink("files/y", "x"),),
    1_700_000_000.5,
    (RecordedEnvironment("e", 3, 70, "sha256=x"),),
)


def test_a_record_survives_being_written_and_read() -> None:
    found = parse_generation_record(RECORD.to_json(), "r")
    assert found == RECORD
    assert found.lock == LOCK
    assert (found.size, found.count) == (75, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"digest": "b" * 64},
        {"lock": LOCK.text.replace("generation 7", "generation 8")},
        {"files": [["files/x", "5", 1, "a"]]},
        {"files": [["files/x", 5]]},
        {"links": [1]},
        {"created": None},
        {"environments": [["../e", 3, 70, "sha256=x"]]},
        {"environments": [["e", 3.5, 70, "sha256=x"]]},
    ],
)
def test_a_damaged_record_is_noticed(change: dict[str, object]) -> None:
    data = json.dumps({**json.loads(RECORD.to_json()), **change}).encode()
    with pytest.raises(IntegrityError):
        parse_generation_record(data, "r")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000])
def test_what_is_no_record_is_noticed(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_generation_record(data, "r")
