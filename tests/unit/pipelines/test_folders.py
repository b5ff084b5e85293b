"""Files of listed folders as references of their own, and what always means the same."""

from __future__ import annotations

import pytest

from pgetpy.core.references.reference import Reference
from pgetpy.errors import BadReferenceError
from pgetpy.pipelines.folders import is_pinned, member_text
from pgetpy.settings import SourceSettings
from pgetpy.weights.options import named

SOURCES = SourceSettings(environ={})
COMMIT = "c" * 40


def reference_to(text: str) -> Reference:
    return named(text, SOURCES)


@pytest.mark.parametrize(
    ("folder", "name", "version", "member"),
    [
        ("hf://a/b", "unet/x.json", COMMIT, f"hf://a/b@{COMMIT}/unet/x.json"),
        ("hf://a/b@main/sub/", "x.json", COMMIT, f"hf://a/b@{COMMIT}/sub/x.json"),
        ("https://huggingface.co/a/b", "x y.json", COMMIT, f"hf://a/b@{COMMIT}/x%20y.json"),
        ("hf://a/b", "x.json", "", "hf://a/b/x.json"),
        ("s3://bucket/sd/", "unet/x.json", "", "s3://bucket/sd/unet/x.json"),
        ("s3://bucket/sd/", "x%20y?.json", "", "s3://bucket/sd/x%20y?.json"),
    ],
)
def test_a_file_of_a_folder_has_the_reference_that_a_person_would_write(
    folder: str, name: str, version: str, member: str
) -> None:
    reference = reference_to(folder)
    found = member_text(reference, name, version, SOURCES)
    assert found == member
    again = reference_to(found)
    assert not again.several
    assert again.source == reference.source


@pytest.mark.parametrize("name", ["*.json", "x.json?versionId=abc"])
def test_a_key_that_would_be_read_as_an_instruction_is_refused(name: str) -> None:
    with pytest.raises(BadReferenceError, match="named alone"):
        member_text(reference_to("s3://bucket/sd/"), name, "", SOURCES)


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        (f"hf://a/b@{COMMIT}", True),
        (f"hf://a/b@{COMMIT}/x.safetensors", True),
        ("hf://a/b", False),
        ("hf://a/b@v1.0", False),
        (f"hf://a/b@{COMMIT[:12]}", False),
        ("s3://bucket/x.safetensors?versionId=abc", True),
        ("s3://bucket/x.safetensors", False),
        ("https://example.com/x.safetensors", False),
        ("data:,abc", True),
    ],
)
def test_commits_versions_and_bytes_always_mean_the_same(text: str, pinned: bool) -> None:
    assert is_pinned(reference_to(text), SOURCES) is pinned
