"""Odd tars: what GNU tar takes is taken, with equal contents; what cannot be known is refused."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgetpy.errors import ArchiveError, TruncatedArchiveError
from tests.support.fetching import Events, extract, names_in
from tests.support.judges import require_judge
from tests.support.odd_tars import REFUSED, ROUGH, TAKEN
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.tars import END, base_256, block, described, octal, padded, pax
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


# ------------------------------------------------------------------------ pieces in any order

FORMS = st.sampled_from([b"ustar\x0000", b"ustar  \0", bytes(8)])
NAMES = st.sampled_from([b"a", b"b", b"d/x", b"d/y", b"long/" * 3 + b"z"])
WRITTEN = st.sampled_from(
    [octal, b"%11o ".__mod__, b"%o\0".__mod__, b"%012o".__mod__, b" %o ".__mod__, base_256]
)
RECORDS = st.lists(
    st.tuples(st.just(b"path"), st.sampled_from([b"p", b"q", b"d/r"]))
    | st.tuples(st.just(b"mtime"), st.sampled_from([b"5", b"6.5", b"007", b"-3", b"1x"]))
    | st.tuples(st.sampled_from([b"comment", b"uname", b""]), st.just(b"c")),
    max_size=3,
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    data = b"x" * draw(st.sampled_from([0, 1, 10, 511, 512, 513, 1500]))
    written, moment = draw(WRITTEN), draw(st.integers(0, 1 << 30))
    flag, form = draw(st.sampled_from([b"0", b"\0", b"7", b"A"])), draw(FORMS)
    sizes = {"size": written(len(data)), "mtime": written(moment)}
    if draw(st.integers(0, 3)) == 0:
        stated = pax((b"size", b"00%d" % len(data)), *draw(RECORDS))
        return stated + block(draw(NAMES), flag, magic=form) + padded(data)
    return block(draw(NAMES), flag, magic=form, **sizes) + padded(data)


PIECES = st.one_of(
    files(),
    files(),
    files(),
    st.builds(lambda form: block(b"d/", b"5", magic=form), FORMS),
    st.builds(lambda drawn, flag: pax(*drawn, flag=flag), RECORDS, st.sampled_from([b"x", b"X"])),
    st.just(pax((b"mtime", b"77"), flag=b"g")),
    st.sampled_from([b"L1\0", b"L2", b"d/L3\0"]).map(lambda body: described(body, b"L")),
    st.sampled_from([b"a\0", b"b"]).map(lambda body: described(body, b"K")),
    st.builds(lambda target: block(b"l", b"2", target=target), NAMES),
    st.builds(lambda size: block(b"h", b"1", target=b"a", size=octal(size)), st.integers(0, 9)),
    st.just(block(b"label", b"V")),
    st.just(bytes(512)),
)
ENDS = st.sampled_from([END, b"", bytes(512), END * 5, bytes(700), END + b"junk"])


@pytest.mark.judge("tar")
@settings(max_examples=100)
@given(pieces=st.lists(PIECES, min_size=1, max_size=6), end=ENDS)
def test_whatever_is_put_together_of_them_is_what_gnu_tar_makes_of_it(
    shelf: Server, pieces: list[bytes], end: bytes
) -> None:
    archive = b"".join(pieces) + end
    with tempfile.TemporaryDirectory(prefix="judged-") as made, umask(0o022):
        home = Path(made)
        theirs, code = by_gnu_tar(archive, home)
        ours: dict[str, Node] = {}
        # What an archive ends with must not have announced a member that is missing.
        with suppress(TruncatedArchiveError if code == 0 else ArchiveError):
            ours = by_us(shelf, archive, home)
        if ours and code == 0:
            del ours["."], theirs["."]
            assert ours == theirs
