"""Loading: from packs in a location to files in the live folders of compilers.

    seals --> what is missing --> packs, one by one --> stage --> checked --> renamed into place

Files are staged beside what they become, on the same file system, and renamed one by one: what is
in a live folder is whole at any moment, and a load that is killed leaves a smaller cache. Leaves
come before what refers to them (`core/compile_cache/layouts.rank_of`). What exists already stays.

Compiled code is executed, so nothing is believed until it is checked: the seal's signature (if a
secret is given), the pack's digest, each file's digest, its name against the layouts of compilers,
and its first bytes against its kind. What fails is left out with a reason, and the rest is loaded:
a missing file costs a compilation, not the start.

Tables that compilers append to are united with the one that exists instead of replacing it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgetpy.compile_cache.live import LiveScan
from pgetpy.compile_cache.locations import CacheLocation, reason_of
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.packs import check_pack, read_pack
from pgetpy.compile_cache.results import LeftOut
from pgetpy.compile_cache.stages import create_file, make_folder, staging, write_whole
from pgetpy.core.compile_cache.contents import (
    HEAD_BYTES,
    LARGEST_SEEN_WHOLE,
    damage,
    is_seen_whole,
    placed_group,
    portable,
    united_table,
)
from pgetpy.core.compile_cache.layouts import LAYOUTS, is_group, is_merged, rank_of, unit_place
from pgetpy.core.compile_cache.seals import Holding, Seal, SealedFile
from pgetpy.errors import IntegrityError, PgetError

Progress = Callable[[int, int], object]


@dataclass
class Loaded(LeftOut):
    """What a load has done so far; see `CompileCacheResult`.

    Attributes:
        entries: files that were put in place.
        bytes: of packs that were read.
        broken: digests of packs that turned out to be damaged; a later save replaces them.
    """

    entries: int = 0
    bytes: int = 0
    broken: set[str] = field(default_factory=set)
    places: set[tuple[str, str]] = field(default_factory=set)


@dataclass(eq=False)
class CacheLoader:
    """Lays down what a survey of seals holds and the live folders lack.

    Args:
        location: where the packs are.
        folders: the live folders, by kind.
        key: of this machine.
        loaded: is added to.
        flag: stops it.
        progress: is told bytes of packs that have been read, and of all.
    """

    _location: CacheLocation
    _folders: Mapping[str, Path]
    _key: str
    loaded: Loaded
    _flag: CancelFlag
    _progress: Progress
    # Texts: thousands of paths are made of them, and a Path costs more than the call for it.
    _stages: dict[str, str] = field(default_factory=dict)
    _tables: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    _staged: dict[tuple[str, str], SealedFile] = field(default_factory=dict)
    _torn: set[tuple[str, str]] = field(default_factory=set)

    def load(self, held: Mapping[tuple[str, str], Sequence[Holding]], live: LiveScan) -> None:
        """Load what is missing.

        Args:
            held: what the location has; see `unite`.
            live: what is here.

        Raises:
            PgetError: the location fails altogether.
            OSError: a live folder cannot be written.
        """
        packs = self._missing(held, live)
        if not packs:
            return
        total, done = sum(seal.pack_size for seal, _ in packs.values()), 0
        with contextlib.ExitStack() as stages, _spool() as spool:
            for kind in {file.kind for _, files in packs.values() for file in files}:
                stage = stages.enter_context(staging(self._folders[kind]))
                self._stages[kind] = str(stage)
            for seal, files in packs.values():
                self._flag.check()
                self._unpack(seal, files, spool)
                done += seal.pack_size
                self._progress(done, total)
            self._publish()

    def _missing(
        self, held: Mapping[tuple[str, str], Sequence[Holding]], live: LiveScan
    ) -> dict[str, tuple[Seal, list[SealedFile]]]:
        """Return the files to load, by the pack that holds them."""
        packs: dict[str, tuple[Seal, list[SealedFile]]] = {}
        whole = {unit_place(place) for place in live.files if LAYOUTS[place[0]].whole}
        for (kind, path), holdings in held.items():
            if kind not in self._folders or unit_place((kind, path)) in whole:
                continue
            if (kind, path) in live.files and not self._is_older(kind, path, holdings):
                continue
            for holding in holdings:
                packs.setdefault(holding.seal.pack, (holding.seal, []))[1].append(holding.file)
        return packs

    def _is_older(self, kind: str, path: str, holdings: Sequence[Holding]) -> bool:
        """Whether a file that is here is a table, and lacks what the location's last one has."""
        if not is_merged(kind, path):
            return False
        with contextlib.suppress(OSError, ValueError):
            data = portable(kind, path, (self._folders[kind] / path).read_bytes())
            return hashlib.sha256(data).hexdigest() != holdings[-1].file.sha256
        return True

    # ------------------------------------------------------------------------------- one pack

    # A pack is all or nothing: its digest is compared before any file of it is written, so what is
    # wrong in a single file after that was wrong when it was packed.
    def _unpack(self, seal: Seal, files: Sequence[SealedFile], spool: Path) -> None:
        """Stage `files`; a pack that cannot be used is left out."""
        name = f"v1/{self._key}/packs/{seal.pack_name}"
        try:
            path = self._location.fetch(name, seal.pack, spool, self._flag)
            check_pack(path, seal.pack, self._flag)
            read_pack(path, files, self._stage, self._flag)
            self.loaded.bytes += seal.pack_size
        except (PgetError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.loaded.broken.add(seal.pack)
            self.loaded.leave_out(seal.pack_name, reason_of(error))
            # A folder without one of its files is of no use, and may never be added to.
            self._torn |= {
                unit_place(file.place) for file in files if file.place not in self._staged
            }
        finally:
            with contextlib.suppress(OSError):
                (spool / seal.pack_name).unlink()

    def _stage(self, file: SealedFile, blocks: Iterator[bytes]) -> None:
        """Write a file to the stage, if it is what its seal says."""
        self._flag.check()
        digest = hashlib.sha256()
        if is_seen_whole(file.kind, file.path) or is_group(file.kind, file.path):
            if file.size > LARGEST_SEEN_WHOLE:
                raise IntegrityError(f"{file.path} is larger than any such file")
            data = b"".join(blocks)
            digest.update(data)
            self._check(file, data, digest.hexdigest())
            self._keep(file, data)
            return
        path = self._staged_path(file)
        head = b""
        with create_file(path) as out:
            for block in blocks:
                # A file's first block may be a few bytes, the end of a block of the pack.
                head += block[: HEAD_BYTES - len(head)]
                digest.update(block)
                write_whole(out, block)
        try:
            self._check(file, head, digest.hexdigest())
        except IntegrityError:
            os.unlink(path)
            raise
        self._note(file, path)

    def _check(self, file: SealedFile, head: bytes, sha256: str) -> None:
        if sha256 != file.sha256:
            raise IntegrityError(f"{file.path} is damaged: its sha256 differs")
        if why := damage(file.kind, file.path, head, file.size):
            raise IntegrityError(f"{file.path} cannot be used: it {why}")

    def _keep(self, file: SealedFile, data: bytes) -> None:
        """Stage a file that is in memory, as it has to be in this folder."""
        if is_merged(file.kind, file.path):
            self._tables.setdefault(file.place, []).append(data)
            self._staged[file.place] = file
            return
        if is_group(file.kind, file.path):
            path = f"{self._folders[file.kind]}/{file.path}"
            try:
                data = placed_group(data, os.path.dirname(path))
            except ValueError as error:
                raise IntegrityError(f"{file.path} cannot be used: {error}") from None
        path = self._staged_path(file)
        with create_file(path) as out:
            write_whole(out, data)
        self._note(file, path)

    def _note(self, file: SealedFile, path: str) -> None:
        if file.executable:
            os.chmod(path, 0o700)
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        self._staged[file.place] = file

    def _staged_path(self, file: SealedFile) -> str:
        return f"{self._stages[file.kind]}/{file.path}"

    # ----------------------------------------------------------------------------- into place

    def _publish(self) -> None:
        """Rename what is staged into place, leaves first.

        Folders that are new go as a whole, in one rename. Of those that exist the missing files
        are added one by one, except where a compiler wants the folder as it made it (`whole`).
        """
        units: dict[tuple[str, str], list[SealedFile]] = {}
        single: list[SealedFile] = []
        for file in self._staged.values():
            if (unit := unit_place(file.place)) == file.place:
                single.append(file)
            elif unit not in self._torn:
                units.setdefault(unit, []).append(file)
            else:
                continue
            self.loaded.places.add(file.place)
        for (kind, folder), files in units.items():
            self._flag.check()
            if not self._place_folder(kind, folder, len(files)):
                single += [] if LAYOUTS[kind].whole else files
        for file in sorted(single, key=lambda each: rank_of(each.kind, each.path)):
            self._flag.check()
            self._place_file(file)

    def _place_folder(self, kind: str, unit: str, count: int) -> bool:
        """Rename the folder of a unit that is not there yet; False if there is one.

        One rename puts all files of a unit in place, so a compiler never finds a part of it.
        """
        target = self._folders[kind] / unit
        if os.path.lexists(target):
            return False
        make_folder(target.parent)
        try:
            os.rename(f"{self._stages[kind]}/{unit}", target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        self.loaded.entries += count
        return True

    def _place_file(self, file: SealedFile) -> None:
        target = self._folders[file.kind] / file.path
        staged = self._staged_path(file)
        if is_merged(*file.place):
            self._write_table(file, target, staged)
            return
        if os.path.lexists(target):
            return
        make_folder(target.parent)
        os.rename(staged, target)
        self.loaded.entries += 1

    def _write_table(self, file: SealedFile, target: Path, staged: str) -> None:
        """Unite a table with the one that is there.

        It holds the results of autotuning. What this machine has measured goes before what others
        have; a process that rewrites it in the same moment loses ours, which the next load mends.
        """
        versions = self._tables[file.place]
        with contextlib.suppress(OSError):
            mine = target.read_bytes()
            # It may be being rewritten at this moment: then there is only a part of it.
            if not damage(*file.place, mine, len(mine)):
                versions = [mine, *versions]
        united = united_table(versions) or versions[0]
        with create_file(staged) as out:
            write_whole(out, united)
        make_folder(target.parent)
        os.rename(staged, target)
        self.loaded.entries += 1


@contextlib.contextmanager
def _spool() -> Iterator[Path]:
    """A folder for packs that come over the network."""
    with tempfile.TemporaryDirectory(prefix="pgetpy-packs-") as folder:
        yield Path(folder)
