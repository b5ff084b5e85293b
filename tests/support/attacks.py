"""What archives hold that has to be refused, and what becomes of them on a bad way."""

from __future__ import annotations

import random
import tarfile
from dataclasses import dataclass

from pgetpy.errors import ArchiveError, LimitExceededError, UnsafeMemberError


@dataclass(frozen=True)
class Attack:
    """Members of which the last one that is named has to be refused."""

    members: tuple[tuple[str, bytes, str], ...]
    error: type[ArchiveError] = UnsafeMemberError
    refused: int = -1


FILE, FOLDER, SYMLINK, HARDLINK = (
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
)  # fmt: skip
SECRET = "secret"
ATTACKS = {
    "absolute": Attack((("/tmp/evil", FILE, ""),)),
    "absolute by two slashes": Attack((("//tmp/evil", FILE, ""),)),
    "up": Attack((("../evil", FILE, ""),)),
    "up and down": Attack((("a/../b", FILE, ""),)),
    "up from below": Attack((("a/b/../../../evil", FILE, ""),)),
    "up to a folder": Attack((("..", FOLDER, ""),)),
    "drive": Attack((("C:\\evil", FILE, ""),)),
    "share": Attack((("\\\\server\\share", FILE, ""),)),
    "symlink to the root": Attack((("link", SYMLINK, "/"),)),
    "symlink up": Attack((("link", SYMLINK, ".."),)),
    "symlink out from below": Attack((("a/link", SYMLINK, "../../secret"),)),
    "symlink of nothing": Attack((("link", SYMLINK, ""),)),
    "symlink chain": Attack(
        (("a", FOLDER, ""), ("a/b", SYMLINK, "."), ("c", SYMLINK, "a/b/../.."),)
    ),
    "symlink chain the other way": Attack(
        (("c", SYMLINK, "a/b/../secret"), ("a/b", SYMLINK, "."),)
    ),
    "under a link": Attack(
        (("d", FOLDER, ""), ("link", SYMLINK, "d"), ("link/evil", FILE, ""))
    ),
    "folder under a link": Attack(
        (("d", FOLDER, ""), ("link", SYMLINK, "d"), ("link/evil", FOLDER, ""))
    ),
    "folder over a link": Attack((("link", SYMLINK, "d"), ("link", FOLDER, ""))),
    "under a file": Attack((("f", FILE, ""), ("f/evil", FILE, ""))),
    "hard link up": Attack((("hard", HARDLINK, "../secret"),)),
    "hard link to the root": Attack((("hard", HARDLINK, "/etc/passwd"),)),
    "hard link to nothing": Attack((("hard", HARDLINK, "missing"),)),
    "hard link to a symlink that leads out from there": Attack(
        (("d/link", SYMLINK, "../f"), ("hard", HARDLINK, "d/link"))
    ),
    "hard link to a symlink through one": Attack(
        (("d/link", SYMLINK, "a/b"), ("a", SYMLINK, "."), ("hard", HARDLINK, "d/link"))
    ),
    "hard link to a folder": Attack((("d", FOLDER, ""), ("hard", HARDLINK, "d"))),
    "hard link through a link": Attack(
        (("d/f", FILE, ""), ("link", SYMLINK, "d"), ("hard", HARDLINK, "link/f"))
    ),
    "device": Attack((("dev", tarfile.CHRTYPE, ""),)),
    "disk": Attack((("disk", tarfile.BLKTYPE, ""),)),
    "fifo": Attack((("fifo", tarfile.FIFOTYPE, ""),)),
    "file over a folder": Attack((("x", FOLDER, ""), ("x", FILE, ""))),
    "file over a folder that is implied": Attack((("x/y", FILE, ""), ("x", FILE, ""))),
    "link over a folder": Attack((("x/y", FILE, ""), ("x", SYMLINK, "y"))),
    "folder over a file": Attack((("x", FILE, ""), ("x", FOLDER, ""))),
    "NUL": Attack((("a\0b", FILE, ""),)),
    "NUL in a target": Attack((("a", SYMLINK, "b\0c"),)),
    "escape sequence": Attack((("a\x1b[2Jb", FILE, ""),)),
    "new line": Attack((("a\nb", FILE, ""),)),
    "C1 control": Attack((("a\x9bb", FILE, ""),)),
    "staged by transfers": Attack(((".pgetpy-x", FILE, ""),)),
    "part of a transfer": Attack(((".members.pgetpy-part", FILE, ""),)),
    "too deep": Attack((("d/" * 256 + "f", FILE, ""),), LimitExceededError),
    "too long": Attack((("c" * 256, FILE, ""),), LimitExceededError),
    "too long in all": Attack((("/".join(["c" * 200] * 21), FILE, ""),), LimitExceededError),
    "target too long": Attack((("a", SYMLINK, "c" * 5000),), LimitExceededError),
}  # fmt: skip


def damaged(archive: bytes | bytearray, chance: random.Random, *, blocks: int) -> bytes:
    """Flip, cut, duplicate or swap something of it."""
    found = bytearray(archive)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at, to = (chance.randrange(len(found) // blocks + 1) * blocks for _ in range(2))
        count = chance.choice([1, 1, 2, 10, 1000]) * blocks
        what = chance.randrange(5)
        if what == 0 and found:
            found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
        elif what == 1:
            del found[at:]
        elif what == 2:
            del found[at : at + count]
        elif what == 3:
            found[to:to] = found[at : at + count]
        else:
            one, other = bytes(found[at : at + blocks]), bytes(found[to : to + blocks])
            found[at : at + len(one)], found[to : to + len(other)] = other, one
    return bytes(found)
