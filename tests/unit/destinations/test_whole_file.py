"""Small files that are written at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pgetpy.destinations.whole_file import WholeFiles
from pgetpy.system.filesystem import ReservedPaths


def test_bytes_that_a_network_disk_refuses_at_the_end_get_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = WholeFiles(0, ReservedPaths()).claim(str(tmp_path / "x"))
    assert file is not None
    written = file.write(memoryview(b"bytes"))

    def close(fd: int, own=os.close) -> None:
        own(fd)
        if fd == written:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close)
        with pytest.raises(OSError, match="quota"):
            file.publish()
    assert not (tmp_path / "x").exists()
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_discarding_where_the_folder_has_become_a_file_hides_no_error(tmp_path: Path) -> None:
    file = WholeFiles(0, ReservedPaths()).claim(str(tmp_path / "folder" / "x"))
    assert file is not None
    (tmp_path / "folder").touch()
    with pytest.raises(NotADirectoryError):
        file.write(memoryview(b"bytes"))
    file.discard()
    assert (tmp_path / "folder").is_file()
