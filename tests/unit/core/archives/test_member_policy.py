import os
import stat
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgetpy.core.archives.limits import Limits
from pgetpy.core.archives.member_policy import AdmittedMember, MemberPolicy, permissions
from pgetpy.core.archives.members import Kind, Member
from pgetpy.errors import ArchiveError, LimitExceededError, UnsafeMemberError


def file(name: str, size: int = 0, mode: int = 0o644) -> Member:
    return Member(name, Kind.FILE, size=size, mode=mode)


def folder(name: str, mode: int = 0o755) -> Member:
    return Member(name, Kind.FOLDER, mode=mode)


def symlink(name: str, target: str) -> Member:
    return Member(name, Kind.SYMLINK, target=target)


def hardlink(name: str, target: str) -> Member:
    return Member(name, Kind.HARDLINK, target=target)


def unified(name: str) -> str:
    """Names as a file system takes them that knows neither case nor normalisation forms."""
    return unicodedata.normalize("NFD", name.casefold())


def policy_of(*members: Member, folded: bool = False, limits: Limits | None = None) -> MemberPolicy:
    limits = limits or Limits()
    policy = MemberPolicy(limits, unified) if folded else MemberPolicy(limits)
    for member in members:
        policy.admit(member)
    return policy


def admitted(*members: Member, folded: bool = False) -> AdmittedMember | None:
    """What becomes of the last member after the others were admitted."""
    return policy_of(*members[:-1], folded=folded).admit(members[-1])


def refusal(*members: Member, folded: bool = False) -> str:
    """Why the last member is refused after the others were admitted."""
    with pytest.raises(UnsafeMemberError) as caught:
        admitted(*members, folded=folded)
    assert caught.value.member == members[-1].name
    return caught.value.reason


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a",)),
        ("./a//b/.", ("a", "b")),
        ("a/", ("a",)),
        ("...", ("...",)),
        (" a ", (" a ",)),
        ("a..b/..c", ("a..b", "..c")),
        ("a\\b", ("a\\b",)),
        ("..\\b", ("..\\b",)),
        ("C:b", ("C:b",)),
        ("a/C:/b", ("a", "C:", "b")),
        ("\udcff", ("\udcff",)),
    ],
)
def test_a_name_becomes_the_path_that_posix_sees_in_it(name: str, parts: tuple[str, ...]) -> None:
    assert admitted(file(name)) == AdmittedMember(parts, file(name))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "its name is empty"),
        ("/etc/passwd", "its name is absolute"),
        ("//a", "its name is absolute"),
        ("../a", "its name leads out of a folder by '..'"),
        ("a/../../b", "its name leads out of a folder by '..'"),
        ("a/b/..", "its name leads out of a folder by '..'"),
        ("..", "its name leads out of a folder by '..'"),
        ("C:", "its name is absolute on Windows"),
        ("c:/a", "its name is absolute on Windows"),
        (".//./C:/a", "its name is absolute on Windows"),
        ("C:\\a", "its name is absolute on Windows"),
        ("\\\\server\\share\\a", "its name is absolute on Windows"),
        ("a\0b", "there are control characters in its name"),
        ("a\nb", "there are control characters in its name"),
        ("\x1b[2J", "there are control characters in its name"),
        ("a\x7f", "there are control characters in its name"),
        ("a\x9b", "there are control characters in its name"),
        # The same C1 control, as the escaped bytes of its UTF-8.
        ("a\udcc2\udc9b", "there are control characters in its name"),
        ("\ud800", "its name cannot be encoded"),
        (".pgetpy-staging/a", "the name '.pgetpy-staging' is reserved for transfers"),
        (".a.pgetpy-part", "the name '.a.pgetpy-part' is reserved for transfers"),
        (".a.pgetpy-journal", "the name '.a.pgetpy-journal' is reserved for transfers"),
        ("a.pgetpy-lock/b", "the name 'a.pgetpy-lock' is reserved for transfers"),
    ],
)
@pytest.mark.parametrize("make", [file, folder])
def test_a_name_that_is_no_path_below_the_folder_is_refused(
    name: str, reason: str, make: Callable[[str], Member]
) -> None:
    assert refusal(make(name)) == reason


def test_reserved_names_are_reserved_in_every_case_that_the_file_system_takes_for_theirs() -> None:
    assert "reserved" in refusal(file(".PGETPY-staging"), folded=True)
    assert "reserved" in refusal(file("a.Pgetpy-Part"), folded=True)
    assert admitted(file(".PGETPY-staging")) is not None


def test_reserved_names_may_stand_below_the_top_where_nothing_of_ours_is_kept() -> None:
    assert admitted(file("a/.pgetpy-x")) is not None


@pytest.mark.parametrize("name", [".", "./", ".//./"])
def test_the_folder_itself_is_nothing_to_make_and_is_remembered(name: str) -> None:
    policy = policy_of(file("a"))
    assert policy.top is None
    assert policy.admit(folder(name, mode=0o700)) is None
    assert policy.top == folder(name, mode=0o700)
    assert policy.folders() == []


@pytest.mark.parametrize("member", [file("./"), symlink(".", "a"), hardlink(".", "a")])
def test_nothing_else_may_stand_in_the_place_of_the_folder_itself(member: Member) -> None:
    assert "that would replace the folder itself" in refusal(file("a"), member)


@pytest.mark.parametrize("kind", [Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE, Kind.FIFO])
def test_devices_and_fifos_are_refused(kind: Kind) -> None:
    assert refusal(Member("a", kind)) == f"it is a {kind.value}"


# ---------------------------------------------------------------------------- one path, two names


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (file("a"), file("A")),
        (file("e\u0301"), file("\u00e9")),
        (folder("a"), folder("A")),
        (file("a/b"), file("A/c")),
        (file("a"), folder("A")),
        (symlink("a", "b"), file("A/c")),
        (file("x/a/b"), symlink("x/A", "b")),
    ],
)
def test_names_that_the_file_system_takes_for_one_are_refused(
    earlier: Member, later: Member
) -> None:
    reason = refusal(earlier, later, folded=True)
    assert reason.endswith("only in ways that the file system ignores")


def test_names_that_the_file_system_tells_apart_are_two_files() -> None:
    entry = admitted(file("a"), file("A"))
    assert entry is not None
    assert not entry.replaces


def test_a_name_in_escaped_bytes_is_the_name_that_they_spell() -> None:
    escaped = "\u00e9".encode().decode("ascii", "surrogateescape")
    entry = admitted(file("\u00e9"), file(escaped))
    assert entry == AdmittedMember(("\u00e9",), file(escaped), replaces=True)
    assert "below" in refusal(symlink("\u00e9", "x"), file(f"{escaped}/evil"))


# ------------------------------------------------------------------- files, folders, duplicates


@pytest.mark.parametrize("earlier", [file("a/f"), symlink("a/f", "x"), hardlink("a/f", "g")])
@pytest.mark.parametrize("later", [file("a/f"), symlink("a/f", "x"), hardlink("a/f", "g")])
def test_of_files_and_links_with_one_name_the_last_wins(earlier: Member, later: Member) -> None:
    entry = admitted(file("g"), earlier, later)
    assert entry is not None
    assert entry.replaces
    assert entry.member is later


def test_a_repeated_folder_is_the_same_folder_as_stated_last() -> None:
    policy = policy_of(folder("a", 0o700), file("a/b"), folder("a/", 0o755))
    assert policy.folders() == [AdmittedMember(("a",), folder("a/", 0o755))]


def test_a_folder_may_be_stated_after_what_is_in_it() -> None:
    assert admitted(file("a/b/c"), folder("a/b")) == AdmittedMember(("a", "b"), folder("a/b"))


def test_folders_are_returned_deepest_first_and_only_those_stated() -> None:
    policy = policy_of(folder("a"), folder("a/b/c"), folder("d/e"), file("f/g"))
    assert [entry.parts for entry in policy.folders()] == [("a", "b", "c"), ("d", "e"), ("a",)]


@pytest.mark.parametrize("stated", [folder("a"), file("a/b")])
@pytest.mark.parametrize("later", [file("a"), symlink("a", "b"), hardlink("a", "g")])
def test_nothing_takes_the_place_of_a_folder(stated: Member, later: Member) -> None:
    assert refusal(file("g"), stated, later) == "an earlier member of this name is a folder"


@pytest.mark.parametrize("earlier", [file("a"), symlink("a", "b"), hardlink("a", "g")])
def test_no_folder_takes_the_place_of_a_file_or_link(earlier: Member) -> None:
    reason = refusal(file("g"), earlier, folder("a"))
    assert reason == f"an earlier member of this name is a {earlier.kind.value}"


@pytest.mark.parametrize("earlier", [file("a"), symlink("a", "b"), hardlink("a", "g")])
@pytest.mark.parametrize("name", ["a/x", "a/x/y"])
def test_nothing_is_below_what_is_no_folder(earlier: Member, name: str) -> None:
    expected = f"it lies below 'a', a {earlier.kind.value}"
    assert refusal(file("g"), earlier, file(name)) == expected
    assert refusal(file("g"), earlier, folder(name)) == expected


# ---------------------------------------------------------------------------- symbolic links


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a", "b"),
        ("a", "."),
        ("a", "a"),
        ("a", "nowhere/at/all"),
        ("a", "b/"),
        ("a", "b\\c"),
        ("a/b", ".."),
        ("a/b", "../c"),
        ("a/b", "../a/b"),
        ("a/b/c", ".././/../d"),
        ("snapshots/1/w", "../../blobs/2"),
        ("a", "b/c/../../d"),
    ],
)
def test_a_symbolic_link_to_a_path_in_the_folder_is_admitted_as_stated(
    name: str, target: str
) -> None:
    entry = admitted(symlink(name, target))
    assert entry == AdmittedMember(tuple(name.split("/")), symlink(name, target))


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        ("a", "", "its target is empty"),
        ("a", "/", "its target is absolute"),
        ("a", "/etc/passwd", "its target is absolute"),
        ("a", "C:\\x", "its target is absolute on Windows"),
        ("a", "b\0c", "there are control characters in its target"),
        ("a", "\ud800", "its target cannot be encoded"),
        ("a", "..", "its target '..' is outside the folder"),
        ("a/b", "../..", "its target '../..' is outside the folder"),
        ("a/b", "c/../../../d", "its target 'c/../../../d' is outside the folder"),
        # Back in again, but only while the folder has that name.
        ("a", "../dest/b", "its target '../dest/b' is outside the folder"),
    ],
)
def test_a_symbolic_link_that_leaves_the_folder_is_refused(
    name: str, target: str, reason: str
) -> None:
    assert refusal(symlink(name, target)) == reason


THROUGH = "its target leads through the symbolic link 'current'"


@pytest.mark.parametrize("target", ["current/..", "current/x", "b/../current/x", "current/./../x"])
def test_a_symbolic_link_through_a_symbolic_link_is_refused(target: str) -> None:
    assert refusal(symlink("current", "."), symlink("a", target)) == THROUGH


@pytest.mark.parametrize("target", ["current/..", "current/x", "current/x/../.."])
def test_a_symbolic_link_is_refused_where_an_earlier_one_leads_through_it(target: str) -> None:
    reason = refusal(symlink("a/b", f"../{target}"), symlink("current", "."))
    assert reason == "the symbolic link 'a/b' leads through it"


def test_a_symbolic_link_may_not_take_the_place_of_a_file_that_another_leads_through() -> None:
    members = (file("current"), symlink("a", "current/.."), symlink("current", "."))
    assert refusal(*members) == "the symbolic link 'a' leads through it"


def test_a_symbolic_link_through_itself_is_refused() -> None:
    assert "through the symbolic link 'a'" in refusal(symlink("a", "a/.."))
    assert "through the symbolic link 'd/a'" in refusal(symlink("d/a", "../d/a/x"))


def test_symbolic_links_are_followed_under_all_names_that_the_file_system_takes_for_theirs() -> (
    None
):
    assert "through" in refusal(symlink("Current", "."), symlink("a", "cURRENT/.."), folded=True)
    assert "through" in refusal(symlink("a", "cURRENT/.."), symlink("Current", "."), folded=True)


def test_a_symbolic_link_may_end_at_another() -> None:
    policy = policy_of(
        symlink("lib/libx.so", "libx.so.1"),
        symlink("lib/libx.so.1", "libx.so.1.2"),
        file("lib/libx.so.1.2"),
        symlink("libx.so", "lib/libx.so"),
    )
    assert list(policy.expected()) == []


def test_symbolic_links_in_a_loop_are_admitted() -> None:
    assert admitted(symlink("a", "b"), symlink("b", "a")) is not None


def test_where_symbolic_links_lead_through_and_no_folder_is_can_be_asked() -> None:
    policy = policy_of(symlink("a", "old/b/c"), symlink("d/e", "../f/g"), file("f/g"))
    assert set(policy.expected()) == {("old",), ("old", "b")}


# -------------------------------------------------------------------------------- hard links


def test_a_hard_link_names_the_path_of_its_target_from_the_top() -> None:
    entry = admitted(file("a/b"), hardlink("c/d", ".//a/./b"))
    assert entry == AdmittedMember(("c", "d"), hardlink("c/d", ".//a/./b"), target=("a", "b"))


def test_a_hard_link_may_link_to_another_and_to_a_file_that_was_replaced() -> None:
    entry = admitted(file("a"), hardlink("b", "a"), file("a"), hardlink("c", "b"))
    assert entry is not None
    assert entry.target == ("b",)


def test_a_file_linked_to_itself_is_nothing_to_make() -> None:
    policy = policy_of(file("a"))
    assert policy.admit(hardlink("a", "./a")) is None
    entry = policy.admit(file("a"))
    assert entry is not None
    assert entry.replaces


def test_a_hard_link_gets_the_spelling_of_its_target_that_was_made() -> None:
    entry = admitted(file("A"), hardlink("b", "a"), folded=True)
    assert entry is not None
    assert entry.target == ("A",)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "its target is empty"),
        ("/etc/passwd", "its target is absolute"),
        ("../f", "its target leads out of a folder by '..'"),
        ("d/../f", "its target leads out of a folder by '..'"),
        ("nowhere", "its target 'nowhere' is not an earlier member"),
        ("f/x", "its target 'f/x' is not an earlier member"),
        ("a", "its target 'a' is not an earlier member"),
        ("F", "its target 'F' is not an earlier member"),
        ("d", "its target 'd' is a folder"),
        ("implied", "its target 'implied' is a folder"),
        (".", "its target '.' is a folder"),
        ("t/f", "its target leads through the symbolic link 't'"),
    ],
)
def test_a_hard_link_to_anything_but_an_earlier_file_is_refused(target: str, reason: str) -> None:
    before = (file("f"), folder("d"), file("implied/f"), symlink("s", "f"), symlink("t", "d"))
    assert refusal(*before, hardlink("a", target)) == reason


@pytest.mark.parametrize(
    ("name", "target"), [("h", "s"), ("d/h", "s"), ("e/f/h", "d/t"), ("h", "other")]
)
def test_a_hard_link_to_a_symbolic_link_is_that_link_under_another_name(
    name: str, target: str
) -> None:
    before = [folder("d/x"), symlink("s", "x"), symlink("d/t", "../x"), hardlink("other", "s")]
    policy = policy_of(*before)
    entry = policy.admit(hardlink(name, target))
    assert entry == AdmittedMember(
        tuple(name.split("/")), hardlink(name, target), target=tuple(target.split("/"))
    )
    with pytest.raises(UnsafeMemberError, match="a symbolic link"):
        policy.admit(file(f"{name}/below"))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        # What stays inside from below leads out from here.
        ([symlink("d/s", "../x"), hardlink("h", "d/s")], "its target '../x' is outside the folder"),
        (
            [symlink("d/s", "../x"), hardlink("d/h", "d/s"), hardlink("h", "d/h")],
            "its target '../x' is outside the folder",
        ),
        (
            [symlink("d/s", "a/b"), symlink("a", "."), hardlink("h", "d/s")],
            "its target leads through the symbolic link 'a'",
        ),
        (
            [symlink("s", "."), symlink("t", "h/x"), hardlink("h", "s")],
            "the symbolic link 't' leads through it",
        ),
        ([symlink("d/s", "h/x"), hardlink("h", "d/s")],
         "its target leads through the symbolic link 'h'"),
        # The target of a link that was replaced since is not its own any more.
        (
            [symlink("d/s", "x"), symlink("d/s", "../x"), hardlink("h", "d/s")],
            "its target '../x' is outside the folder",
        ),
    ],
)  # fmt: skip
def test_a_hard_link_to_a_symbolic_link_that_may_not_stand_there_is_refused(
    members: list[Member], reason: str
) -> None:
    assert refusal(*members) == reason


def test_what_a_hard_link_to_a_symbolic_link_leads_through_can_be_asked() -> None:
    policy = policy_of(symlink("d/s", "old/x"), hardlink("e/h", "d/s"))
    assert set(policy.expected()) == {("d", "old"), ("e", "old")}
    with pytest.raises(UnsafeMemberError, match="leads through it"):
        policy.admit(symlink("e/old", "."))


# ------------------------------------------------------------------- attacks that are on record


@pytest.mark.parametrize(
    "members",
    [
        [symlink("current", "."), symlink("parent", "current/.."), file("parent/evil")],
        [symlink("current", "."), symlink("current/parent", ".."), file("parent/evil")],
        [symlink("parent", "/tmp"), file("parent/evil")],
        [folder("tmp"), symlink("tmp/../../moo", "tmp/../..//tmp/moo")],
        [symlink("x", "a/b/../../.."), file("x/evil")],
        [folder("a/b"), symlink("a/b/up", "../.."), symlink("out", "a/b/up/.."), file("out/e")],
        # A link that is turned once another relies on it.
        [symlink("a", "b/.."), folder("b/c"), symlink("b", "b/c")],
        [file("b"), symlink("a", "b/.."), symlink("b", "."), file("a/evil")],
        # A link moved to where its target means something else, then written to.
        [symlink("d/s", "../x"), hardlink("s", "d/s"), file("s")],
        [symlink("s", "../secret"), hardlink("h", "s"), file("h")],
        [hardlink("h", "../secret"), file("h")],
        [symlink("d", "."), hardlink("h", "d/../secret")],
        # Names longer than PATH_MAX, where looking a path up gives up.
        [symlink("a", "/".join(["d" * 200] * 30 + [".."] * 31))],
        [symlink("s", "x"), symlink("e", "s/" + "/".join([".."] * 2))],
    ],
)
def test_attacks_that_are_on_record_are_refused(members: list[Member]) -> None:
    with pytest.raises(ArchiveError):
        policy_of(*members)


# ----------------------------------------------------------------------------- modes and limits


@pytest.mark.parametrize(
    ("mode", "umask", "bits"),
    [
        (0o7777, 0o022, 0o755),
        (0o4755, 0, 0o755),
        (0o666, 0o077, 0o600),
        (0o100644, 0, 0o644),
        (0, 0, 0),
    ],
)
def test_permissions_go_through_the_umask_and_nothing_else_does(
    mode: int, umask: int, bits: int
) -> None:
    assert permissions(mode, umask) == bits


@pytest.mark.parametrize(
    ("limits", "members", "limit", "found"),
    [
        (Limits(total_bytes=10), [file("a", 6), file("b", 5)], "total_bytes", 11),
        (Limits(total_bytes=10), [file("a", 6), file("a", 6)], "total_bytes", 12),
        (Limits(members=2), [folder("a"), file("b"), file("c")], "members", 3),
        (Limits(members=2), [folder("a"), folder("a"), folder("a")], "members", 3),
        (Limits(members=2), [folder("./"), folder("./"), folder("./")], "members", 3),
        (Limits(members=2), [file("a/b/c")], "members", 3),
        (Limits(members=2), [symlink("a", "b/c/d")], "members", 3),
        (Limits(name_bytes=5), [file("ab/\u00e9\u00e9")], "name_bytes", 7),
        (Limits(name_bytes=5), [symlink("a", "./././b")], "name_bytes", 7),
        (Limits(component_bytes=3), [file("abc/d/\u00e9\u00e9")], "component_bytes", 4),
        (Limits(component_bytes=3), [symlink("a", "abcd")], "component_bytes", 4),
        (Limits(depth=2), [file("a/b/c")], "depth", 3),
        (Limits(depth=2), [symlink("a", "b/../c")], "depth", 3),
        (Limits(), [file("x" * 256)], "component_bytes", 256),
        (Limits(), [file("x/" * 2047 + "xx")], "name_bytes", 4096),
        (Limits(), [file("x/" * 256 + "x")], "depth", 257),
    ],
)
def test_what_exceeds_a_limit_is_refused_by_the_limits_name(
    limits: Limits, members: list[Member], limit: str, found: int
) -> None:
    policy = policy_of(*members[:-1], limits=limits)
    with pytest.raises(LimitExceededError) as caught:
        policy.admit(members[-1])
    assert (caught.value.limit, caught.value.found) == (limit, found)
    assert caught.value.allowed == getattr(limits, limit)
    assert caught.value.member == members[-1].name


def test_what_reaches_a_limit_exactly_is_admitted() -> None:
    limits = Limits(total_bytes=10, members=5, name_bytes=5, component_bytes=3, depth=2)
    policy = policy_of(
        file("abc/d", 6), file("e", 4), symlink("g", "abc/d"), folder("."), limits=limits
    )
    assert policy.total_bytes == 10


def test_what_was_refused_counts_for_no_limit() -> None:
    policy = MemberPolicy(Limits(total_bytes=10, members=2))
    for refused in (file("a/b/c"), file("a", 11), symlink("a", "..")):
        with pytest.raises(ArchiveError):
            policy.admit(refused)
    assert policy.admit(file("a", 10)) is not None
    assert policy.admit(folder("b")) is not None


def test_a_sparse_file_counts_with_its_holes_and_only_files_count() -> None:
    link = Member("b", Kind.HARDLINK, size=7, target="a")
    assert policy_of(file("a", 1 << 40), link, folder("c")).total_bytes == 1 << 40


def test_a_negative_size_is_refused() -> None:
    assert refusal(file("a", -1)) == "its size is negative"


# --------------------------------------------------------------- any members, on a real folder

NAMES = st.lists(st.sampled_from(["a", "b", "A", "", ".", ".."]), min_size=1, max_size=4)
PATHS = st.one_of(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
    NAMES.map("/".join),
    st.sampled_from(["secret", "../secret", "/etc/hostname", "\udcc3\udca9", "\u00e9/.."]),
)
MEMBERS = st.one_of(
    st.builds(file, PATHS, st.integers(0, 9)),
    st.builds(folder, PATHS),
    st.builds(symlink, PATHS, PATHS),
    st.builds(hardlink, PATHS, PATHS),
)
SEQUENCES = st.lists(MEMBERS, min_size=2, max_size=14)


def offered(
    policy: MemberPolicy, members: Iterable[Member]
) -> Iterator[tuple[Member, AdmittedMember | None]]:
    """The members that are admitted; refusals are passed over, as an attacker would wish."""
    for member in members:
        try:
            yield member, policy.admit(member)
        except ArchiveError:
            continue


def play(entry: AdmittedMember, top: Path) -> None:
    """Make what the entry says, without a look at what its path leads through."""
    path = top.joinpath(*entry.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.replaces:
        path.unlink()
    if entry.member.kind is Kind.FOLDER:
        path.mkdir(exist_ok=True)
    elif entry.member.kind is Kind.SYMLINK:
        path.symlink_to(entry.member.target)
    elif entry.target is not None:
        os.link(top.joinpath(*entry.target), path, follow_symlinks=False)
    else:
        with path.open("xb") as written:
            written.write(b"x" * entry.member.size)


@contextmanager
def folder_among_others() -> Iterator[Path]:
    """An empty folder with files and folders beside and above it that may be taken for its own."""
    with tempfile.TemporaryDirectory() as base:
        outside = Path(base).resolve()
        for beside in (outside, outside / "b"):
            for name in ("a", "c"):
                (beside / name).mkdir(parents=True)
                (beside / name / "a").write_bytes(b"secret")
            (beside / "secret").write_bytes(b"secret")
        top = outside / "b" / "dest"
        top.mkdir()
        yield top


def outside_of(top: Path) -> dict[str, tuple[int, ...]]:
    """All that stands outside: its inode, kind and permissions, size, links and last change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in top.parent.parent.rglob("*"):
        if path != top and top not in path.parents:
            facts = path.lstat()
            links = 0 if path == top.parent else facts.st_nlink
            found[str(path)] = (facts.st_ino, facts.st_mode, facts.st_size, links,
                                facts.st_mtime_ns)  # fmt: skip
    return found


@given(SEQUENCES)
@example([symlink("a", "."), symlink("b", "a/.."), file("b/secret", 9)])
@example([symlink("b", "a/.."), symlink("a", "."), file("b/secret", 9)])
@example([symlink("a/b", "../c"), hardlink("b", "a/b"), file("b", 9)])
@example([symlink("a/b", ".."), symlink("c", "a/b/.."), hardlink("a/c", "c/secret")])
@example([symlink("a/b", "../c"), hardlink("b", "a/b"), hardlink("c/a", "a/b")])
@example([symlink("a/b", "c/.."), hardlink("b", "a/b"), symlink("c", "a")])
def test_nothing_outside_is_changed_or_reached_by_what_is_admitted(members: list[Member]) -> None:
    with folder_among_others() as top:
        before = outside_of(top)
        inodes = {facts[0] for facts in before.values()}
        for _, entry in offered(MemberPolicy(Limits()), members):
            if entry is not None:
                play(entry, top)
        assert outside_of(top) == before
        for path in top.rglob("*"):
            assert Path(os.path.realpath(path)).is_relative_to(top)
            assert path.lstat().st_ino not in inodes


@given(SEQUENCES)
def test_what_is_made_is_what_the_entries_say(members: list[Member]) -> None:
    with folder_among_others() as top:
        last: dict[tuple[str, ...], Member] = {}
        for _, entry in offered(MemberPolicy(Limits()), members):
            if entry is not None:
                play(entry, top)
                last[entry.parts] = last[entry.target] if entry.target else entry.member
        for parts, member in last.items():
            facts = top.joinpath(*parts).lstat()
            assert stat.S_ISLNK(facts.st_mode) == (member.kind is Kind.SYMLINK)
            assert stat.S_ISDIR(facts.st_mode) == (member.kind is Kind.FOLDER)
            if member.kind is Kind.FILE:
                assert facts.st_size == member.size


TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.FOLDER: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.HARDLINK: tarfile.LNKTYPE,
}


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python has no data_filter")
@given(SEQUENCES)
def test_pythons_own_filter_accepts_whatever_is_admitted(members: list[Member]) -> None:
    with folder_among_others() as top:
        for member, entry in offered(MemberPolicy(Limits()), members):
            info = tarfile.TarInfo(member.name)
            info.type = TYPES[member.kind]
            info.linkname = member.target
            assert tarfile.data_filter(info, str(top)) is not None
            if entry is not None:
                play(entry, top)


@given(SEQUENCES)
def test_a_refused_member_leaves_the_policy_as_it_was(members: list[Member]) -> None:
    limits = Limits(members=8, total_bytes=30)
    accepted = list(offered(MemberPolicy(limits), members))
    again = MemberPolicy(limits)
    assert [(member, again.admit(member)) for member, _ in accepted] == accepted


TREES = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4).map(tuple),
    st.booleans(),
    max_size=12,
)


@given(TREES, st.permutations(range(12)))
def test_any_tree_is_admitted_in_any_order(
    tree: dict[tuple[str, ...], bool], order: list[int]
) -> None:
    above = {parts[:depth] for parts in tree for depth in range(len(parts))}
    members = [
        folder("/".join(parts)) if is_folder or parts in above else file("/".join(parts))
        for parts, is_folder in tree.items()
    ]
    shuffled = [members[index] for index in order if index < len(members)]
    entries = [entry for _, entry in offered(MemberPolicy(Limits()), shuffled)]
    assert [entry and entry.parts for entry in entries] == [
        tuple(member.name.split("/")) for member in shuffled
    ]


def test_files_beside_one_that_was_admitted_are_judged_as_it_was() -> None:
    policy = policy_of(file("a/b/first"), limits=Limits(members=5))
    second = policy.admit(file("a/b/second"))
    assert second is not None
    assert second.parts == ("a", "b", "second")
    again = policy.admit(file("a/b/second"))
    assert again is not None
    assert again.replaces
    for name in ("a/b/..", "a/b/x\n", "a/b/second/below", "/a/b/x", "a/b/" + "x" * 256):
        with pytest.raises((UnsafeMemberError, LimitExceededError)):
            policy.admit(file(name))
    with pytest.raises(UnsafeMemberError):
        policy.admit(folder("a/b/second"))
    with pytest.raises(LimitExceededError):
        policy.admit(file("a/b/one-too-many"))


def test_a_file_beside_others_is_refused_where_the_file_system_takes_its_name_for_theirs() -> None:
    policy = policy_of(file("a/first"), file("a/second"), folded=True)
    with pytest.raises(UnsafeMemberError, match="only in ways"):
        policy.admit(file("a/SECOND"))


def shifted(name: str) -> str:
    """Another name for each, so that none is its own key and all are judged the long way."""
    return "".join(chr(ord(letter) + 1) for letter in name)


@given(SEQUENCES)
def test_files_beside_others_are_judged_as_if_they_were_alone(members: list[Member]) -> None:
    limits = Limits(members=9, total_bytes=40, name_bytes=20, component_bytes=8)
    short, long = MemberPolicy(limits), MemberPolicy(limits, shifted)
    assert list(offered(short, members)) == list(offered(long, members))
    assert short.total_bytes == long.total_bytes
    assert [entry.parts for entry in short.folders()] == [entry.parts for entry in long.folders()]
