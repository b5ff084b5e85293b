"""Locks between processes: whether they can be relied on."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pgetpy.system.file_locks import locks_exclude


def test_locks_of_a_common_file_system_exclude_and_nothing_is_left(tmp_path: Path) -> None:
    assert locks_exclude(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_probe_that_cannot_be_opened_again_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def open_once(*args: Any, real: Any = os.open) -> int:
        if opened:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(real(*args))
        return opened[0]

    monkeypatch.setattr(os, "open", open_once)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        locks_exclude(tmp_path)
    monkeypatch.undo()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(opened[0])
    assert os.listdir(tmp_path) == []
