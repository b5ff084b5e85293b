"""Who reads a generation: a lock for each reader, and the names of those who have one.

A reader holds a shared lock on a tree's `.in-use`, which works through a read-only bind mount, for
any user, and across exec; the kernel releases it when the reader ends, however it does. It locks
first and then looks whether the tree still has its name. Who removes a tree takes an exclusive
lock, and then the name away. So either the reader sees that the name is gone, or the remover that
there is a reader.

A file system on top of another (overlayfs) has locks of its own, which the remover does not see.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pgetpy.core.report.text import one_line
from pgetpy.errors import GenerationError
from pgetpy.errors.redact import redact_text
from pgetpy.generations.layout import IN_USE, GenerationPaths
from pgetpy.system import polling
from pgetpy.system.file_locks import try_lock
from pgetpy.system.filesystem import closing_fd, open_regular

_MOUNTS = "/proc/self/mountinfo"
_LONGEST_COMMAND = 60
# A remover that has the lock renames the tree in a moment.
_WAIT_SECONDS = 10.0


def lock_shared(paths: GenerationPaths, digest: str, name: str | int) -> int | None:
    """Hold the tree of `digest` as a reader; return the descriptor, None if it is gone.

    Args:
        paths: the folder of generations.
        digest: of the tree.
        name: what errors call the generation.

    Raises:
        GenerationError: a process keeps it for itself: any that may read the lock can do so.
        OSError: the file system has no locks, or it cannot be read.
    """
    tree = paths.tree(digest)
    until = time.monotonic() + _WAIT_SECONDS
    fd = _open_lock(tree)
    if fd is None:
        return None
    try:
        while not try_lock(fd, shared=True):
            if not _is_at(fd, tree):
                return None
            if time.monotonic() > until:
                who = ", ".join(readers_of(tree)) or "a process that cannot be seen from here"
                reason = f"is kept from other readers by {who}"
                raise GenerationError(str(paths.root), name, reason, hint="end that process")
            time.sleep(polling.SLICE)
        if _is_at(fd, tree):
            fd, held = -1, fd
            return held
        return None
    finally:
        if fd >= 0:
            os.close(fd)


def make_lock(stage: Path, owner: str) -> int | None:
    """Make the lock of a tree that is about to be built, and hold it as a reader.

    Returns:
        The descriptor; None if another process has just taken the stage for a dead one's.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(stage / IN_USE, flags, 0o644)
    held = False
    try:
        os.fchmod(fd, 0o644)  # whatever the umask is
        os.write(fd, owner.encode())
        held = try_lock(fd, shared=True) and _is_at(fd, stage)
        return fd if held else None
    finally:
        if not held:
            os.close(fd)


@contextlib.contextmanager
def alone_with(tree: Path) -> Iterator[bool]:
    """Keep readers out of a tree or a stage; False if there are some, or it is gone."""
    fd = _open_lock(tree)
    if fd is None:
        yield False
        return
    with closing_fd(fd):
        yield try_lock(fd) and _is_at(fd, tree)


def _open_lock(tree: Path) -> int | None:
    """Open the lock of a tree; None if there is none, or something else that has its name."""
    try:
        return open_regular(tree / IN_USE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def _is_at(fd: int, tree: Path) -> bool:
    """Whether the open file is still what has the name."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(tree / IN_USE))
    except (FileNotFoundError, NotADirectoryError):
        return False


def readers_of(tree: Path) -> tuple[str, ...]:
    """Return the processes that hold the tree, as far as /proc shows them: `PID (COMMAND)`."""
    try:
        status = os.stat(tree / IN_USE)
    except OSError:
        return ()
    pids = _lockers(status) or _openers(status)
    own = os.getpid()
    return tuple(f"{pid} ({_command(pid)})" for pid in sorted(pids) if pid != own)


def _lockers(status: os.stat_result) -> set[int]:
    """Return the living processes that took a lock on the inode, from /proc/locks.

    After a fork or an exec it names the one that took it, which may have ended.
    """
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    pids = set()
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and device in fields:
                pids.add(int(fields[fields.index(device) - 1]))
    return {pid for pid in pids if pid > 0 and os.path.exists(f"/proc/{pid}")}


def _openers(status: os.stat_result) -> set[int]:
    """Return the processes that have the inode open, as far as this user may look."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                for fd in os.scandir(f"/proc/{name}/fd"):
                    with contextlib.suppress(OSError):
                        if os.path.samestat(os.stat(fd.path), status):
                            found.add(int(name))
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except OSError:
        words = b""
    # Anyone may put anything there, and it goes to terminals and logs.
    text = one_line(redact_text(words.decode(errors="replace")))
    return text[:_LONGEST_COMMAND] or "unknown"


def is_overlay(path: Path) -> bool:
    """Whether `path` is on overlayfs, where locks of other mounts are not seen."""
    real = os.path.realpath(path)
    best, kind = "", ""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(_MOUNTS).read_text().splitlines():
            before, _, after = line.partition(" - ")
            point = _unescaped(before.split()[4])
            inside = point in ("/", real) or real.startswith(f"{point}/")
            if inside and len(point) >= len(best):
                best, kind = point, after.split()[0]
    return kind == "overlay"


def _unescaped(text: str) -> str:
    """Return a path of /proc/self/mountinfo without its octal escapes."""
    return text.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
