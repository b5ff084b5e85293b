"""Where an archive's members stand until all are there, and how they come to their folder.

A folder that does not exist yet is staged beside itself and appears by one rename. One that exists
(it may be a volume, which cannot be renamed) is staged in a hidden folder inside it; from there the
members go to their places one by one (`merging`). Should that be cut short, the next run finishes
it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from pgetpy.archives.folder_attributes import Attributes, has_record, write_record
from pgetpy.archives.merging import OPEN_FOLDER, Merge
from pgetpy.core.destinations.journal import parse_journal
from pgetpy.core.destinations.names import journal_path, layout_name, part_name, spool_name
from pgetpy.errors import DestinationError
from pgetpy.system.filesystem import MetadataWarnings, closing_fd, remove_tree, sync_folder

# What the staged members of an existing folder are called, and what a new file system has.
_INSIDE = "members"
_UNIMPORTANT = frozenset({"lost+found"})


class Staging:
    """The way of an archive's members into `folder`.

    Attributes:
        anchor: the path by which the ledger of the extraction goes.
        root: the folder in which members are made.
        layout: the file for what is no member.
        spool: the file for what is still to be made into members.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A run that was cut short as the folder appeared has left its journal beside it.
        journal = journal_path(folder)
        staged = folder.with_name(part_name(folder.name))
        appeared = os.path.lexists(journal) and not os.path.lexists(staged)
        self._inside = folder.is_dir() and not appeared
        self.anchor = folder / _INSIDE if self._inside else folder
        self._choose_names(self.anchor.name)
        self._stated: Attributes | None = None

    def make_private(self) -> None:
        """Stage under names of this run's own: another may be at work that cannot be seen."""
        self._choose_names(f"{self.anchor.name}.{secrets.token_hex(4)}")

    def make(self) -> None:
        """Make the root, where it is not there yet."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, 0o777)
        self._open_up()
        if self._inside:
            write_record(self.root, {})

    def clear(self) -> None:
        """Take everything away that has been staged."""
        remove_tree(self.root)

    @property
    def ready(self) -> bool:
        """Whether there is anything to publish, an earlier run having begun with that."""
        return has_record(self.root) if self._inside else os.path.lexists(self.root)

    @property
    def appeared(self) -> bool:
        """Whether an earlier run has published by one rename."""
        try:
            return not self._inside and not self.ready and bool(_names_in(self.folder))
        except PermissionError:
            return True

    def check(self, passages: Iterable[tuple[str, ...]]) -> None:
        """Raise DestinationError where something stands in the way of a member.

        `passages` are paths that the archive's symbolic links lead through, but that are none of
        its folders: a link there would lead them elsewhere.
        """
        if not self._inside:
            return
        self._open_up()
        Merge(self.root, self.folder).check()
        for parts in passages:
            path = self.folder.joinpath(*parts)
            if path.is_symlink():
                reason = "is a symbolic link, through which one of the archive would lead"
                raise DestinationError(str(path), reason, hint="move it away", code=errno.ELOOP)

    def publish(self) -> None:
        """Bring the members to their folder. Again, if an earlier try was cut short."""
        if not self._inside:
            self._appear()
            return
        self._open_up()
        merge = Merge(self.root, self.folder)
        merge.run()
        self._stated = merge.attributes.get(())

    def seal(self) -> None:
        """Nothing of ours is in the folder any more: make it look as the archive says."""
        if self._stated is None:
            return
        # What may not be read belongs to another.
        with (
            contextlib.suppress(PermissionError),
            closing_fd(os.open(self.folder, OPEN_FOLDER)) as fd,
        ):
            self._stated.apply(fd)

    def sync(self) -> None:
        """Bring the names to stable storage."""
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def _choose_names(self, name: str) -> None:
        self.root = self.anchor.with_name(part_name(name))
        self.layout = self.anchor.with_name(layout_name(name))
        self.spool = self.anchor.with_name(spool_name(name))

    def _open_up(self) -> None:
        """An earlier run may have given the root the permissions that the archive states."""
        # A link that others have put there would lead elsewhere.
        with closing_fd(os.open(self.root, OPEN_FOLDER)) as fd:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if mode & 0o700 != 0o700:
                with MetadataWarnings(str(self.folder)).tolerate("to set permissions"):
                    os.fchmod(fd, mode | 0o700)

    def _appear(self) -> None:
        try:
            os.rename(self.root, self.folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            reason = "has come to be there meanwhile"
            hint = "use -f to put the members into it"
            raise DestinationError(
                str(self.folder), reason, hint=hint, code=errno.EEXIST
            ) from error


def check_empty(folder: Path, place: str = "") -> None:
    """Raise DestinationError if `folder` holds anything but what an extraction has put there.

    `place` says where it was named.
    """
    ours = f".{_INSIDE}."
    lock = ".pgetpy-lock"
    names = _names_in(folder)
    theirs = (name for name in names if not (name.startswith(ours) or name.endswith(lock)))
    # A run that was cut short while it moved the members has left some of them there.
    if any(name not in _UNIMPORTANT for name in theirs) and not _half_moved(folder):
        raise DestinationError(
            str(folder),
            f"already exists and is not empty{place}",
            hint="use -f to put the members into it",
            code=errno.EEXIST,
        )


def _half_moved(folder: Path) -> bool:
    try:
        path = Staging(folder).anchor
        return parse_journal(journal_path(path).read_bytes()).moving
    except OSError:
        return False


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
