"""Zip extraction judged by Info-ZIP's unzip, and by what may never come of damaged archives.

Unzip sets the permissions that an archive states as they are; here they go through the umask.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import struct
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgetpy.core.archives.limits import Limits
from pgetpy.errors import ArchiveError
from tests.support.attacks import SECRET, damaged
from tests.support.bodies import body
from tests.support.faults import IgnoreRange
from tests.support.fetching import extract
from tests.support.judges import require_judge
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.trees import THEN, Drawn, Node, drawn_members, on_disk, ranges, tree, umask
from tests.support.zips import Entry, Member, by_zipfile, end, field, link, packed, parts

MIB = 1 << 20
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
UNZIP = pytest.mark.judge("unzip")
# The umask, so that what unzip makes can be compared whatever the caller's is.
MASK = 0o027

ZONES = ("UTC0", "XST-9:30", "EST5EDT,M3.2.0,M11.1.0")
zones = st.sampled_from(ZONES)


@contextmanager
def zone(name: str) -> Iterator[None]:
    """The clock, ours and unzip's, shows the time of a zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def by_unzip(archive: Path, folder: Path) -> None:
    """Extract as a user would; what only makes unzip warn is no failure."""
    folder.mkdir()
    command = [require_judge("unzip"), "-qo", str(archive), "-d", str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode in (0, 1), done.stderr


def comparable(found: dict[str, Node], mask: int = 0) -> dict[str, Node]:
    """What can be compared: unzip leaves links the time at which it made them."""

    def compared(node: Node) -> Node:
        if node.kind == "l":
            return node._replace(mtime=0)
        return node._replace(mode=f"{int(node.mode, 8) & ~mask:04o}")

    return {name: compared(node) for name, node in found.items()}


def assert_judged_equal(shelf: Server, archive: bytes, *, tz: str = "UTC0", **options: Any) -> None:
    """Extract `archive` and have unzip extract it."""
    faults = (IgnoreRange(),) if options.pop("spooled", False) else ()
    checked = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    checksum = checked if options.pop("checksum", False) else None
    with tempfile.TemporaryDirectory(prefix="judged-") as made, zone(tz), umask(MASK):
        home = Path(made)
        since = home.stat().st_mtime_ns
        url = shelf.add("/archive.zip", Resource(archive, faults=faults))
        extract(url, home / "ours", checksum=checksum, **options)
        assert sorted(os.listdir(home)) == ["ours"]
        (home / "archive").write_bytes(archive)
        by_unzip(home / "archive", home / "theirs")
        ours, theirs = tree(home / "ours", since), tree(home / "theirs", since)
        assert comparable(ours) == comparable(theirs, MASK)


how = st.fixed_dictionaries(
    {"tz": zones, "chunk_size": ranges, "spooled": st.booleans(), "checksum": st.booleans()}
)


# ---------------------------------------------------------------------------- any archive


def distinct(drawn: list[Drawn]) -> list[Drawn]:
    """Of several of one name the last: what unzip makes of the others depends on their kinds.

    Folders come first, as unzip does not look at what is stated of those that it has made already.
    """
    found = {member.parts: member for member in drawn if member.parts}.values()
    return sorted(found, key=lambda m: len(m.parts) if m.kind == tarfile.DIRTYPE else 9)


def exactly(member: Drawn) -> bytes:
    """The extended timestamp, which not all have, in seconds of four bytes."""
    if member.size % 2:
        return b""
    return field(0x5455, struct.pack("<Bi", 1, int(min(member.mtime, 2**31 - 1))))


def as_member(member: Drawn) -> Member:
    """What zipfile packs, with a year that a zip can state and that unzip gets right."""
    moment = time.localtime(min(max(member.mtime, 320_000_000), 4_000_000_000))[:6]
    rest = (moment, exactly(member))
    method = DEFLATED if member.size % 3 else STORED
    if member.kind == tarfile.DIRTYPE:
        return Member(f"{member.name}/", b"", stat.S_IFDIR | member.mode, STORED, *rest)
    if member.kind == tarfile.SYMTYPE:
        target = member.way.encode(errors="surrogateescape")
        return Member(member.name, target, stat.S_IFLNK | 0o777, method, *rest)
    return Member(member.name, member.data, stat.S_IFREG | member.mode, method, *rest)


def no_odd_bytes(drawn: list[Drawn]) -> list[Drawn]:
    """Less those whose names are no UTF-8, which neither zipfile nor bsdtar packs."""
    return [member for member in drawn if "\udce9" not in (*member.parts, *member.target)]


@UNZIP
@settings(max_examples=25)
@given(drawn=drawn_members, how=how)
def test_what_python_packs_is_extracted_as_unzip_does(
    shelf: Server, drawn: list[Drawn], how: dict[str, Any]
) -> None:
    archive = packed(map(as_member, no_odd_bytes(distinct(drawn))))
    if archive.startswith(b"PK\5\6"):
        archive = by_zipfile({"unzip finds fault with an empty archive": b""})
    assert_judged_equal(shelf, archive, **how)


def of_tree(drawn: list[Drawn], pack: Callable[[Path, Path], list[str]]) -> bytes:
    """An archive of the tree that the members make, by the command that `pack` gives."""
    with tempfile.TemporaryDirectory(prefix="judged-") as made:
        root, archive = Path(made, "tree"), Path(made, "archive.zip")
        on_disk(drawn, root)
        # With nothing to pack there is no archive.
        (root / "always").touch()
        command = pack(root, archive)
        done = subprocess.run(
            [require_judge(command[0]), *command[1:]],
            cwd=root,
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert done.returncode == 0, done.stderr
        return archive.read_bytes() if archive.exists() else done.stdout


ZIP_OPTIONS = st.lists(st.sampled_from(["-0", "-9", "-X", "-D", "-fz"]), max_size=2, unique=True)


@UNZIP
@pytest.mark.judge("zip")
@settings(max_examples=20)
@given(drawn=drawn_members, how=how, options=ZIP_OPTIONS, stream=st.booleans())
def test_what_zip_packs_is_extracted_as_unzip_does(
    shelf: Server, drawn: list[Drawn], how: dict[str, Any], options: list[str], stream: bool
) -> None:
    # Zip64 through a pipe zip writes so that nobody can read it.
    options = [option for option in options if not (stream and option == "-fz")]
    # What is stored without being asked for, as links are, does not go through a pipe either.
    drawn = [member for member in drawn if not (stream and member.kind == tarfile.SYMTYPE)]

    def command(root: Path, archive: Path) -> list[str]:
        return ["zip", "-qry", *options, "-" if stream else str(archive), "."]

    with zone(how["tz"]):
        archive = of_tree(drawn, command)
    assert_judged_equal(shelf, archive, **how)


@UNZIP
@pytest.mark.judge("bsdtar")
@settings(max_examples=15)
@given(drawn=drawn_members, how=how, method=st.sampled_from(["store", "deflate"]))
def test_what_bsdtar_packs_is_extracted_as_unzip_does(
    shelf: Server, drawn: list[Drawn], how: dict[str, Any], method: str
) -> None:
    def command(root: Path, archive: Path) -> list[str]:
        plain = ["--no-xattrs", "--no-acls", "--no-fflags", f"--options=zip:compression={method}"]
        names = ["--", *sorted(os.listdir(root))]
        return ["bsdtar", "--format=zip", *plain, "-cf", str(archive), *names]

    # It keeps hard links as links, which unzip does not know.
    drawn = [member for member in no_odd_bytes(drawn) if member.kind != tarfile.LNKTYPE]
    with zone(how["tz"]):
        archive = of_tree(drawn, command)
    assert_judged_equal(shelf, archive, **how)


@UNZIP
@pytest.mark.judge("7z")
@pytest.mark.parametrize(
    "options",
    ["LZMA", "LZMA:d=4k", "LZMA:lc=4:pb=0", "BZip2", "BZip2:pass=2", "Deflate", "Copy"],
)
@pytest.mark.parametrize("faults", [(), (IgnoreRange(),)], ids=["ranges", "no ranges"])
def test_what_7_zip_packs_is_extracted_as_it_was(
    shelf: Server, tmp_path: Path, options: str, faults: tuple[IgnoreRange, ...]
) -> None:
    files = {
        "large": body(2 * MIB) + bytes(MIB),
        "text": b"weights " * 9000,
        "one": b"1",
        "no": b"",
    }
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    (source / "link").symlink_to("text")
    archive = tmp_path / "archive.zip"
    command = [require_judge("7z"), "a", "-tzip", "-snl", f"-mm={options}", str(archive), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    url = shelf.add("/7.zip", Resource(archive.read_bytes(), faults=faults))
    extract(url, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        **files, "link": files["text"],
    }  # fmt: skip
    assert (tmp_path / "out" / "link").is_symlink()


@pytest.mark.judge("7z")
@pytest.mark.parametrize("options", ["-mm=Deflate64", "-mm=PPMd", "-mm=LZMA -mem=AES256 -pX"])
def test_what_cannot_be_read_of_7_zip_is_one_clear_error(
    shelf: Server, tmp_path: Path, options: str
) -> None:
    (tmp_path / "wrong").write_bytes(b"weights " * 9000)
    archive = tmp_path / "archive.zip"
    command = [require_judge("7z"), "a", "-tzip", *options.split(), str(archive), "wrong"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    url = shelf.add("/7.zip", Resource(archive.read_bytes()))
    with pytest.raises(ArchiveError, match=r"member 'wrong' is (compressed by|encrypted)"):
        extract(url, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- chosen ones


def larger_archive() -> bytes:
    """Members that take many ranges, and 300 that share one, links and replacements among them."""
    small = (
        Member(f"small/{n % 7}/{n}.json", body(900 * n % 4001), method=n % 2 * DEFLATED)
        for n in range(300)
    )
    return packed(
        [
            Member("small/", mode=stat.S_IFDIR | 0o555),
            Member("first.safetensors", body(9 * MIB + 17), date_time=(1999, 7, 1, 1, 2, 4)),
            link("latest", "shards/second.safetensors"),
            *small,
            Member("text", b"all work and no play " * 100_000, stat.S_IFREG | 0o640, DEFLATED),
            Member("shards/second.safetensors", body(7 * MIB + 1), stat.S_IFREG | 0o640),
            Member("first.safetensors", b"replaced", date_time=(2001, 1, 1, 1, 2, 4)),
        ]
    )


@UNZIP
@pytest.mark.parametrize("checksum", [False, True], ids=["unchecked", "checked"])
def test_ranges_out_of_order_make_the_tree_that_unzip_makes(shelf: Server, checksum: bool) -> None:
    options: dict[str, Any] = {"chunk_size": MIB, "concurrency": 8, "checksum": checksum}
    assert_judged_equal(shelf, larger_archive(), tz=ZONES[2], **options)


@UNZIP
def test_of_several_files_of_one_name_the_one_that_unzip_leaves_is_left(shelf: Server) -> None:
    members = [Member(name, body(size)) for size in (5, 7_000, 0, 30) for name in ("a", "d/b")]
    assert_judged_equal(shelf, packed(members))


@UNZIP
def test_of_one_name_the_last_in_the_directory_is_left_wherever_it_stands(shelf: Server) -> None:
    # The directory names the member first that stands last.
    later, earlier = Entry(b"a", b"earlier"), Entry(b"a", b"later, and longer")
    (one, entry), (other, other_entry) = parts(later), parts(earlier)
    moved = other_entry[:42] + struct.pack("<I", len(one)) + other_entry[46:]
    directory = moved + entry
    archive = one + other + directory + end(2, len(directory), len(one + other))
    assert_judged_equal(shelf, archive)


# Moments that every zone has once, and a day that there is not; unzip takes 2100 for a leap year.
DATES = [
    (1980, 1, 1, 0, 0, 0), (1999, 12, 31, 23, 59, 58), (2023, 3, 12, 12, 30, 0),
    (2024, 2, 29, 12, 0, 0), (2023, 2, 31, 12, 0, 0), (2023, 7, 1, 0, 0, 2),
    (2037, 6, 1, 0, 0, 0), (2038, 2, 1, 0, 0, 0), (2099, 12, 31, 23, 59, 58),
]  # fmt: skip


@UNZIP
@pytest.mark.parametrize("tz", ZONES)
def test_times_are_those_that_unzip_sets(shelf: Server, tz: str) -> None:
    plain = [Member(f"plain {n}", date_time=moment) for n, moment in enumerate(DATES)]
    exact = [
        Member(f"exact {n} {seconds}", date_time=moment, extra=extra)
        for n, moment in enumerate(DATES)
        for seconds in (0, 1, THEN, 2**31 - 1)
        for extra in [field(0x5455, struct.pack("<BI", 1, seconds))]
    ]
    older = [
        Member(f"older {seconds}", extra=field(0x5855, struct.pack("<ii", 5, seconds)))
        for seconds in (0, THEN, 2**31 - 1)
    ]
    assert_judged_equal(shelf, packed([*plain, *exact, *older]), tz=tz)


# ---------------------------------------------------------------------------- damaged archives


CONTENTS = {
    "d/large": body(600_000),
    **{f"d/{n}": body(137 * n) for n in range(12)},
    "d/text": b"the weights of the model " * 2000,
    "d/zeros": bytes(70_000),
    "last": body(5000, "last"),
}


def healthy() -> bytes:
    members = [
        Member(name, data, method=DEFLATED if "t" in name or name == "d/zeros" else STORED)
        for name, data in CONTENTS.items()
    ]
    folder = Member("d/", mode=stat.S_IFDIR | 0o755)
    exact = field(0x5455, struct.pack("<BI", 1, THEN))
    return packed([folder, *members, link("d/link", "../last"), Member("e", b"e", extra=exact)])


HEALTHY = healthy()
KNOWN = {hashlib.sha256(data).digest() for data in (*CONTENTS.values(), b"e", b"")}
MAGICS = (b"PK\3\4", b"PK\1\2", b"PK\5\6")
# Where fields are, by the magic number before them, with what is worth trying in them. Those that
# both headers have come in pairs, for what only one says is a contradiction.
PAIRS: dict[tuple[int, int], tuple[bytes, ...]] = {
    (6, 8): (b"\1\0", b"\x08\0", b"\0\x08", b"\x40\0", b"\x20\0", b"\xff\xff"),
    (8, 10): (b"\0\0", b"\x08\0", b"\x0c\0", b"\x63\0"),
    (10, 12): (bytes(4), b"\xff" * 4),
    (14, 16): (bytes(4), b"\xff" * 4),
    (18, 20): (bytes(4), b"\xff" * 4, b"\1\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\1\0"),
    (22, 24): (bytes(4), b"\xff" * 4, b"\1\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\1\0"),
    (26, 28): (b"\0\0", b"\xff\xff", b"\3\0"),
    (28, 30): (b"\0\0", b"\xff\xff", b"\4\0"),
    (30, 46): (b"../x", b"/xyz", b"d/0\0", b"d///", b"d/li", b"\xff\xfe\xfd\xfc", b"\x1b[2J", b"e"),
}
CENTRAL: dict[int, tuple[bytes, ...]] = {
    4: (b"\x14\0", b"\x14\3", b"\x14\x0b", b"\xff\xff"),
    32: (b"\xff\xff", b"\5\0"),
    34: (b"\1\0", b"\xff\xff"),
    38: (b"\0\0\xff\xa1", b"\0\0\xed\x41", b"\0\0\0\x20", b"\x10\0\0\0", bytes(4), b"\0\0\xff\x8f"),
    42: (bytes(4), b"\xff" * 4, b"\1\0\0\0"),
}
END: dict[int, tuple[bytes, ...]] = {
    4: (b"\1\0",), 6: (b"\1\0",), 8: (b"\1\0", b"\xff\xff", b"\0\0"),
    10: (b"\1\0", b"\xff\xff", b"\0\0"), 12: (bytes(4), b"\xff" * 4, b"\1\0\0\0"),
    16: (bytes(4), b"\xff" * 4, b"\1\0\0\0"), 20: (b"\1\0", b"\xff\xff"),
}  # fmt: skip


def places(archive: bytes, magic: bytes) -> list[int]:
    found, at = [], archive.find(magic)
    while at >= 0:
        found.append(at)
        at = archive.find(magic, at + 1)
    return found


LOCALS, ENTRIES, ENDS = (places(HEALTHY, magic) for magic in MAGICS)


def tricked(archive: bytearray, chance: random.Random) -> None:
    """Change a field of an entry, in both of its headers mostly, or one of the end record."""

    def put(at: int, value: bytes) -> None:
        archive[at : at + len(value)] = value

    number = chance.randrange(len(ENTRIES))
    what = chance.randrange(5)
    if what == 0:
        place, values = chance.choice(list(END.items()))
        put(ENDS[-1] + place, chance.choice(values))
    elif what == 1:
        place, values = chance.choice(list(CENTRAL.items()))
        put(ENTRIES[number] + place, chance.choice(values))
    else:
        (local, central), values = chance.choice(list(PAIRS.items()))
        value = chance.choice(values)
        if what != 2 or chance.random() < 0.5:
            put(LOCALS[number] + local, value)
        if what != 2:
            put(ENTRIES[number] + central, value)


def mutated(chance: random.Random) -> bytes:
    archive = bytearray(HEALTHY)
    if chance.random() < 0.7:
        for _ in range(chance.choice([1, 1, 2, 4])):
            tricked(archive, chance)
        return bytes(archive)
    if chance.random() < 0.5:
        # Only where the structure is: most of the rest is content, which its CRC stands for.
        start = ENTRIES[0]
        return bytes(archive[:start]) + damaged(archive[start:], chance, blocks=1)
    return damaged(archive, chance, blocks=chance.choice([1, 46, 512]))


TIGHT = Limits(total_bytes=1 << 24, members=2000, ratio=100, ratio_floor=MIB)


def outcome(shelf: Server, archive: bytes, home: Path, *, spooled: bool) -> dict[str, Node] | None:
    """The tree that comes of an archive, None where it is refused; nothing else may come of it."""
    since = time.time_ns() - 10**9
    home.mkdir()
    (home / SECRET).write_text("kept")
    faults = (IgnoreRange(),) if spooled else ()
    url = shelf.add("/damaged.zip", Resource(archive, faults=faults))
    found: dict[str, Node] | None = None
    with suppress(ArchiveError):
        extract(url, home / "out", limits=TIGHT, chunk_size=100_000, concurrency=4)
        found = tree(home / "out", since)
        assert_known(home / "out")
    assert sorted(os.listdir(home)) == ([SECRET] if found is None else ["out", SECRET])
    assert (home / SECRET).read_text() == "kept"
    assert (home / SECRET).stat().st_nlink == 1
    return found


def assert_known(folder: Path) -> None:
    """No file holds what no CRC vouches for, and no link leads out."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            target = os.path.normpath(path.parent / os.readlink(path))
            assert Path(target).is_relative_to(folder)
        elif path.is_file():
            data = path.read_bytes()
            # A link that is said to be a file holds its target.
            assert hashlib.sha256(data).digest() in KNOWN or data == b"../last"


def assert_survived(shelf: Server, seed: int) -> None:
    archive = mutated(random.Random(seed))
    with tempfile.TemporaryDirectory(prefix="damaged-") as made:
        ranged = outcome(shelf, archive, Path(made, "ranged"), spooled=False)
        spooled = outcome(shelf, archive, Path(made, "spooled"), spooled=True)
        assert ranged == spooled


@pytest.mark.parametrize("spooled", [False, True], ids=["ranged", "spooled"])
def test_an_undamaged_archive_comes_out_whole(shelf: Server, tmp_path: Path, spooled: bool) -> None:
    found = outcome(shelf, HEALTHY, tmp_path / "home", spooled=spooled)
    assert found is not None
    assert len(found) == len(CONTENTS) + 4
    assert len(LOCALS) == len(ENTRIES) == len(CONTENTS) + 3


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_archive_is_an_error_or_the_same_tree_either_way(
    shelf: Server, seed: int
) -> None:
    assert_survived(shelf, seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=1500)
@given(seed=st.integers(0, 2**32))
def test_hundreds_of_damaged_archives_are_survived(shelf: Server, seed: int) -> None:
    assert_survived(shelf, seed)
