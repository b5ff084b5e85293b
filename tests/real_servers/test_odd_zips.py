"""Odd zips: what unzip and zipfile make the same files of is taken, and these files come of it."""

from __future__ import annotations

import io
import os
import subprocess
import warnings
import zipfile
from pathlib import Path

import pytest

from pgetpy.core.report.events import Remarked
from pgetpy.errors import ArchiveError
from tests.support.faults import IgnoreRange
from tests.support.fetching import Events, contents, extract, names_in
from tests.support.judges import require_judge
from tests.support.odd_zips import BOTH, REFUSED, UNZIP
from tests.support.resources import Resource
from tests.support.server import Server

HOW = {"ranges": (), "one answer": (IgnoreRange(),)}


def by_unzip(archive: bytes, home: Path) -> dict[str, bytes]:
    (home / "archive.zip").write_bytes(archive)
    done = subprocess.run(
        [require_judge("unzip"), "-qo", str(home / "archive.zip"), "-d", str(home / "theirs")],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode in (0, 1), done.stderr
    return contents(home / "theirs") if (home / "theirs").exists() else {}


def by_zipfile(archive: bytes, home: Path) -> dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(io.BytesIO(archive)) as reader:
            reader.extractall(home / "python")
    return contents(home / "python") if (home / "python").exists() else {}


@pytest.mark.judge("unzip")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", [*BOTH, *UNZIP])
def test_what_both_take_is_taken(shelf: Server, tmp_path: Path, name: str, how: str) -> None:
    archive = BOTH[name] if name in BOTH else UNZIP[name]
    url = shelf.add("/odd.zip", Resource(archive, faults=HOW[how]))
    events = Events()
    extract(url, tmp_path / "ours", progress=events)
    ours = contents(tmp_path / "ours")
    if name != "no member":  # which unzip calls a failure
        assert ours == by_unzip(archive, tmp_path)
    if name in BOTH:
        assert ours == by_zipfile(archive, tmp_path)
    remarked = [event.remark for event in events.of(Remarked) if "as a whole" not in event.remark]
    assert ["follow its end" in remark for remark in remarked] == [True] * (
        "behind the end" in name
    )


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused(
    shelf: Server, tmp_path: Path, name: str, how: str
) -> None:
    url = shelf.add("/odd.zip", Resource(REFUSED[name], faults=HOW[how]))
    with pytest.raises(ArchiveError):
        extract(url, tmp_path / "ours")
    assert names_in(tmp_path) == []
