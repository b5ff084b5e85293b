"""The manifest of `pgetpy prefetch`."""

from __future__ import annotations

import pytest

from pgetpy.core.references.prefetch_manifest import PrefetchLine, parse_prefetch_manifest
from pgetpy.errors import BadManifestError

HEX = "ab" * 32


def test_a_line_has_a_reference_a_kind_and_a_digest_in_any_order() -> None:
    text = f"""\
# weights
hf://o/n@main folder   # the base
http://h/a.safetensors SHA256:{HEX.upper()}

"http://h/b c.tar" sha256:{HEX} weights
"""
    assert parse_prefetch_manifest(text, "m") == (
        PrefetchLine("hf://o/n@main", "folder", None, 2),
        PrefetchLine("http://h/a.safetensors", "auto", f"sha256:{HEX}", 3),
        PrefetchLine("http://h/b c.tar", "weights", f"sha256:{HEX}", 5),
    )


def test_lines_without_a_kind_get_that_of_the_flag() -> None:
    (line,) = parse_prefetch_manifest("http://h/a", "m", wanted="file")
    assert line.wanted == "file"


def test_a_repeated_line_counts_once_and_another_kind_is_another_entry() -> None:
    text = "http://h/a\r\nhttp://h/a\nhttp://h/a file\n"
    assert [(e.line, e.wanted) for e in parse_prefetch_manifest(text, "m")] == [
        (1, "auto"),
        (3, "file"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("http://h/a file folder", "expected REF [KIND] [sha256:HEX]"),
        (f"http://h/a sha256:{HEX} sha256:{HEX}", "expected REF [KIND] [sha256:HEX]"),
        ("http://h/a fodler", "is not ALGORITHM:HEX"),
        (f"http://h/a md5:{HEX[:32]}", "a digest in this manifest is sha256:HEX"),
        ('"http://h/a', "a quotation is not closed"),
        (f"http://h/x sha256:{HEX}", "another digest than the same reference in line 1"),
    ],
)
def test_a_mistake_is_told_with_its_line(line: str, words: str) -> None:
    with pytest.raises(BadManifestError) as caught:
        parse_prefetch_manifest(f"http://h/x\n{line}\n", "list.txt")
    assert str(caught.value).startswith("list.txt:2: ")
    assert words in str(caught.value)


def test_the_reference_is_not_shown_with_its_secret() -> None:
    (line,) = parse_prefetch_manifest("http://h/a?sig=SECRET", "m")
    assert "SECRET" not in repr(line)
