"""Requirements, marks and scripts of environments."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgetpy.core.generations.environment_marks import EnvironmentMark, parse_mark
from pgetpy.core.generations.environment_requirements import (
    environment_digest,
    parse_requirements,
    requirements_text,
    short_version,
)
from pgetpy.core.generations.environment_scripts import portable_script
from pgetpy.core.generations.lock import LockedEnvironment, LockedRequirement
from pgetpy.errors import IntegrityError, UsageError

TEXT = """\
# a comment
jinja2==3.1.6 \\
    --hash=sha256:bb \\
    --hash=sha256:aa
cog @ https://example.com/cog-1-py3-none-any.whl \\
    --hash=sha256:cc
uvloop==1 ; platform_machine == 'x86_64' \\
    --hash=md5:ee --hash=sha256:dd
"""
RECORDS = {"p.dist-info/RECORD": "sha256=x"}
MARK = EnvironmentMark("3.12", "d", True, False, 2, 30, ("lib",), RECORDS)


def test_requirements_are_read_with_their_hashes() -> None:
    found = parse_requirements(TEXT)
    assert found == (
        LockedRequirement("jinja2==3.1.6", ("sha256:aa", "sha256:bb")),
        LockedRequirement("cog @ https://example.com/cog-1-py3-none-any.whl", ("sha256:cc",)),
        LockedRequirement("uvloop==1 ; platform_machine == 'x86_64'", ("sha256:dd",)),
    )
    again = parse_requirements(requirements_text(LockedEnvironment("e", "3.12", found)))
    assert again == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a==1 --hash=md5:aa", "no sha256 for a==1"),
        ("a==1", "no sha256 for a==1"),
        ("a @ https://me:secret@example.com/a.whl --hash=sha256:aa", "contains a secret"),
    ],
)
def test_what_cannot_be_locked_is_an_error_without_secrets(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_requirements(text)
    assert "secret@" not in str(caught.value)


def test_the_name_and_the_order_of_hashes_do_not_count() -> None:
    first = LockedEnvironment("a", "3.12", (LockedRequirement("x==1", ("sha256:a", "sha256:b")),))
    second = LockedEnvironment("b", "3.12", (LockedRequirement("x==1", ("sha256:b", "sha256:a")),))
    assert environment_digest(first) == environment_digest(second)
    assert environment_digest(first) != environment_digest(replace(first, python="3.11"))
    assert short_version("3.12.1") == "3.12"


def test_a_mark_is_read_as_it_was_written() -> None:
    assert parse_mark(MARK.to_json()) == MARK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        MARK.to_json().replace(b'"schema": 1', b'"schema": 2'),
        MARK.to_json().replace(b"true", b"1"),
        MARK.to_json().replace(b'"lib"', b'"../lib"'),
        MARK.to_json().replace(b'"sha256=x"', b"3"),
    ],
)
def test_a_mark_that_cannot_be_trusted_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"environment\.json"):
        parse_mark(data)


@pytest.mark.parametrize(
    "first",
    [
        b"#!/opt/python/bin/python3\n",
        b"#!/opt/python/bin/python3.11 -E\n",
        b"#!/bin/sh\n'''exec' '/a long path/python' \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_a_script_is_run_by_a_python_in_path(first: bytes) -> None:
    assert portable_script(first + b"import x\n", "3.12") == (
        b"#!/usr/bin/env python3.12\nimport x\n"
    )


@pytest.mark.parametrize(
    "data", [b"\x7fELF", b"#!/bin/sh\npython x\n", b"", b"import x\n#!python\n"]
)
def test_other_programs_are_not_changed(data: bytes) -> None:
    assert portable_script(data, "3.12") == data
