"""Digests that are remembered: in the process, and for large files on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pgetpy.pipelines import digests
from pgetpy.pipelines.digests import FileDigests

DATA = b"weights" * 100


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read. All count as large, and as old."""
    read: list[Path] = []
    digest_of = digests.digest_of

    def noted(path: Path) -> str | None:
        read.append(path)
        return digest_of(path)

    monkeypatch.setattr(digests, "digest_of", noted)
    monkeypatch.setattr(digests, "_LARGE", 1)
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", -1.0)
    return read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_large_file_is_hashed_once_for_all_processes(
    tmp_path: Path, file: Path, hashed: list[Path]
) -> None:
    for _ in range(2):
        kept = FileDigests(tmp_path / "kept")
        assert kept.sha256(file) == kept.sha256(file) == sha256(DATA)
    assert hashed == [file]


def test_a_file_that_changed_is_hashed_again_even_with_its_old_times(
    tmp_path: Path, file: Path, hashed: list[Path]
) -> None:
    FileDigests(tmp_path / "kept").sha256(file)
    before = file.stat()
    other = tmp_path / "other"
    other.write_bytes(DATA[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(file)
    assert FileDigests(tmp_path / "kept").sha256(file) == sha256(DATA[::-1])
    assert len(hashed) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"file": 1}', b'{"file": [], "sha256": 1}'])
def test_a_damaged_record_is_as_none(
    tmp_path: Path, file: Path, hashed: list[Path], damage: bytes
) -> None:
    FileDigests(tmp_path / "kept").sha256(file)
    (record,) = (tmp_path / "kept").iterdir()
    record.write_bytes(damage)
    assert FileDigests(tmp_path / "kept").sha256(file) == sha256(DATA)
    assert len(hashed) == 2


def test_small_and_fresh_files_leave_no_record(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileDigests(tmp_path / "kept").sha256(file)  # it is small
    monkeypatch.setattr(digests, "_LARGE", 1)
    FileDigests(tmp_path / "kept").sha256(file)  # it may change again within the same instant
    assert not (tmp_path / "kept").exists()
