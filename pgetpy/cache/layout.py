"""The files and folders of a cache, and the check that a folder is one.

    layout                 the version of this layout
    clock                  its modification time is the latest use of any entry
    evictor                the lock of the process that makes room
    entries/KE/KEY         the record of an entry (core/cache/records); an entry exists with it
    entries/KE/KEY.GENERATION.NAME  its content, a file or a folder
    evicting/KEY.OWNER     the record of an entry that is being evicted: its evictor's mark
    holders/OWNER          the leases of a process, and the lock that shows that it is alive
    uses/OWNER             the keys that a process was given, and when
    fills/KEY              lock, progress and reservation of the process that fetches an entry
    partial/KEY/           what it has fetched
    pins/                            who keeps which entries; see `pins`
    digests/DI/DIGEST  tmp/OWNER.TOKEN

OWNER is the id of a lease file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from pgetpy.errors import CacheError
from pgetpy.errors.reasons import system_reason
from pgetpy.settings.folders import claim
from pgetpy.system.filesystem import cache_error

_LAYOUT = b"pgetpy cache 1\n"
_FOLDERS = ("digests", "entries", "evicting", "fills", "holders", "partial", "pins", "tmp", "uses")
KEY_LENGTH = 64
_HOW_TO_SHARE = (
    "put the users who share it into its group, with umask 002, and make its files writable "
    "(chmod -R g+w)"
)


class CachePaths:
    """The paths below one root, as strings: making a Path costs as much as opening the file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries = f"{root}/entries/"
        self._base = f"{root}/"

    def record(self, key: str) -> str:
        """Return the path of the record of `key`."""
        return f"{self._entries}{key[:2]}/{key}"

    def content(self, key: str, generation: str, name: str) -> str:
        """Return the path of one content of `key`.

        A folder for each content would allow plain names, but making and removing it took ten times
        as long, on ext4, as everything else.
        """
        return f"{self._entries}{key[:2]}/{key}.{generation}.{name}"

    def at(self, *parts: str) -> str:
        """Return the path of `parts` below the root."""
        return self._base + "/".join(parts)

    def scratch(self, owner: str) -> str:
        """Return a new name in tmp/, for something that `owner` will rename."""
        return self.at("tmp", f"{owner}.{token()}")

    def open(self) -> bool:
        """Check that the root is a cache, or make it one; return whether it is writable.

        Raises:
            CacheError: it is not a cache, has another layout, or cannot be made.
        """
        if not self.check():
            self.make()
            return True
        with contextlib.suppress(CacheError):
            self.make()
        return self._closed() is None

    def unwritable(self) -> CacheError:
        """Return the error for a cache that is not writable, saying who could change that."""
        hint = "choose another folder for it, or make this one writable"
        root, closed = str(self.root), self._closed()
        reason = "cannot be written"
        if closed is not None and closed != root:
            # A shared folder whose subfolders were created by another user for themselves only.
            reason += f" by this user: {closed} belongs to {_owner_of(closed)}"
            hint = f"choose another folder for it, or {_HOW_TO_SHARE}"
        return CacheError(root, reason, hint=hint, code=errno.EROFS)

    def error_of(self, error: OSError) -> CacheError:
        """Return an operating system error as a CacheError.

        If another user of a shared cache made something inaccessible, the hint says so.
        """
        found = cache_error(error, self.root)
        if isinstance(error, PermissionError) and isinstance(error.filename, (str, bytes)):
            closed = os.fsdecode(error.filename)
            while not os.path.lexists(closed) and len(closed) > 1:
                closed = os.path.dirname(closed)
            found.hint = f"{closed} belongs to {_owner_of(closed)}; {_HOW_TO_SHARE}"
        return found

    def _closed(self) -> str | None:
        """The first folder that this user cannot write to; None if there is none."""
        needed = [str(self.root), *(self.at(name) for name in _FOLDERS)]
        allowed = os.R_OK | os.W_OK | os.X_OK
        return next((folder for folder in needed if not os.access(folder, allowed)), None)

    def check(self) -> bool:
        """Whether there is a cache at the root.

        Raises:
            CacheError: it has another layout, or cannot be read.
        """
        claim(self.root)
        try:
            found = Path(self.at("layout")).read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise CacheError(str(self.root), f"cannot be opened: {system_reason(error)}") from None
        if found != _LAYOUT:
            said = found[:40].decode(errors="replace").strip()
            reason = f"has a layout that this release does not know ({said!r})"
            hint = "it belongs to another release of pgetpy; choose another folder"
            raise CacheError(str(self.root), reason, hint=hint)
        return True

    def make(self) -> None:
        """Create whatever is missing of the cache.

        Raises:
            CacheError: it cannot be created.
        """
        try:
            os.makedirs(self.root, exist_ok=True)
            self._declare()
            for name in _FOLDERS:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.at(name))
            for name in ("clock", "evictor"):
                os.close(os.open(self.at(name), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        except OSError as error:
            reason = f"cannot be made: {system_reason(error)}"
            hint = "choose another folder for it, or make this one writable"
            raise CacheError(str(self.root), reason, hint=hint, code=error.errno or 0) from None

    def _declare(self) -> None:
        path = self.at("layout")
        if os.path.exists(path):
            return
        own = f"{path}.{token()}"
        Path(own).write_bytes(_LAYOUT)
        # If another release wrote a different layout at the same moment, the next `check` sees it.
        os.replace(own, path)


def lower_layout(path: str | os.PathLike[str]) -> CachePaths | None:
    """Return the lower cache at `path`; None if nothing is there."""
    layout = CachePaths(Path(path).absolute())
    return layout if layout.check() else None


def token() -> str:
    """Return 16 random hex digits, unique in practice."""
    return os.urandom(8).hex()


def _owner_of(path: str) -> str:
    import pwd

    try:
        uid = os.stat(path).st_uid
    except OSError:
        return "no user: it does not exist"
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def move_if_free(source: str, target: str) -> bool:
    """Rename a file unless the new name is taken; the old name may remain."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except PermissionError:  # a file system without hard links
        if os.path.exists(target):
            return False
        os.replace(source, target)
    return True


def discard(path: str) -> bool:
    """Unlink a file; return False if it was gone already."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
