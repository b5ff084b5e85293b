"""Where an archive's members are until all are there, and how they get to their folder.

A folder promises that the archive is complete and was accepted. So members are made in a staged
folder, and moved when everything has been checked. There are two ways, chosen once:

    `model` does not exist      .model.pgetpy-part/          --one rename--> model/
    `model` exists (force)      model/.members.pgetpy-part/  --a rename for each member--> model/

The second staged folder is inside `model` because a rename works within one file system only, and
`model` may be a mounted volume. Many renames (`merging`) can be cut short, so the journal says how
far they are, in this order:

    check      nothing may be in the way of any member
    m          in the journal, flushed: the move has begun
    publish    the renames
    p          in the journal: done
    seal       the folder gets its own permissions and time

A run that finds `m` without `p` must not start over, because part of the members have left the
staged folder. It finishes the move, which may be repeated: what is still staged is what is left.
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
from pgetpy.core.destinations.names import LOCK, journal_path, layout_name, part_name, spool_name
from pgetpy.errors import DestinationError
from pgetpy.system.filesystem import (
    MetadataWarnings,
    closing_fd,
    names_in,
    remove_tree,
    sync_folder,
)

# The anchor's name within an existing folder; and what the root of a new ext4 volume holds.
_INSIDE = "members"
_UNIMPORTANT = frozenset({"lost+found"})


class Staging:
    """The way of an archive's members into `folder`.

    Attributes:
        anchor: the path from which the names of journal and staged folder are made.
        root: the staged folder, in which members are made.
        layout: the file for headers and padding, see `ArchiveLayout`.
        spool: the file for bytes that are not content yet, see `Spool`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # If a run was killed right after its one rename, the folder exists and its journal is
        # still beside it: the extraction is to be completed there, not merged into the folder.
        journal = journal_path(folder)
        staged = folder.with_name(part_name(folder.name))
        appeared = os.path.lexists(journal) and not os.path.lexists(staged)
        self._inside = folder.is_dir() and not appeared
        self.anchor = folder / _INSIDE if self._inside else folder
        self._choose_names(self.anchor.name)
        self._stated: Attributes | None = None

    def make_private(self) -> None:
        """Use names of this run's own: locks do not work here, so others may be at work unseen."""
        self._choose_names(f"{self.anchor.name}.{secrets.token_hex(4)}")

    def make(self) -> None:
        """Make the root, where it is not there yet."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.root, 0o777)
        self._open_up()
        if self._inside:
            write_record(self.root, {})

    def clear(self) -> None:
        """Remove everything that has been staged."""
        remove_tree(self.root)

    @property
    def ready(self) -> bool:
        """Whether an earlier run, killed while it published, has left anything to publish."""
        return has_record(self.root) if self._inside else os.path.lexists(self.root)

    @property
    def appeared(self) -> bool:
        """Whether an earlier run has published by one rename, which left nothing staged."""
        try:
            return not self._inside and not self.ready and bool(names_in(self.folder))
        except PermissionError:
            return True

    def check(self, passages: Iterable[tuple[str, ...]]) -> None:
        """Raise DestinationError if something is in the way of a member.

        Args:
            passages: paths that the archive's symbolic links lead through and that are not folders
                of the archive. The policy has judged those links for an empty folder; in this one,
                a link at such a path would lead them elsewhere.
        """
        if not self._inside:
            return
        self._open_up()
        Merge(self.root, self.folder).check()
        for parts in passages:
            path = self.folder.joinpath(*parts)
            if path.is_symlink():
                reason = "is a symbolic link, and a link in the archive would lead through it"
                raise DestinationError(str(path), reason, hint="move it away", code=errno.ELOOP)

    def publish(self) -> None:
        """Move the members to their folder. May be repeated if an earlier try was cut short."""
        if not self._inside:
            self._appear()
            return
        self._open_up()
        merge = Merge(self.root, self.folder)
        merge.run()
        self._stated = merge.attributes.get(())

    def seal(self) -> None:
        """Give the folder itself the permissions and time that the archive states for it.

        The last step, since removing our files from it changes its time.
        """
        if self._stated is None:
            return
        # Only a folder of another user cannot be opened here, and then its attributes are theirs.
        with (
            contextlib.suppress(PermissionError),
            closing_fd(os.open(self.folder, OPEN_FOLDER)) as fd,
        ):
            self._stated.apply(fd)

    def sync(self) -> None:
        """Flush the names, of the members and of the folder, to stable storage."""
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def _choose_names(self, name: str) -> None:
        self.root = self.anchor.with_name(part_name(name))
        self.layout = self.anchor.with_name(layout_name(name))
        self.spool = self.anchor.with_name(spool_name(name))

    def _open_up(self) -> None:
        """Make the root writable: an earlier run may have set the archive's permissions on it."""
        # OPEN_FOLDER does not follow a link that others may have put there.
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
            reason = "was created by something else during the download"
            hint = "use -f to put the members into it"
            raise DestinationError(
                str(self.folder), reason, hint=hint, code=errno.EEXIST
            ) from error


def check_empty(folder: Path, place: str = "") -> None:
    """Raise DestinationError if `folder` holds anything that extractions have not put there.

    Args:
        folder: need not exist.
        place: where it was named (a line of a manifest), for the error.
    """
    ours = f".{_INSIDE}."
    names = names_in(folder)
    theirs = (name for name in names if not (name.startswith(ours) or name.endswith(LOCK)))
    # A run that was killed while it moved the members has left some of them in the folder.
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
