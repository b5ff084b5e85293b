"""Small members of a tar, made from the block that they came in: the tree is that of the slow way.

A member is made in place if a block holds all of it, and by way of an open file if it does not. So
where an archive is cut decides between the two, and must not decide anything else.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.member_folder import MemberFolder
from pgetpy.archives.random_access import RandomAccessExtractor
from pgetpy.archives.spool import Spool
from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.member_policy import AdmittedMember, MemberPolicy
from pgetpy.core.archives.members import Kind, Member
from pgetpy.core.archives.tar import TarReader
from pgetpy.core.http.range_request import Window
from pgetpy.core.http.ranges import Span
from pgetpy.errors import DestinationError, LimitExceededError, UnsafeMemberError
from tests.support.fetching import names_in
from tests.support.tars import BLOCK, END, block, file, octal, pax

Tree = dict[str, tuple[int, bytes | str | None]]


class Extraction:
    """An extraction to `home`, whose archive can be read back."""

    def __init__(self, home: Path, limits: Limits | None = None) -> None:
        self.root = home / "members"
        self.root.mkdir(parents=True)
        self.spool = Spool(home / "spool")
        self.layout = ArchiveLayout(home / "layout", self.spool, indexed=True)
        self.folder = MemberFolder(self.root)
        self.policy = MemberPolicy(limits or Limits())
        self.extractor = RandomAccessExtractor(
            self.folder, TarReader(), self.policy.admit, Window(0), self.layout, readable=True
        )

    def __enter__(self) -> "Extraction":
        return self

    def __exit__(self, *_: object) -> None:
        self.extractor.close()
        self.layout.close()

    def take(self, archive: bytes, cuts: list[int]) -> None:
        """Hand over `archive`, cut at `cuts`, as one connection does."""
        bounds = [0, *sorted(cuts), len(archive)]
        for start, stop in pairwise(bounds):
            self.extractor.write(start, memoryview(archive)[start:stop])
            self.extractor.mark(start, stop)

    def finish(self, archive: bytes) -> Tree:
        """The tree, once it has been checked that all of the archive can be read back."""
        settled = self.extractor.take_settled()
        assert settled == [Span(0, len(archive))]
        self.extractor.finish(len(archive))
        assert read_back(self.extractor, len(archive)) == archive
        return tree(self.root)


def read_back(extractor: RandomAccessExtractor, total: int) -> bytes:
    found = bytearray()
    buffer = memoryview(bytearray(4096))
    while len(found) < total:
        count = extractor.read(len(found), buffer)
        assert count
        found += buffer[:count]
    return bytes(found[:total])


def tree(root: Path) -> Tree:
    found: Tree = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        what = (
            os.readlink(path)
            if stat.S_ISLNK(mode)
            else path.read_bytes()
            if stat.S_ISREG(mode)
            else None
        )
        found[str(path.relative_to(root))] = (0 if stat.S_ISLNK(mode) else mode & 0o777, what)
    return found


def extract(home: Path, archive: bytes, cuts: list[int]) -> Tree:
    with Extraction(home) as extraction:
        extraction.take(archive, cuts)
        return extraction.finish(archive)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory, if there is one: on a disk thousands of folders take long to remove."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_an_archive_may_be_cut_at_any_byte(quick_path: Path, stride: int) -> None:
    archive = file(b"a/1", b"one", mode=b"0000600\0") + file(b"a/2", b"3" * 513) + END
    whole = extract(quick_path / "whole", archive, [])
    assert whole["a/1"] == (0o600, b"one")
    assert whole["a/2"][1] == b"3" * 513
    # Every byte is cut at by the long run; the first and last bytes of blocks by this one as well.
    edges = {at + near for at in range(0, len(archive), 512) for near in (-1, 0, 1)}
    for cut in sorted({*edges, *range(1, len(archive), stride)} - {-1, 0, len(archive)}):
        assert extract(quick_path / "cut", archive, [cut]) == whole
        shutil.rmtree(quick_path / "cut")


# What may come between plain files: each is read by the general reader, or changes what is.
MEMBERS = [
    file(b"a/1", b"first"),
    file(b"a/1", b"again, longer than it was"),
    file(b"a/2", b"x" * 512),
    file(b"a/3", b"y" * 1500, mode=b"0000755\0"),
    file(b"top", b"z"),
    file(b"./a/4", b"dotted"),
    file(b"a/empty", b""),
    file("a/\u00e9".encode(), b"not ASCII"),
    file(b"old", b"v7", magic=bytes(8)),
    block(b"a/deep/", b"5", mode=b"0000700\0"),
    file(b"a/deep/5", b"below"),
    block(b"link", b"2", target=b"a/2"),
    pax((b"path", b"a/renamed")) + file(b"a/not-this", b"by pax"),
    pax((b"comment", b"of all"), flag=b"g"),
    pax((b"mtime", b"1234567890"), flag=b"g"),
]


@given(
    st.lists(st.sampled_from(MEMBERS), max_size=12),
    st.lists(st.integers(0, 1 << 20), max_size=8),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_where_an_archive_is_cut_changes_nothing(
    quick_path: Path, members: list[bytes], cuts: list[int]
) -> None:
    archive = b"".join(members) + END
    # Cut within each block, so that no header is ever read in place.
    slowly = [start + 100 for start in range(0, len(archive), BLOCK)]
    trees = []
    for where in ([], [cut % len(archive) for cut in cuts], slowly):
        trees.append(extract(quick_path / "home", archive, where))
        shutil.rmtree(quick_path / "home")
    assert trees[0] == trees[1] == trees[2]


def entry_of(name: str, size: int = 0, *, replaces: bool = False) -> AdmittedMember:
    return AdmittedMember(
        tuple(name.split("/")), Member(name, Kind.FILE, size=size, mode=0o644), replaces=replaces
    )


def put(folder: MemberFolder, name: str, content: bytes = b"", *, replaces: bool = False) -> None:
    folder.put(entry_of(name, len(content), replaces=replaces), 0, memoryview(content))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[MemberFolder]:
    (tmp_path / "root").mkdir()
    made = MemberFolder(tmp_path / "root")
    yield made
    made.close_folder()


def test_a_folder_that_was_replaced_by_a_link_is_not_left_through_it(
    tmp_path: Path, folder: MemberFolder
) -> None:
    inside, elsewhere = tmp_path / "root" / "a", tmp_path / "elsewhere"
    elsewhere.mkdir()
    put(folder, "a/1", b"one")
    inside.rename(tmp_path / "moved")
    inside.symlink_to(elsewhere)
    # The folder that is open still gets its file.
    put(folder, "a/2", b"two")
    assert names_in(tmp_path / "moved") == ["1", "2"]
    # Opened again, after one in another folder, the link is refused.
    put(folder, "b/3")
    with pytest.raises(DestinationError, match="a/4"):
        put(folder, "a/4", b"four")
    with pytest.raises(DestinationError, match="a/1"):
        put(folder, "a/1", b"other", replaces=True)
    assert names_in(elsewhere) == []


def test_a_link_in_the_place_of_a_file_is_not_followed(
    tmp_path: Path, folder: MemberFolder
) -> None:
    put(folder, "a/1")
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "root" / "a" / "2").symlink_to(precious)
    with pytest.raises(DestinationError, match="a/2"):
        put(folder, "a/2", b"two")
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("other", [None, "b/2"])
def test_a_folder_that_was_removed_is_an_error_that_names_the_member(
    tmp_path: Path, folder: MemberFolder, other: str | None
) -> None:
    put(folder, "a/1")
    shutil.rmtree(tmp_path / "root" / "a")
    if other is not None:
        put(folder, other)
    with pytest.raises(DestinationError, match="a/3"):
        put(folder, "a/3", b"three")
    put(folder, "c/4", b"four")
    assert (tmp_path / "root" / "c" / "4").read_bytes() == b"four"


def test_a_file_that_is_replaced_keeps_its_other_names(
    tmp_path: Path, folder: MemberFolder
) -> None:
    put(folder, "a/1", b"one")
    root = tmp_path / "root"
    os.link(root / "a" / "1", root / "a" / "other")
    put(folder, "a/1", b"replaced", replaces=True)
    assert (root / "a" / "1").read_bytes() == b"replaced"
    assert (root / "a" / "other").read_bytes() == b"one"


def test_a_path_that_is_too_long_is_refused_where_its_folder_is_not(
    tmp_path: Path, folder: MemberFolder
) -> None:
    room = os.pathconf(tmp_path, "PC_PATH_MAX") - len(os.fspath(tmp_path / "root")) - 1
    above = "/".join(["d" * 200] * ((room - 150) // 201))
    put(folder, f"{above}/1")
    with pytest.raises(DestinationError, match="too long") as caught:
        put(folder, f"{above}/{'x' * 255}")
    assert caught.value.hint
    assert names_in(tmp_path / "root" / above) == ["1"]


def wide(count: int) -> Iterator[str]:
    return (f"d{number:06}" for number in range(count))


def deep(count: int) -> Iterator[str]:
    depth = 100
    for chain in range(count // depth):
        for level in range(1, depth + 1):
            yield f"c{chain:04}" + "/d" * level


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing tells what is open")
@pytest.mark.parametrize("shape", [wide, deep])
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
def test_any_number_of_folders_takes_one_descriptor(
    quick_path: Path, shape: Callable[[int], Iterator[str]], count: int
) -> None:
    archive = b"".join(_named(f"{path}/f") for path in shape(count)) + END
    with Extraction(quick_path) as extraction:
        before = len(os.listdir("/proc/self/fd"))
        for start in range(0, len(archive), 1 << 18):
            extraction.extractor.write(start, memoryview(archive)[start : start + (1 << 18)])
            assert len(os.listdir("/proc/self/fd")) <= before + 1
        extraction.extractor.finish(len(archive))
        made = sum(1 for _, _, files in os.walk(extraction.root) for name in files if name == "f")
    assert made == count
    assert len(os.listdir("/proc/self/fd")) <= before


def _named(name: str) -> bytes:
    """A file of one byte whose name may be longer than its field."""
    raw = name.encode()
    if len(raw) <= 100:
        return file(raw, b"1")
    return (
        block(b"@", b"L", size=octal(len(raw)), magic=b"ustar  \0")
        + raw.ljust(-(-len(raw) // BLOCK) * BLOCK, b"\0")
        + file(b"cut", b"1")
    )


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"a/../2", UnsafeMemberError),
        (b"/a/2", UnsafeMemberError),
        (b"a/2\n", UnsafeMemberError),
        (b"a/1/2", UnsafeMemberError),
        (b"a/3", LimitExceededError),
    ],
)
def test_what_is_refused_ends_it_with_what_came_before_in_place(
    tmp_path: Path, name: bytes, error: type[Exception]
) -> None:
    archive = file(b"a/1", b"one") + file(b"a/2", b"two") + file(name) + file(b"a/4") + END
    with Extraction(tmp_path, Limits(members=3)) as extraction:
        with pytest.raises(error):
            extraction.take(archive, [])
        assert names_in(extraction.root / "a") == ["1", "2"]
        assert extraction.folder.written == ["a/1", "a/2"]


def test_the_window_names_the_large_files_that_are_still_to_be_written(tmp_path: Path) -> None:
    """Their bytes may come side by side. The header tells; the bytes never come here."""
    large = 64 << 20
    archive = file(b"small", bytes(2000)) + block(b"large", size=octal(large))
    with Extraction(tmp_path) as extraction:
        extraction.take(archive, [])
        assert extraction.extractor.window.files == (Span(len(archive), len(archive) + large),)
        extraction.extractor.mark(len(archive), len(archive) + large)
        extraction.extractor.tidy(())
        assert extraction.extractor.window.files == ()
