"""A location that is a folder, which several machines may share.

Everything is renamed into place, from a folder on the same file system, so readers on other
machines see whole files only. What is loaded is executed: without a secret, a folder that others
may write is refused. The check walks up to the root, since the owner of any folder above could
replace those below.

Over NFS a name may be seen later than it was made, for as long as the attribute cache holds (60 s
by default: nfs(5), acregmax), and a directory may show a seal before its pack. Nothing here waits
for that: what cannot be seen is left out, and the next start sees it. No lock is taken either, as
flock on NFS is often one machine's own.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from pgetpy.compile_cache.locations import UNFINISHED, CacheLocation
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.stages import make_folder
from pgetpy.core.compile_cache.seals import LARGEST_SEAL
from pgetpy.errors import CacheError
from pgetpy.system.filesystem import (
    cache_error,
    map_os_errors,
    read_regular,
    remove_tree,
    sync_folder,
)

# What is not stored by then was left by a kill. No lock could say so for another machine.
_LEFT_SECONDS = 86_400.0


class FolderLocation(CacheLocation):
    """A folder, which may be shared over a network.

    Args:
        root: of the location; made when something is stored.
        trusted: whether it does not matter who else can write to it, because seals are signed.
    """

    def __init__(self, root: Path, *, trusted: bool) -> None:
        self._root = root
        self._trusted = trusted
        self.shown = str(root)

    def check_owner(self) -> None:
        """Raise CacheError if others may write here: what is loaded from here is executed."""
        if self._trusted:
            return
        for each in (self._root, *self._root.parents):
            try:
                found = os.stat(each)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise cache_error(error, self._root) from None
            theirs = found.st_uid not in (0, os.geteuid())
            # As in /tmp: others may add files, but not replace those of another user.
            open_to_all = bool(found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX)
            if theirs or open_to_all:
                who = "belongs to another user" if theirs else "can be written by anyone"
                raise CacheError(
                    str(self._root),
                    f"is not trusted: {each} {who}, and compiled code is executed",
                    hint="change its owner or mode, or sign what is in it (secret=)",
                )

    def names(self, folder: str) -> dict[str, int]:
        # Asked before anything else is read, so that this is where the check belongs.
        self.check_owner()
        found: dict[str, int] = {}
        with self._mapped():
            try:
                with os.scandir(self._root / folder) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        # Another process may remove it meanwhile.
                        with contextlib.suppress(FileNotFoundError):
                            if entry.is_dir(follow_symlinks=False):
                                found[f"{entry.name}/"] = 0
                            elif entry.is_file(follow_symlinks=False):
                                found[entry.name] = entry.stat(follow_symlinks=False).st_size
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return found

    def read(
        self, folder: str, names: Iterable[str], flag: CancelFlag, most: int = LARGEST_SEAL
    ) -> dict[str, bytes]:
        contents = {}
        for name in names:
            flag.check()
            with contextlib.suppress(OSError):
                data = read_regular(self._root / folder / name, most + 1)
                if len(data) <= most:
                    contents[name] = data
        return contents

    def fetch(self, name: str, sha256: str, spool: Path, flag: CancelFlag) -> Path:
        # In place: a copy would only cost time, and the reader compares the digest itself.
        return self._root / name

    def put(self, name: str, source: Path, *, replace: bool = False) -> None:
        path = self._root / name
        with self._mapped():
            make_folder(path.parent)
            self.check_owner()
            # Its name is its digest: what has the size has the content, unless it is known to be
            # damaged. Keeping it spares the network a second copy when two replicas save the same.
            same = not replace and path.exists() and path.stat().st_size == source.stat().st_size
            if same:
                source.unlink()
                return
            os.replace(source, path)
            sync_folder(path.parent)

    def remove(self, name: str) -> None:
        with self._mapped(), contextlib.suppress(FileNotFoundError):
            path = self._root / name
            if path.is_dir() and not path.is_symlink():
                os.rmdir(path)
            else:
                path.unlink()

    def spool(self) -> Path | None:
        """A folder of its own on the same file system, so that a pack is renamed into place."""
        self.check_owner()
        folder = self._root / "v1"
        with self._mapped():
            make_folder(folder)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if entry.name.startswith(UNFINISHED) and age > _LEFT_SECONDS:
                    remove_tree(entry.path)
        return folder

    def _mapped(self) -> contextlib.AbstractContextManager[None]:
        return map_os_errors(lambda error: cache_error(error, self._root))
