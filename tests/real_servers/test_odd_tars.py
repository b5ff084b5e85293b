"""Odd tars: what GNU tar takes is taken, with equal contents; what cannot be known is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pgetpy.errors import ArchiveError
from tests.support.fetching import Events, extract, names_in
from tests.support.judges import require_judge
from tests.support.odd_tars import REFUSED, ROUGH, TAKEN
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.trees import Node, tree, umask


def by_gnu_tar(archive: bytes, home: Path) -> tuple[dict[str, Node], int]:
    """What GNU tar makes of an archive for a user who is nobody special, and how it ends."""
    since = home.stat().st_mtime_ns
    (home / "archive").write_bytes(archive)
    (home / "theirs").mkdir()
    options = ["--no-same-owner", "--no-same-permissions", "--delay-directory-restore"]
    done = subprocess.run(
        [require_judge("tar"), *options, "-xf", str(home / "archive"), "-C", str(home / "theirs")],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return tree(home / "theirs", since), done.returncode


def by_us(shelf: Server, archive: bytes, home: Path) -> dict[str, Node]:
    since = home.stat().st_mtime_ns
    extract(shelf.add("/odd.tar", Resource(archive)), home / "ours")
    return tree(home / "ours", since)


def without_times(found: dict[str, Node]) -> dict[str, Node]:
    return {name: node._replace(mtime=0, mode="") for name, node in found.items()}


@pytest.mark.judge("tar")
@pytest.mark.parametrize("name", TAKEN)
def test_what_gnu_tar_takes_is_taken(shelf: Server, tmp_path: Path, name: str) -> None:
    with umask(0o022):
        theirs, code = by_gnu_tar(TAKEN[name], tmp_path)
        assert code == 0
        ours = by_us(shelf, TAKEN[name], tmp_path)
    # When the folder itself was made is nobody's statement.
    del ours["."], theirs["."]
    assert ours == theirs


@pytest.mark.judge("tar")
@pytest.mark.parametrize("name", ROUGH)
def test_what_gnu_tar_extracts_with_complaints_has_the_same_contents(
    shelf: Server, tmp_path: Path, name: str
) -> None:
    theirs, code = by_gnu_tar(ROUGH[name], tmp_path)
    assert code == 2
    assert without_times(by_us(shelf, ROUGH[name], tmp_path)) == without_times(theirs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_known_is_refused(shelf: Server, tmp_path: Path, name: str) -> None:
    events = Events()
    url = shelf.add("/odd.tar", Resource(REFUSED[name]))
    with pytest.raises(ArchiveError):
        extract(url, tmp_path / "ours", progress=events)
    assert names_in(tmp_path) == []
