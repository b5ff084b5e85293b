"""Extraction judged by programs that were not written here: GNU tar, bsdtar, CPython's archive.

What they extract and what is extracted here must be the same in all that can be seen of a tree.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import pgetpy
from pgetpy.archives.layout import ArchiveLayout
from pgetpy.archives.sink import ArchiveSink
from pgetpy.archives.spool import Spool
from pgetpy.core.archives.limits import Limits
from pgetpy.core.http.ranges import Span
from pgetpy.errors import ArchiveError, LimitExceededError, UnsafeMemberError
from pgetpy.system.filesystem import fold_of
from tests.support.attacks import ATTACKS, FILE, FOLDER, HARDLINK, SECRET, SYMLINK, Attack, damaged
from tests.support.bodies import body
from tests.support.fetching import impatient
from tests.support.judges import require_judge
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.trees import (
    SECOND,
    THEN,
    Drawn,
    Node,
    bare,
    drawn_members,
    on_disk,
    ranges,
    standing,
    tree,
    umask,
)

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 512

GNU_TAR = pytest.mark.judge("tar")
BSD_TAR = pytest.mark.judge("bsdtar")


# ---------------------------------------------------------------------------- whole trees


def by_gnu_tar(archive: Path, folder: Path) -> None:
    """Extract as a user would who is nobody special."""
    options = ["--no-same-owner", "--no-same-permissions", "--delay-directory-restore"]
    # Else it puts links with `..` off, and of two of one name the first may win.
    options.append("--absolute-names")
    folder.mkdir()
    _judge(["tar", *options, "-xf", str(archive), "-C", str(folder)])


def by_bsdtar(archive: Path, folder: Path) -> None:
    folder.mkdir()
    _judge(["bsdtar", "-o", "-xf", str(archive), "-C", str(folder)])


def _judge(command: list[str]) -> None:
    command = [require_judge(command[0]), *command[1:]]
    # In any other than a UTF-8 locale bsdtar has no UTF-8 names.
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


COMPRESSORS = {
    "gzip": (["gzip", "-1"], ".gz"),
    "bzip2": (["bzip2", "-1"], ".bz2"),
    "xz": (["xz", "-0"], ".xz"),
    "zstd": (["zstd", "-q", "-1"], ".zst"),
    "lz4": (["lz4", "-q", "-1"], ".lz4"),
}


def packed(archive: bytes, tool: str | None) -> tuple[bytes, str]:
    """The archive as `tool` compresses it, and the suffix of its name."""
    if tool is None:
        return archive, ".tar"
    command, suffix = COMPRESSORS[tool]
    command = [require_judge(tool), *command[1:], "-c"]
    done = subprocess.run(command, input=archive, capture_output=True, check=True)
    return done.stdout, f".tar{suffix}"


def assert_judged_equal(
    shelf: Server,
    archive: bytes,
    tool: str | None = None,
    judge: Callable[[Path, Path], None] = by_gnu_tar,
    **options: Any,
) -> None:
    """Extract `archive`, packed by `tool`, and have `judge` extract it."""
    sent, suffix = packed(archive, tool)
    digest = f"sha256:{hashlib.sha256(sent).hexdigest()}"
    checksum = digest if options.pop("checksum", False) else None
    with tempfile.TemporaryDirectory(prefix="judged-") as made:
        home = Path(made)
        since = home.stat().st_mtime_ns
        url = shelf.add(f"/archive{suffix}", Resource(sent))
        pgetpy.extract(url, home / "ours", checksum=checksum, settings=impatient(**options))
        assert sorted(os.listdir(home)) == ["ours"]
        (home / "archive").write_bytes(archive)
        judge(home / "archive", home / "theirs")
        ours, theirs = tree(home / "ours", since), tree(home / "theirs", since)
        assert all(node.mode <= "0777" for node in ours.values())
        assert ours == {name: _tame(node) for name, node in theirs.items()}


def _tame(node: Node) -> Node:
    """Set-ID and sticky bits are dropped here, whatever the judge does."""
    return node._replace(mode=f"0{node.mode[1:]}")


# ---------------------------------------------------------------------------- any archive


def by_tarfile(drawn: list[Drawn], format: int) -> bytes:
    made = io.BytesIO()
    if format == tarfile.USTAR_FORMAT:
        drawn = [member.shortened() for member in drawn]
    with tarfile.open(
        fileobj=made, mode="w", format=format, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for member in standing(drawn):
            info = tarfile.TarInfo(member.name)
            info.type, info.mode, info.mtime = member.kind, member.mode, member.mtime
            if member.kind == tarfile.REGTYPE:
                info.size = member.size
            elif member.kind == tarfile.SYMTYPE:
                info.linkname = member.way
            elif member.kind == tarfile.LNKTYPE:
                info.linkname = "/".join(member.target)
            archive.addfile(info, io.BytesIO(member.data))
    return made.getvalue()


def packed_by(command: list[str], drawn: list[Drawn], *, whole: bool) -> bytes:
    """An archive of the tree that the members make: of `.`, or of what is in it."""
    with tempfile.TemporaryDirectory(prefix="judged-") as made:
        root = Path(made, "tree")
        on_disk(drawn, root)
        names = ["."] if whole or not os.listdir(root) else sorted(os.listdir(root))
        archive = Path(made, "archive")
        _judge([*command, "-cf", str(archive), "-C", str(root), "--", *names])
        return archive.read_bytes()


TARFILE_FORMATS = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


@GNU_TAR
@pytest.mark.parametrize("format", TARFILE_FORMATS)
@settings(max_examples=12)
@given(drawn=drawn_members, chunk_size=ranges)
def test_what_python_packs_is_extracted_as_gnu_tar_does(
    shelf: Server, format: str, drawn: list[Drawn], chunk_size: int
) -> None:
    archive = by_tarfile(drawn, TARFILE_FORMATS[format])
    assert_judged_equal(shelf, archive, chunk_size=chunk_size)


@GNU_TAR
@pytest.mark.parametrize(
    "options",
    [
        "--format=v7",
        "--format=oldgnu",
        "--format=oldgnu -S",
        "--format=gnu",
        "--format=gnu -S",
        "--format=ustar",
        "--format=posix",
        "--format=posix -S --sparse-version=0.0",
        "--format=posix -S --sparse-version=0.1",
        "--format=posix -S --sparse-version=1.0",
    ],
)
@settings(max_examples=5)
@given(drawn=drawn_members, chunk_size=ranges, whole=st.booleans())
def test_what_gnu_tar_packs_is_extracted_as_gnu_tar_does(
    shelf: Server, options: str, drawn: list[Drawn], chunk_size: int, whole: bool
) -> None:
    if "v7" in options or "ustar" in options:
        drawn = [member.shortened() for member in drawn]
    command = ["tar", *options.split(), *(["--hole-detection=raw"] if "-S" in options else [])]
    archive = packed_by(command, drawn, whole=whole)
    assert_judged_equal(shelf, archive, chunk_size=chunk_size)


@BSD_TAR
@GNU_TAR
@pytest.mark.parametrize("format", ["ustar", "pax", "gnutar"])
@settings(max_examples=5)
@given(drawn=drawn_members, chunk_size=ranges, whole=st.booleans())
def test_what_bsdtar_packs_is_extracted_as_gnu_tar_does(
    shelf: Server, format: str, drawn: list[Drawn], chunk_size: int, whole: bool
) -> None:
    if format == "ustar":
        drawn = [member.shortened() for member in drawn]
    # Names that are no UTF-8 it only packs with a warning.
    drawn = [member for member in drawn if "\udce9" not in (*member.parts, *member.target)]
    options = ["--no-xattrs", "--no-acls", "--no-fflags"]
    archive = packed_by(["bsdtar", f"--format={format}", *options], drawn, whole=whole)
    assert_judged_equal(shelf, archive, chunk_size=chunk_size)


@GNU_TAR
@pytest.mark.parametrize("tool", [pytest.param(t, marks=pytest.mark.judge(t)) for t in COMPRESSORS])
@settings(max_examples=5)
@given(drawn=drawn_members, chunk_size=ranges)
def test_what_the_real_tools_compress_is_extracted_as_gnu_tar_does(
    shelf: Server, tool: str, drawn: list[Drawn], chunk_size: int
) -> None:
    archive = by_tarfile(drawn, tarfile.PAX_FORMAT)
    assert_judged_equal(shelf, archive, tool, chunk_size=chunk_size, checksum=True)


# ---------------------------------------------------------------------------- a larger archive


def larger_archive() -> bytes:
    """Two members that take many ranges, and 300 that share one, links among them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes = b"", **fields: Any) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), THEN + len(data) / 7, 0o664
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))

        add("./", type=tarfile.DIRTYPE, mode=0o750)
        add("first.safetensors", body(20 * MIB + 17))
        add("latest", type=tarfile.SYMTYPE, linkname="shards/second.safetensors")
        for number in range(150):
            add(f"small/{number % 7}/{number}.json", body(900 * number % 4001))
        add("small", type=tarfile.DIRTYPE, mode=0o555)
        add("shards/second.safetensors", body(19 * MIB + 1), mode=0o640)
        add("shards/copy.safetensors", type=tarfile.LNKTYPE, linkname="first.safetensors")
        for number in range(150):
            add(f"more/{number}.json", body(77 * number))
        # A file takes the place of a large one; its other name keeps the first.
        add("first.safetensors", b"replaced")
    return made.getvalue()


@GNU_TAR
@pytest.mark.parametrize(
    ("checksum", "mask"), [(False, 0o022), (True, 0o077)], ids=["unchecked", "checked"]
)
def test_ranges_out_of_order_make_the_tree_that_gnu_tar_makes(
    shelf: Server, checksum: bool, mask: int
) -> None:
    with umask(mask):
        assert_judged_equal(
            shelf, larger_archive(), chunk_size=MIB, concurrency=8, checksum=checksum
        )


@GNU_TAR
@pytest.mark.parametrize("tool", [pytest.param("zstd", marks=pytest.mark.judge("zstd"))])
def test_compressed_ranges_out_of_order_make_the_tree_that_gnu_tar_makes(
    shelf: Server, tool: str
) -> None:
    assert_judged_equal(shelf, larger_archive(), tool, chunk_size=MIB, concurrency=8)


@GNU_TAR
def test_what_is_replaced_while_it_arrives_still_counts_for_the_checksum(shelf: Server) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for size in (5 * MIB, 7, 3 * MIB, MIB, 0):
            for name in ("one", "other"):
                info = tarfile.TarInfo(name)
                info.size = size
                archive.addfile(info, io.BytesIO(body(size)))
    assert_judged_equal(shelf, made.getvalue(), chunk_size=300_000, concurrency=8, checksum=True)


# ---------------------------------------------------------------------------- links and folders


def packed_as(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, fields in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, THEN
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info)
    return made.getvalue()


@GNU_TAR
def test_hard_links_to_symbolic_links_are_made_as_gnu_tar_does(shelf: Server) -> None:
    archive = packed_as(
        ("d/link", tarfile.SYMTYPE, {"linkname": "../file"}),
        ("e/same", tarfile.LNKTYPE, {"linkname": "d/link"}),
        ("e/f/third", tarfile.LNKTYPE, {"linkname": "e/same"}),
        ("plain", tarfile.SYMTYPE, {"linkname": "file"}),
        ("also", tarfile.LNKTYPE, {"linkname": "plain"}),
        ("file", tarfile.REGTYPE, {}),
        ("plain", tarfile.SYMTYPE, {"linkname": "d"}),
    )
    assert_judged_equal(shelf, archive)


@GNU_TAR
@pytest.mark.parametrize("top", [True, False], ids=["top stated", "top not stated"])
@pytest.mark.parametrize("mode", [0o700, 0o777, 0o2775, 0o1777])
def test_folders_that_were_there_look_afterwards_as_with_gnu_tar(
    shelf: Server, tmp_path: Path, mode: int, top: bool
) -> None:
    """Their permissions and times, where the archive states them and where it does not."""
    archive = packed_as(
        *([("./", tarfile.DIRTYPE, {"mode": 0o750})] if top else []),
        ("stated", tarfile.DIRTYPE, {"mode": 0o711}),
        ("stated/file", tarfile.REGTYPE, {}),
        ("implied/file", tarfile.REGTYPE, {}),
        ("implied/below/file", tarfile.REGTYPE, {}),
        ("untouched/below/file", tarfile.REGTYPE, {}),
        ("new", tarfile.DIRTYPE, {"mode": 0o755}),
    )
    (tmp_path / "archive").write_bytes(archive)
    found = {}
    for name in ("ours", "theirs"):
        home = tmp_path / name
        for folder in ("stated", "implied/below", "untouched/below", "."):
            (home / folder).mkdir(parents=True, exist_ok=True)
        for folder in (*home.rglob("*"), home):
            folder.chmod(mode)
            os.utime(folder, (1, 1))
        since = time.time_ns() - SECOND
        if name == "ours":
            url = shelf.add("/folders.tar", Resource(archive))
            pgetpy.extract(url, home, force=True, settings=impatient())
        else:
            judge = ["tar", "--no-same-owner", "--no-same-permissions", "-xf"]
            _judge([*judge, str(tmp_path / "archive"), "-C", str(home)])
        found[name] = tree(home, since)
    assert found["ours"] == found["theirs"]


# ---------------------------------------------------------------------------- CPython's archive


def cpythons_archive() -> bytes:
    folder = Path(str(importlib.import_module("test").__file__)).parent
    for path in (folder / "testtar.tar", folder / "archivetestdata" / "testtar.tar"):
        if path.exists():
            return path.read_bytes()
    pytest.skip("this Python comes without testtar.tar")


def without(archive: bytes, unwanted: Callable[[tarfile.TarInfo], bool]) -> bytes:
    """The same blocks, less those of the members that are not wanted."""
    with tarfile.open(fileobj=io.BytesIO(archive), encoding="utf-8") as reader:
        infos = reader.getmembers()
        end = reader.offset
    stops = [info.offset for info in infos[1:]] + [end]
    kept = [
        archive[info.offset : stop]
        for info, stop in zip(infos, stops, strict=True)
        if not unwanted(info)
    ]
    return b"".join(kept) + bytes(2 * BLOCK)


@pytest.mark.parametrize("kind", ["chrtype", "blktype", "fifotype"])
def test_the_devices_in_cpythons_archive_are_refused(
    shelf: Server, tmp_path: Path, kind: str
) -> None:
    archive = without(
        cpythons_archive(), lambda info: info.isdev() and not info.name.endswith(kind)
    )
    url = shelf.add("/testtar.tar", Resource(archive))
    with pytest.raises(UnsafeMemberError, match=kind):
        pgetpy.extract(url, tmp_path / "out", settings=impatient())
    assert os.listdir(tmp_path) == []


@GNU_TAR
@pytest.mark.parametrize("tool", [None, "gzip"], ids=["plain", "gzip"])
def test_the_rest_of_cpythons_archive_is_extracted_as_gnu_tar_does(
    shelf: Server, tool: str | None
) -> None:
    archive = without(cpythons_archive(), tarfile.TarInfo.isdev)
    assert_judged_equal(shelf, archive, tool, chunk_size=50_000)


# ---------------------------------------------------------------------------- hostile archives


def hostile(attack: Attack) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, kind: bytes, target: str, size: int = 0) -> None:
            # Stated in extended headers alone, where no name is cut off at its first NUL.
            info = tarfile.TarInfo("plain")
            info.type, info.size = kind, size
            info.pax_headers = {"path": name, **({"linkpath": target} if target else {})}
            archive.addfile(info, io.BytesIO(body(size)))

        # By the time it shows something large has been written, and something small.
        add("fine/large", FILE, "", 600 * KIB)
        add("fine/small", FILE, "", 10)
        for name, kind, target in attack.members:
            add(name, kind, target, 5 if kind == FILE else 0)
        add("fine/after", FILE, "", 2000)
    return made.getvalue()


@pytest.mark.parametrize(
    ("compressed", "existing"), [(False, False), (True, True)], ids=["plain new", "zstd existing"]
)
@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_is_refused_by_name_and_leaves_nothing(
    shelf: Server, tmp_path: Path, kind: str, compressed: bool, existing: bool
) -> None:
    attack = ATTACKS[kind]
    (tmp_path / SECRET).write_text("kept")
    if existing:
        (tmp_path / "out" / "mine").mkdir(parents=True)
    before = bare(tree(tmp_path, 0))
    archive = hostile(attack)
    url = shelf.add("/evil", Resource(zstandard.compress(archive) if compressed else archive))
    with pytest.raises(attack.error) as caught:
        pgetpy.extract(
            url, tmp_path / "out", force=existing, settings=impatient(chunk_size=100_000)
        )
    assert isinstance(caught.value, (UnsafeMemberError, LimitExceededError))
    assert caught.value.member == attack.members[attack.refused][0]
    assert bare(tree(tmp_path, 0)) == before
    assert not Path("/tmp/evil").exists()


# ---------------------------------------------------------------------------- damaged archives


class Feed:
    """Gives an archive to a sink as an engine would: from threads, in any order it allows."""

    def __init__(self, sink: ArchiveSink, archive: bytes, chance: random.Random | None) -> None:
        self.failure: BaseException | None = None
        self._sink = sink
        self._archive = archive
        self._chance = chance
        # Whether headers are preferred, as engines do.
        self._eager = chance is None or chance.random() < 0.5
        self._missing = _pieces(len(archive), chance)
        self._busy: list[Span] = []
        self._changed = threading.Condition()

    def run(self, threads: int) -> None:
        """Feed it all, and raise what the sink raised first."""
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
            assert not worker.is_alive(), "the sink hangs"
        if self.failure is not None:
            raise self.failure
        self._sink.tidy(())
        self._sink.finish(len(self._archive))

    def _work(self) -> None:
        try:
            while (span := self._claim()) is not None:
                self._give(span)
                with self._changed:
                    self._busy.remove(span)
                    self._sink.tidy(self._busy)
                    self._changed.notify_all()
        except BaseException as failure:
            with self._changed:
                self.failure = self.failure or failure
                self._changed.notify_all()

    def _claim(self) -> Span | None:
        """The next piece; None at the end."""
        with self._changed:
            while self._missing and self.failure is None:
                span = self._allowed()
                if span is not None:
                    self._busy.append(span)
                    return span
                assert self._busy, "nothing may be given, and nobody is at work"
                self._changed.wait(0.05)
        return None

    def _allowed(self) -> Span | None:
        stop = self._sink.window.stop
        allowed = [index for index, span in enumerate(self._missing) if span.start < stop]
        if self._sink.extractor is None:
            allowed = [] if self._busy else allowed[:1]
        if not allowed:
            return None
        index = self._chance.choice(allowed) if self._chance else allowed[0]
        if self._eager:
            horizon = self._sink.window.horizon
            wanted = (
                i for i in allowed if self._missing[i].start <= horizon < self._missing[i].stop
            )
            index = next(wanted, index)
        span = self._missing.pop(index)
        if span.stop > stop:
            self._missing.insert(index, Span(stop, span.stop))
        return Span(span.start, min(span.stop, stop))

    def _give(self, span: Span) -> None:
        pos = span.start
        while pos < span.stop:
            place = self._sink.place(pos)
            if place is None:
                self._sink.write(pos, memoryview(self._archive)[pos : span.stop])
                break
            stop = min(span.stop, pos + place.room)
            pos += os.pwrite(place.fd, self._archive[pos:stop], place.offset)
        self._sink.mark(span.start, span.stop)


def _pieces(total: int, chance: random.Random | None) -> list[Span]:
    if chance is None:
        return [Span(pos, min(total, pos + 65536)) for pos in range(0, total, 65536)]
    longest = chance.choice([700, 20_000, 300_000])
    # So that the number of pieces stays small whatever their size.
    longest = max(longest, total // 150)
    found, pos = [], 0
    while pos < total:
        stop = min(total, pos + chance.randint(1, longest))
        found.append(Span(pos, stop))
        pos = stop
    return found


TIGHT = Limits(total_bytes=1 << 24, members=2000)


def outcome(archive: bytes, home: Path, chance: random.Random | None) -> str | dict[str, Node]:
    """The tree that comes of an archive, or why there is none; nothing else may come of it."""
    since = time.time_ns() - SECOND
    home.mkdir()
    (home / SECRET).write_text("kept")
    root = home / "root"
    root.mkdir()
    checked = chance is not None and chance.random() < 0.5
    layout = ArchiveLayout(home / "layout", Spool(home / "spool"), indexed=checked)
    sink = ArchiveSink(
        root,
        layout,
        "archive.tar",
        limits=TIGHT,
        fold=fold_of(root),
        new_digest=hashlib.sha256 if checked else None,
        noted=lambda start, stop: None,
    )
    found: str | dict[str, Node]
    try:
        Feed(sink, archive, chance).run(threads=1 if chance is None else 2)
    except ArchiveError as error:
        found = f"{type(error).__name__}: {error}"
    else:
        found = {}
    finally:
        sink.close()
        layout.close()
    assert sorted(os.listdir(home)) == ["layout", "root", SECRET]
    assert (home / SECRET).read_text() == "kept"
    assert (home / SECRET).stat().st_nlink == 1
    seen = tree(root, since)
    return found if isinstance(found, str) else seen


def healthy_archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:

        def add(name: str, size: int = 0, kind: bytes = FILE, target: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mtime = kind, size, target, THEN
            if size % 2:
                info.pax_headers = {"path": name, "mtime": "1.5"}
                archive.format = tarfile.PAX_FORMAT
            archive.addfile(info, io.BytesIO(body(size)))
            archive.format = tarfile.GNU_FORMAT

        add("d", kind=FOLDER)
        add("d/large", 600 * KIB)
        for number in range(12):
            add(f"d/{number}", 137 * number)
        add("d/link", kind=SYMLINK, target="../l" + "o" * 120 + "ng")
        add("d/hard", kind=HARDLINK, target="d/large")
        add("d/large", 530 * KIB + 1)
        add("l" + "o" * 120 + "ng", 2000)
        add("d/11", 5)
    return made.getvalue()


HEALTHY = healthy_archive()


def headers_of(archive: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as reader:
        return [info.offset for info in reader.getmembers()]


HEADERS = headers_of(HEALTHY)
# Where a header's fields are, and what is worth trying in them.
TRICKS = {
    (0, 100): (b"../x", b"/x", b"d", b"d/large", b"d/link/x", b"\xff\xfe", b"d/" * 49, b""),
    (100, 8): (b"0000000\0", b"7777777\0", b"\x80" + bytes(6) + b"\1"),
    (124, 12): (b"0" * 11, b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80" + bytes(6) + b"\1" * 5,
                b"00000001000", b"-1", b"\xff" * 12),
    (136, 12): (b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"\x80" + bytes(5) + b"\xff" * 6, b"\xff\0",
                b"77777777777\0", b"\xff" * 4 + b"\x80" + bytes(7), b"x"),
    (156, 1): tuple(b"%c" % kind for kind in b"\x000123456SLKxgDMNVX7A\xff"),
    (157, 100): (b"../x", b"/x", b"d/large", b"d/0", b"d", b"."),
    (257, 8): (b"ustar\x0000", b"ustar  \0", bytes(8)),
    (386, 100): (b"0" * 96, b"00000000000\x0000000001000\0" * 4, b"\xff" * 97),
}  # fmt: skip


def tricked(archive: bytearray, chance: random.Random) -> None:
    """Change a field of a header, and make its checksum right again."""
    start = chance.choice(HEADERS) + chance.choice([0, 0, 0, BLOCK, 2 * BLOCK])
    place, size = chance.choice(list(TRICKS))
    block = archive[start : start + BLOCK]
    if len(block) < BLOCK:
        return
    block[place : place + size] = chance.choice(TRICKS[place, size])[:size].ljust(size, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    archive[start : start + BLOCK] = block


def mutated(compress: Callable[[bytes], bytes] | None, chance: random.Random) -> bytes:
    archive = bytearray(HEALTHY)
    if chance.random() < 0.6:
        for _ in range(chance.choice([1, 1, 2, 4])):
            tricked(archive, chance)
        return compress(bytes(archive)) if compress else bytes(archive)
    if compress is None:
        return damaged(archive, chance, blocks=chance.choice([1, BLOCK, BLOCK]))
    if chance.random() < 0.3:
        return compress(damaged(archive, chance, blocks=BLOCK))
    return damaged(compress(bytes(archive)), chance, blocks=chance.choice([1, 64, 1000]))


def _gzip(data: bytes) -> bytes:
    return _compressed_by("gzip", data)


def _compressed_by(module: str, data: bytes) -> bytes:
    return bytes(importlib.import_module(module).compress(data, 1))


FUZZED: dict[str, Callable[[bytes], bytes] | None] = {
    "plain": None,
    "gzip": _gzip,
    "zstd": zstandard.compress,
}
fuzzed = pytest.mark.parametrize("kind", FUZZED)


def assert_survived(kind: str, seed: int) -> None:
    chance = random.Random(seed)
    archive = mutated(FUZZED[kind], chance)
    with tempfile.TemporaryDirectory(prefix="damaged-") as made:
        in_order = outcome(archive, Path(made, "in order"), None)
        shuffled = outcome(archive, Path(made, "shuffled"), chance)
        if kind != "plain" and isinstance(in_order, str):
            # How far a decoder comes before it sees the damage depends on the pieces.
            assert isinstance(shuffled, str)
        else:
            assert shuffled == in_order


@fuzzed
def test_an_undamaged_archive_comes_out_whole_in_any_order(tmp_path: Path, kind: str) -> None:
    compress = FUZZED[kind]
    archive = compress(HEALTHY) if compress else HEALTHY
    in_order = outcome(archive, tmp_path / "in order", None)
    assert not isinstance(in_order, str), in_order
    assert len(in_order) == 18
    for seed in range(6):
        assert outcome(archive, tmp_path / str(seed), random.Random(seed)) == in_order


def test_more_files_may_be_under_way_than_can_be_open(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for number in range(60):
            info = tarfile.TarInfo(str(number))
            info.size = 4000 + number
            archive.addfile(info, io.BytesIO(body(info.size)))
    in_order = outcome(made.getvalue(), tmp_path / "in order", None)
    assert len(in_order) == 61
    for seed in range(4):
        assert outcome(made.getvalue(), tmp_path / str(seed), random.Random(seed)) == in_order


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_many_threads_may_say_at_once_what_they_have_written(tmp_path: Path, kind: str) -> None:
    compress = FUZZED[kind]
    assert compress is not None
    layout = ArchiveLayout(tmp_path / "layout", Spool(tmp_path / "spool"), indexed=False)
    (tmp_path / "root").mkdir()
    sink = ArchiveSink(
        tmp_path / "root",
        layout,
        "archive.tar",
        limits=TIGHT,
        fold=str,
        new_digest=None,
        noted=lambda start, stop: None,
    )
    failures: list[BaseException] = []

    def mark(first: int) -> None:
        try:
            # In an order in which spans are joined all the time.
            for start in random.Random(first).sample(range(6000), 6000):
                sink.mark(start, start + 1)
        except BaseException as failure:
            failures.append(failure)

    sink.write(0, memoryview(compress(HEALTHY))[:5000])
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=mark, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
        sink.close()
        layout.close()
    assert failures == []


@fuzzed
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_archive_is_an_error_or_the_same_tree_in_any_order(kind: str, seed: int) -> None:
    assert_survived(kind, seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@fuzzed
@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_hundreds_of_damaged_archives_are_survived(kind: str, seed: int) -> None:
    assert_survived(kind, seed)


@pytest.mark.parametrize("step", [34, 511, 700])
def test_what_has_come_can_be_read_back_wherever_it_ends(tmp_path: Path, step: int) -> None:
    """A digest follows the bytes; they may stop in the middle of a header."""
    layout = ArchiveLayout(tmp_path / "layout", Spool(tmp_path / "spool"), indexed=True)
    (tmp_path / "root").mkdir()
    sink = ArchiveSink(
        tmp_path / "root",
        layout,
        "archive.tar",
        limits=TIGHT,
        fold=str,
        new_digest=hashlib.sha256,
        noted=lambda start, stop: None,
    )
    read = 0
    buffer = memoryview(bytearray(4096))
    for start in range(0, len(HEALTHY), step):
        stop = min(len(HEALTHY), start + step)
        sink.write(start, memoryview(HEALTHY)[start:stop])
        sink.mark(start, stop)
        while sink.extractor is not None and read < stop:
            count = sink.extractor.read(read, buffer[: stop - read])
            assert count > 0
            assert buffer[:count] == HEALTHY[read : read + count]
            read += count
    assert read == len(HEALTHY)
    sink.finish(len(HEALTHY))
    sink.close()
    layout.close()
