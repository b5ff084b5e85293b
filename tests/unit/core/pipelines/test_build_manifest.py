"""Build manifests: what is written is read, and hostile content is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.pipelines.build_manifest import (
    BuildManifest,
    ManifestSubject,
    is_safe_path,
    parse_manifest,
)
from pgetpy.core.pipelines.plans import ResolvedReference
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.errors import IntegrityError

SPEC = PipelineSpec("https://user:hidden@example.com/a.safetensors", loras=[("hf://a/b", 0.5)])
MANIFEST = BuildManifest(
    key="a" * 64,
    base_key="b" * 64,
    asked=SPEC.shown(),
    resolved=(ResolvedReference("base", "hf://a/b", "c" * 40, False, "a/c", "mit"),),
    pipeline="P",
    started=1_600_000_000.0,
    created=1_700_000_000.0,
    versions={"pgetpy": "1.0", "diffusers": "0.42.1"},
    subjects=(
        ManifestSubject("model_index.json", "d" * 64, 400, "hf://a/b/model_index.json"),
        ManifestSubject("unet/config.json", "e" * 64, 1, "hf://a/b/unet/config.json"),
    ),
)
Change = Callable[[dict[str, Any]], object]


def test_what_is_written_is_read() -> None:
    assert parse_manifest(MANIFEST.to_json(), "manifest.json") == MANIFEST


def test_the_choice_of_an_attention_backend_is_written_and_read() -> None:
    record = {"backend": "native", "refused": {"flash": "not installed"}}
    noted = MANIFEST.with_attention(record)
    assert json.loads(noted.to_json())["run"]["attention"] == record
    assert parse_manifest(noted.to_json(), "manifest.json") == noted


def test_no_secret_is_written() -> None:
    assert b"hidden" not in MANIFEST.to_json()


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(schema=2),
        lambda found: found.update(key="A" * 64),
        lambda found: found.update(key=3),
        lambda found: found.update(base_key="../x"),
        lambda found: found.update(asked=[]),
        lambda found: found.update(resolved={}),
        lambda found: found["resolved"][0].update(pinned=1),
        lambda found: found["resolved"][0].pop("uri"),
        lambda found: found.update(run=None),
        lambda found: found["run"].update(created=True),
        lambda found: found["run"].update(created=-1),
        lambda found: found["run"].update(created=10**400),
        lambda found: found["run"].update(versions={"torch": 2}),
        lambda found: found.update(subjects=None),
        lambda found: found.update(subjects=["a"]),
        lambda found: found["subjects"][0].update(sha256="x"),
        lambda found: found["subjects"][0].update(size=-1),
        lambda found: found["subjects"][0].update(size=True),
        lambda found: found["subjects"][0].update(size=1.5),
        lambda found: found["subjects"][0].update(size=1 << 61),
        lambda found: found["subjects"][0].update(path="unet/config.json"),
        lambda found: found["subjects"][0].update(path="UNET/Config.json"),
        lambda found: found["subjects"][0].update(path="unet"),
        lambda found: found["subjects"][0].update(uri="x" * 5000),
    ],
)
def test_a_manifest_with_one_wrong_value_is_refused(change: Change) -> None:
    found = json.loads(MANIFEST.to_json())
    change(found)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        parse_manifest(json.dumps(found).encode(), "manifest.json")


BAD_PATHS = [
    "", ".", "..", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\\b", "C:x", "a\0b", "a\nb",
    "a/b/c/d/e/f/g/h/i", "x" * 256, "a.", "a ", "\u202egnp.json", "a\ud800",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leaves_its_folder_or_deceives_is_refused(path: str) -> None:
    subject = replace(MANIFEST.subjects[0], path=path)
    data = replace(MANIFEST, subjects=(subject,)).to_json()
    with pytest.raises(IntegrityError):
        parse_manifest(data, "manifest.json")


@given(st.text())
def test_a_safe_path_stays_below_its_folder(path: str) -> None:
    if is_safe_path(path):
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"schema": NaN}']
)
def test_what_is_not_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_manifest(data, "manifest.json")


@given(st.binary(max_size=20), st.integers(0, 2000))
def test_damage_is_read_or_refused(noise: bytes, at: int) -> None:
    data = MANIFEST.to_json()
    damaged = data[:at] + noise + data[at + len(noise) :]
    with contextlib.suppress(IntegrityError):
        parse_manifest(damaged, "manifest.json")
