"""What differs between two generations."""

from __future__ import annotations

from pgetpy.core.generations.comparison import diff_of
from pgetpy.core.generations.manifest import parse_lock

A, B = (f"sha256:{letter * 64}" for letter in "ab")
OLD = f"""\
generation 6
https://example.com/one same {A}
https://example.com/two moved {A}
https://example.com/three gone {A}
https://example.com/four packed {A}
env torch 3.12 numpy==2.1.0 {A} pillow==11.0.0 {A}
"""
NEW = f"""\
generation 7
https://example.org/mirror same {A}
https://example.com/two moved {B}
https://example.com/five new {B}
https://example.com/four packed {A} -x
env torch 3.12 numpy==2.2.0 {B} pillow==11.0.0 {A}
"""


def test_files_and_packages_are_compared_by_content() -> None:
    found = diff_of(parse_lock(OLD, "old"), parse_lock(NEW, "new"))
    assert [str(change) for change in found.changes] == [
        "changed env torch numpy: 2.1.0 to 2.2.0",
        f"removed gone: {A}",
        f"changed moved: {A} to {B}",
        f"added new: {B}",
        f"changed packed: {A} to {A} -x",
    ]
    assert (found.before, found.after, found.same) == (6, 7, 3)


def test_a_generation_does_not_differ_from_itself() -> None:
    lock = parse_lock(OLD, "old")
    assert diff_of(lock, lock).changes == ()
