"""Saving: what is new in the live folders goes to the location as one pack and one seal.

What another replica has saved already is not saved again, and a save that finds nothing new writes
nothing. What is being written, cannot be used, or has a name that no compiler writes stays behind.

    live folders --> new files, whole units --> pack (named by its sha256) --> seal (names the pack)

The seal is written last: a reader that finds it finds the pack, and a save that is killed before
leaves a pack that nothing refers to. Replicas may save at the same time without a lock, because
packs are named by their content and each save has a seal of its own; loading unites the seals.

A file is checked before and after it is read. A compiler may be writing it at this moment, and a
half-written kernel would be loaded by every later replica.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgetpy.compile_cache.live import LiveFile, LiveScan, being_written
from pgetpy.compile_cache.loading import Progress
from pgetpy.compile_cache.locations import CacheLocation
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.packs import PackWriter
from pgetpy.compile_cache.results import LeftOut
from pgetpy.compile_cache.stages import create_file, fsync_file
from pgetpy.compile_cache.survey import SealSurvey
from pgetpy.core.compile_cache.contents import (
    HEAD_BYTES,
    LARGEST_SEEN_WHOLE,
    children_of,
    damage,
    is_seen_whole,
    portable,
)
from pgetpy.core.compile_cache.environments import CompileEnvironment
from pgetpy.core.compile_cache.layouts import LAYOUTS, is_group, is_merged, unit_place
from pgetpy.core.compile_cache.seals import Holding, Seal, SealedFile, seal_name
from pgetpy.errors import IntegrityError
from pgetpy.system.filesystem import closing_fd
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("compile_cache")
_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass
class Saved(LeftOut):
    """What a save has done; see `CompileCacheResult`.

    Attributes:
        entries: files in the new pack.
        bytes: of the pack and its seal.
        too_large: raw bytes of all files, if they exceed the limit and nothing was saved.
        seal: of the new pack; None if nothing was saved.
    """

    entries: int = 0
    bytes: int = 0
    too_large: int = 0
    seal: Seal | None = None


@dataclass(eq=False)
class CacheSaver:
    """Saves what is new.

    Which files are new is told by their names alone: a compiler names a file by what it was made
    from, and never changes it. Two builds of the same file differ in their bytes and not in what
    they do. So nothing is hashed to find that there is nothing to save, and a second replica that
    compiled the same code at the same time has nothing to add.

    Args:
        location: where to.
        folders: the live folders, by kind.
        environment: of this machine.
        secret: signs the seal, if there is one.
        max_bytes: the most raw bytes of all files.
        flag: stops it; nothing is left behind.
        progress: is told raw bytes that were read, and all of them.
    """

    _location: CacheLocation
    _folders: Mapping[str, Path]
    _environment: CompileEnvironment
    _secret: bytes | None
    _max_bytes: int
    _flag: CancelFlag
    _progress: Progress
    saved: Saved = field(default_factory=Saved)

    def save(self, survey: SealSurvey, live: LiveScan) -> Saved:
        """Save what `live` has and `survey` lacks.

        Raises:
            PgetError: the location cannot be written.
            OSError: there is no room for the pack.
        """
        held = survey.held(self._environment)
        files = self._new_files(held, live)
        total = sum(each.size for each in live.files.values())
        if files and total > self._max_bytes:
            self.saved.too_large = total
            return self.saved
        if files:
            self._write(files, held, survey)
        return self.saved

    # ---------------------------------------------------------------------------- what is new

    def _new_files(
        self, held: Mapping[tuple[str, str], Sequence[Holding]], live: LiveScan
    ) -> list[LiveFile]:
        """Return the files to save; of a unit all of them, or none.

        They are sorted (`_order`), so that the same files make the same pack, whose name is its
        digest: a save that is repeated after a failure between pack and seal does not send it
        again.
        """
        new = [each for each in live.files.values() if self._is_new(each, held)]
        if not new:
            return []
        busy = being_written(self._folders)
        units: dict[tuple[str, str], list[LiveFile]] = {}
        for each in live.files.values():
            units.setdefault(unit_place(each.place), []).append(each)
        chosen: dict[tuple[str, str], LiveFile] = {}
        for each in new:
            name = each.path.rpartition("/")[2].partition(".")[0]
            if name in busy:
                self.saved.leave_out(each.path, "is being compiled just now")
                continue
            unit = units[unit_place(each.place)]
            if each.place in chosen or not self._is_complete(unit):
                continue
            # Where a unit has changed it is saved whole, so that one pack can restore it.
            members = unit if LAYOUTS[each.kind].unit and len(unit) > 1 else [each]
            chosen |= {member.place: member for member in members}
        return sorted(chosen.values(), key=_order)

    def _is_new(self, live: LiveFile, held: Mapping[tuple[str, str], Sequence[Holding]]) -> bool:
        holdings = held.get(live.place)
        if not holdings:
            return True
        if not is_merged(*live.place):
            return False
        try:
            data = (self._folders[live.kind] / live.path).read_bytes()
            digest = hashlib.sha256(portable(live.kind, live.path, data)).hexdigest()
        except (OSError, ValueError):
            return False
        return all(digest != holding.file.sha256 for holding in holdings)

    def _is_complete(self, unit: Sequence[LiveFile]) -> bool:
        """Whether every file that a kernel's group file names is there."""
        names = {each.path.rpartition("/")[2] for each in unit}
        for each in unit:
            if not is_group(*each.place):
                continue
            try:
                data = (self._folders[each.kind] / each.path).read_bytes()
                missing = children_of(data) - names
            except (OSError, ValueError) as error:
                self.saved.leave_out(each.path, str(error))
                return False
            if missing:
                self.saved.leave_out(each.path, f"lacks {min(missing)}")
                return False
        return True

    # ----------------------------------------------------------------------------- the pack

    def _write(
        self,
        files: Sequence[LiveFile],
        held: Mapping[tuple[str, str], Sequence[Holding]],
        survey: SealSurvey,
    ) -> None:
        """Write a pack with `files`, then its seal.

        The order is what makes a kill harmless: pack, facts, seal. A pack without a seal is waste,
        which the same save uses again; a seal without a pack does not come about.
        """
        key, base = self._environment.key, f"v1/{self._environment.key}"
        with self._location.unfinished() as spool:
            path = spool / "pack"
            with create_file(path) as out:
                sealed, pack = self._pack(files, out)
                fsync_file(out)
            if not sealed:
                return
            self._flag.check()
            seal = Seal(pack, path.stat().st_size, sealed, self._environment)
            name = f"{base}/packs/{seal.pack_name}"
            self._location.put(name, path, replace=pack in survey.broken)
            self._flag.check()
            self._location.put_small(f"{base}/env.json", self._environment.to_json(), spool)
            data = seal.to_json(self._secret)
            name = f"{base}/seals/{seal_name(data, time.time_ns())}"
            self._location.put_small(name, data, spool)
            self.saved.seal = seal
            self.saved.entries = len(sealed)
            self.saved.bytes = seal.pack_size + len(data)
            _LOG.debug("saved %s files under %s", len(sealed), key)

    def _pack(self, files: Sequence[LiveFile], out: io.FileIO) -> tuple[list[SealedFile], str]:
        """Write the raw bytes of `files`; return what became of them, and the pack's sha256."""
        total = sum(each.size for each in files)
        sealed: list[SealedFile] = []
        lost: set[tuple[str, str]] = set()
        writer = PackWriter(out)
        try:
            for each in files:
                self._flag.check()
                offset = writer.size
                digest = self._add(each, writer)
                if digest is None:
                    lost.add(unit_place(each.place))
                    continue
                size = writer.size - offset
                sealed.append(
                    SealedFile(
                        each.kind, each.path, size, digest, offset, each.executable, each.mtime_ns
                    )
                )
                self._progress(writer.size, total)
            return _without_torn(sealed, lost), writer.finish()
        finally:
            writer.close()

    def _add(self, live: LiveFile, writer: PackWriter) -> str | None:
        """Add one file; return its sha256, or None if it is left out."""
        try:
            fd = os.open(f"{self._folders[live.kind]}/{live.path}", _READ)
            with closing_fd(fd):
                return self._add_open(live, fd, writer)
        except OSError:
            self.saved.leave_out(live.path, "has vanished")
        except IntegrityError as error:
            self.saved.leave_out(live.path, str(error))
        return None

    # A file is read once, and hashed and packed as it is read. Whether it was whole is known only
    # then: what turns out to be damaged or still being written is in the pack, but in no seal.
    def _add_open(self, live: LiveFile, fd: int, writer: PackWriter) -> str:
        whole = is_seen_whole(*live.place) or is_group(*live.place)
        if whole and live.size > LARGEST_SEEN_WHOLE:
            raise IntegrityError("is larger than any such file")
        # No more than that: memory for a whole block costs more than most files.
        block = os.read(fd, live.size + 1 if whole else min(live.size + 1, _BLOCK))
        if whole and len(block) != live.size:
            raise IntegrityError("is being written")
        if why := damage(*live.place, block if whole else block[:HEAD_BYTES], live.size):
            raise IntegrityError(why)
        try:
            block = portable(live.kind, live.path, block)
        except ValueError as error:
            raise IntegrityError(str(error)) from None
        digest, count = hashlib.sha256(), 0
        while block:
            digest.update(block)
            writer.add(block)
            count += len(block)
            block = os.read(fd, _BLOCK) if live.size >= _BLOCK else b""
        # If it has changed its bytes are in the pack, but no seal says so.
        if not whole and count != live.size:
            raise IntegrityError("is being written")
        self._check_unchanged(live, fd)
        return digest.hexdigest()

    def _check_unchanged(self, live: LiveFile, fd: int) -> None:
        found = os.fstat(fd)
        if (found.st_size, found.st_mtime_ns) != (live.size, live.mtime_ns):
            raise IntegrityError("is being written")


def _without_torn(
    sealed: Sequence[SealedFile], lost: Collection[tuple[str, str]]
) -> list[SealedFile]:
    """Return `sealed` without the kernels of Triton among the units that `lost` a file: Triton
    finds their group file, and fails without what that names."""
    units = {each.place: unit_place(each.place) for each in sealed}
    torn = {units[each.place] for each in sealed if is_group(*each.place)}.intersection(lost)
    return [each for each in sealed if units[each.place] not in torn]


def _order(live: LiveFile) -> tuple[str, ...]:
    """Return where a file comes in a pack: what is alike is together, as that compresses best.

    Kernels that autotuning has made of one source differ in a few lines, and have the same name in
    folders of their own.
    """
    name = live.path.rpartition("/")[2]
    return live.kind, name.rpartition(".")[2], name, live.path
