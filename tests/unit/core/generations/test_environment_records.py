"""RECORDs, and which files of environments become one."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.generations.environment_records import (
    InstalledFile,
    RecordLine,
    SharingKey,
    compiled_path,
    corrected_records,
    differing_files,
    format_record,
    package_of,
    parse_record,
    plan_sharing,
    record_digest,
    source_path,
)
from pgetpy.errors import IntegrityError

RECORD = "p-1.dist-info/RECORD"
_PARTS = st.text(
    st.characters(exclude_characters="/\0\r\n", exclude_categories=("Cs",)), min_size=1
).filter(lambda part: part not in (".", ".."))


def test_a_digest_is_written_as_wheels_do() -> None:
    # From the RECORD of every package that pip has installed: the file says `pip` and a line end.
    digest = record_digest(hashlib.sha256(b"pip\n").digest())
    assert digest == "sha256=zuuue4knoyJ-UwPPXg8fezS7VCrXJQrAP7zeNuwvFQg"


@given(st.lists(st.builds("/".join, st.lists(_PARTS, min_size=1, max_size=3)), unique=True))
def test_a_record_is_read_as_it_was_written(paths: list[str]) -> None:
    lines = tuple(sorted(RecordLine(path, "sha256=x", 3) for path in paths))
    assert parse_record(format_record(lines), RECORD) == lines


@pytest.mark.parametrize(
    "text", ["a,b\n", "a,sha256=x,many\n", '"a', "../a,,\n", "/etc/passwd,,\n", "a//b,,\n"]
)
def test_a_record_that_cannot_be_trusted_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match=RECORD):
        parse_record(text, RECORD)


def test_files_that_no_record_describes_differ() -> None:
    records = {
        RECORD: (
            RecordLine(RECORD, "", None),
            RecordLine("same", "sha256=a", 1),
            RecordLine("changed", "sha256=b", 1),
            RecordLine("missing", "", 1),
            RecordLine("unknown", "md5=c", 1),
            RecordLine("common", "sha256=d", 1),
        ),
        "q-1.dist-info/RECORD": (RecordLine("common", "sha256=e", 1),),
    }
    actual = {
        "same": "sha256=a",
        "changed": "sha256=B",
        "unknown": "sha256=c",
        "common": "sha256=e",
    }
    assert differing_files(records, actual) == ["changed", "missing"]
    assert package_of("changed", records) == "p"


def test_records_are_completed_with_byte_code_and_what_wheels_left_out() -> None:
    records = {
        RECORD: (RecordLine("p.py", "sha256=old", 1), RecordLine(RECORD, "", None)),
        "q-1.dist-info/RECORD": (RecordLine("q/a.py", "sha256=a", 1),),
    }
    files = {
        "p.py": ("sha256=new", 2),
        "q/a.py": ("sha256=a", 1),
        "q/__pycache__/a.cpython-312.pyc": ("sha256=b", 3),
        "stray": ("sha256=s", 4),
    }
    found = corrected_records(records, files)
    assert [line.path for line in found[RECORD]] == [RECORD, "p.py", "stray"]
    assert found[RECORD][1] == RecordLine("p.py", "sha256=new", 2)
    assert found["q-1.dist-info/RECORD"][1].path == "q/__pycache__/a.cpython-312.pyc"


@pytest.mark.parametrize("source", ["m.py", "p/m.py", "p/q/m.py"])
def test_byte_code_leads_back_to_its_source(source: str) -> None:
    compiled = compiled_path(source, "cpython-312")
    assert compiled.endswith("__pycache__/m.cpython-312.pyc")
    assert source_path(compiled) == source


@pytest.mark.parametrize("path", ["m.py", "p/m.pyc", "p/__pycache__/m.txt", ""])
def test_other_files_have_no_source(path: str) -> None:
    assert source_path(path) == ""


def _file(path: str, digest: str, inode: int, *, size: int = 1, run: bool = False) -> InstalledFile:
    return InstalledFile(path, SharingKey(digest, run), size, inode)


def test_files_become_links_to_what_is_known_or_to_the_first_of_themselves() -> None:
    known = {SharingKey("a", False): _file("old/a", "a", 1)}
    files = [
        _file("a", "a", 2),
        _file("same", "a", 1),
        _file("b", "b", 3),
        _file("b2", "b", 4),
        _file("program", "b", 5, run=True),
        _file("empty", "e", 6, size=0),
        _file("empty2", "e", 7, size=0),
    ]
    plan = plan_sharing(files, known)
    assert [(each.file.path, each.target.path) for each in plan] == [("a", "old/a"), ("b2", "b")]
    assert known[SharingKey("b", True)].path == "program"
