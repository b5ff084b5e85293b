"""What people do to a location: list it, check it, mend it, make it smaller, publish it.

All of it works on any key, also those of other machines: nothing is laid down here.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgetpy.compile_cache.locations import CacheLocation, reason_of
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.packs import PackWriter, check_pack, read_pack
from pgetpy.compile_cache.stages import create_file
from pgetpy.compile_cache.survey import SealSurvey, read_seals
from pgetpy.core.compile_cache.environments import CompileEnvironment, parse_environment
from pgetpy.core.compile_cache.seals import (
    PACK_NAME,
    SEAL_NAME,
    Seal,
    SealedFile,
    moved_file,
    parse_seal,
    seal_name,
    unite,
)
from pgetpy.errors import IntegrityError, PgetError

# What `prune` joins: packs of which less than this part is used.
_MOSTLY_DEAD = 0.5
# By then a pack is seen on every machine; see `folder`.
_SEEN_SECONDS = 600.0
INDEX = "index.json"


@dataclass(frozen=True)
class KeyListing:
    """One key of a location.

    Attributes:
        key: 64 hexadecimal digits.
        environment: None if its env.json is missing or damaged.
        seals, packs: how many of them there are.
        size: bytes of all of its packs.
        saved: seconds since the epoch of the last save; 0 if there is none.
    """

    key: str
    environment: CompileEnvironment | None
    seals: int
    packs: int
    size: int
    saved: float

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        required = self.environment.required if self.environment else {}
        return {
            "key": self.key,
            "environment": dict(required),
            "seals": self.seals,
            "packs": self.packs,
            "size": self.size,
            "saved": self.saved,
        }


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        checked: seals whose packs were read whole.
        damaged: names of seals and packs that cannot be used, with the reason.
        removed: those that were removed.
    """

    checked: int = 0
    damaged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class LocationKeeper:
    """Looks after a location.

    Args:
        location: the location.
        secret: what seals must be signed with, if anything.
    """

    def __init__(self, location: CacheLocation, secret: bytes | None) -> None:
        self._location = location
        self._secret = secret
        self._flag = CancelFlag()

    def listings(self) -> list[KeyListing]:
        """Return all keys, the last saved one first.

        Raises:
            PgetError: the location cannot be used.
        """
        return sorted(
            map(self._listing, self._location.saved_keys()),
            key=lambda each: each.saved,
            reverse=True,
        )

    def _listing(self, key: str) -> KeyListing:
        base = f"v1/{key}"
        seals = [n for n in self._location.names(f"{base}/seals") if SEAL_NAME.fullmatch(n)]
        packs = [
            size
            for n, size in self._location.names(f"{base}/packs").items()
            if PACK_NAME.fullmatch(n)
        ]
        environment = None
        data = self._location.read(base, ["env.json"], self._flag).get("env.json")
        if data is not None:
            try:
                environment = parse_environment(data, f"{base}/env.json")
            except IntegrityError:
                environment = None
        saved = max(map(_saved, seals), default=0.0)
        return KeyListing(key, environment, len(seals), len(packs), sum(packs), saved)

    def find(self, prefix: str) -> str:
        """Return the key that begins with `prefix`.

        Raises:
            IntegrityError: there is none, or several.
        """
        found = [key for key in self._location.saved_keys() if key.startswith(prefix.lower())]
        if len(found) != 1:
            raise IntegrityError(f"{len(found) or 'no'} keys begin with {prefix!r}")
        return found[0]

    # ----------------------------------------------------------------------------------- verify

    def verify(self, key: str, *, repair: bool) -> Verification:
        """Read every pack of `key`, and compare every file with its digest.

        Args:
            key: 64 hexadecimal digits.
            repair: remove what is damaged, so that the next save replaces it.

        Raises:
            PgetError: the location cannot be used.
        """
        survey = self._survey(key)
        done = Verification(len(survey.seals), list(survey.left_out))
        base = f"v1/{key}"
        doomed = [f"{base}/seals/{name}" for name in self._damaged_seals(key, survey)]
        for seal in survey.seals:
            if seal.pack in survey.broken:
                # On another machine, over NFS, a pack may be seen later than its seal.
                is_damaged = time.time() - _saved(seal.name) > _SEEN_SECONDS
            else:
                is_damaged = self._check(key, seal, done)
            if is_damaged:
                doomed += [f"{base}/seals/{seal.name}", f"{base}/packs/{seal.pack_name}"]
        if repair:
            for name in doomed:
                self._location.remove(name)
            done.removed = doomed
        return done

    def _damaged_seals(self, key: str, survey: SealSurvey) -> list[str]:
        """Return the names of seals that are of no use to anyone: not those that are signed with
        another secret, or cannot be read just now."""
        folder = f"v1/{key}/seals"
        usable = {seal.name for seal in survey.seals}
        others = [name for name in self._location.names(folder) if name not in usable]
        damaged = []
        for name, data in self._location.read(folder, others, self._flag).items():
            try:
                parse_seal(data, name, key, None)
            except IntegrityError:
                damaged.append(name)
        return damaged

    def _check(self, key: str, seal: Seal, done: Verification) -> bool:
        """Whether a pack is damaged; what is wrong with it goes to `done`.

        The pack is decompressed and each file hashed: its digest proves that it is as it was
        written, not that its seal describes it.
        """

        def take(file: SealedFile, blocks: Iterator[bytes]) -> None:
            digest = hashlib.sha256()
            for block in blocks:
                digest.update(block)
            if digest.hexdigest() != file.sha256:
                raise IntegrityError(f"{file.path} is damaged: its sha256 differs")

        with tempfile.TemporaryDirectory(prefix="pgetpy-verify-") as spool:
            try:
                name = f"v1/{key}/packs/{seal.pack_name}"
                path = self._location.fetch(name, seal.pack, Path(spool), self._flag)
                check_pack(path, seal.pack, self._flag)
                read_pack(path, seal.files, take, self._flag)
            except (PgetError, OSError) as error:
                done.damaged.append(f"{seal.pack_name}: {reason_of(error)}")
                # Anything else may pass: the network, a disk, a right to read.
                return isinstance(error, IntegrityError)
        return False

    def _survey(self, key: str) -> SealSurvey:
        return read_seals(self._location, key, self._secret, self._flag, {})

    # ------------------------------------------------------------------------------ rm and prune

    def remove(self, key: str) -> int:
        """Remove all of a key, seals first; return the bytes of its packs.

        Without its seals a key is empty for everyone, so a removal that is cut off leaves only
        waste.

        Raises:
            PgetError: it cannot be removed.
        """
        base, size = f"v1/{key}", 0
        for folder in ("seals", "packs"):
            for name, count in self._location.names(f"{base}/{folder}").items():
                size += count if folder == "packs" else 0
                self._location.remove(f"{base}/{folder}/{name}")
        for name in (INDEX, "env.json", "seals", "packs", ""):
            self._location.remove(f"{base}/{name}".rstrip("/"))
        return size

    def prune(self, key: str) -> int:
        """Join the packs of which little is used into one; return the bytes that are gained.

        A pack is used for what its seal has and no earlier one. The new pack and its seal are there
        before the old ones go. A load that has read the old seals leaves out what it then misses.

        Raises:
            PgetError: a pack cannot be read, or the new one not be written.
        """
        survey = self._survey(key)
        alike: dict[tuple[str, ...], list[Seal]] = {}
        for seal in survey.seals:
            if seal.pack not in survey.broken:
                alike.setdefault(seal.environment.needs, []).append(seal)
        return sum(self._prune(key, seals, survey.seals) for seals in alike.values())

    def _prune(self, key: str, seals: Sequence[Seal], all_seals: Sequence[Seal]) -> int:
        """Join packs of `seals`, which all need the same of a machine; see `prune`."""
        used: dict[str, list[SealedFile]] = {seal.pack: [] for seal in seals}
        for holdings in unite(seals).values():
            for holding in holdings:
                used[holding.seal.pack].append(holding.file)
        dead = [
            seal
            for seal in seals
            if sum(file.size for file in used[seal.pack])
            <= _MOSTLY_DEAD * sum(file.size for file in seal.files)
        ]
        if not dead:
            return 0
        gained = sum(seal.pack_size for seal in dead)
        if any(used[seal.pack] for seal in dead):
            gained -= self._join(key, dead, used)
        for seal in dead:
            self._location.remove(f"v1/{key}/seals/{seal.name}")
        kept = {seal.pack for seal in all_seals if seal not in dead}
        for seal in dead:
            if seal.pack not in kept:
                self._location.remove(f"v1/{key}/packs/{seal.pack_name}")
        return gained

    def _join(self, key: str, dead: Sequence[Seal], used: dict[str, list[SealedFile]]) -> int:
        """Write what is used of `dead` as one pack with its seal; return its bytes."""
        files: list[SealedFile] = []
        with self._location.unfinished() as spool:
            path = spool / "pack"
            with create_file(path) as out:
                writer = PackWriter(out)

                def take(file: SealedFile, blocks: Iterator[bytes]) -> None:
                    files.append(moved_file(file, writer.size))
                    for block in blocks:
                        writer.add(bytes(block))

                try:
                    for seal in dead:
                        name = f"v1/{key}/packs/{seal.pack_name}"
                        found = self._location.fetch(name, seal.pack, spool, self._flag)
                        check_pack(found, seal.pack, self._flag)
                        read_pack(found, used[seal.pack], take, self._flag)
                    pack = writer.finish()
                finally:
                    writer.close()
            joined = Seal(pack, path.stat().st_size, files, dead[0].environment)
            self._location.put(f"v1/{key}/packs/{joined.pack_name}", path)
            data = joined.to_json(self._secret)
            # As old as the oldest one, so that what was the first seal of a path stays so.
            first = min(seal.name for seal in dead)
            name = f"v1/{key}/seals/{seal_name(data, _saved_ns(first))}"
            self._location.put_small(name, data, spool)
            return joined.pack_size

    def publish(self) -> list[str]:
        """Write an index for each key, for web servers that cannot be listed; return the keys.

        Raises:
            PgetError: the location cannot be written.
        """
        published = []
        for each in self.listings():
            base = f"v1/{each.key}"
            index = {name: self._location.names(f"{base}/{name}") for name in ("seals", "packs")}
            data = json.dumps(index, sort_keys=True).encode()
            with self._location.unfinished() as spool:
                self._location.put_small(f"{base}/{INDEX}", data, spool, replace=True)
            published.append(each.key)
        return published


def _saved(name: str) -> float:
    """Return when a seal was made, in seconds since the epoch."""
    return _saved_ns(name) / 1e9


def _saved_ns(name: str) -> int:
    return int(name.partition("-")[0])
