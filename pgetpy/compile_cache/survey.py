"""What a location has for a key: its seals, and whether the packs that they name are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgetpy.compile_cache.locations import CacheLocation
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.core.compile_cache.environments import CompileEnvironment
from pgetpy.core.compile_cache.seals import (
    SEAL_NAME,
    Holding,
    Seal,
    parse_seal,
    shared_objects,
    unite,
)
from pgetpy.errors import IntegrityError


@dataclass
class SealSurvey:
    """The seals of a key.

    Attributes:
        seals: those that can be used.
        broken: names of packs that cannot.
        left_out: seals that are not used, with the reason.
    """

    seals: list[Seal] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)

    def held(self, machine: CompileEnvironment) -> dict[tuple[str, str], list[Holding]]:
        """Return what each path is held as, of what `machine` can use."""
        return unite(self.seals, self.broken, machine)

    def lacking(self, machine: CompileEnvironment) -> dict[tuple[str, str], str]:
        """Return the shared objects that are held, though none that `machine` can use; and why."""
        held = self.held(machine)
        return {
            file.place: machine.lacks(seal.environment)
            for seal in self.seals
            for file in shared_objects(seal, machine)
            if file.place not in held and seal.pack not in self.broken
        }


def read_seals(
    location: CacheLocation,
    key: str,
    secret: bytes | None,
    flag: CancelFlag,
    known: Mapping[str, Seal],
) -> SealSurvey:
    """Read the seals of `key`, and see which of their packs are there.

    Args:
        location: where to look.
        key: of the cache.
        secret: what they must be signed with, if anything.
        flag: stops it.
        known: seals that were read before, by name. They never change.

    Raises:
        PgetError: the location cannot be used.
    """
    survey = SealSurvey()
    base = f"v1/{key}"
    names = [name for name in location.names(f"{base}/seals") if SEAL_NAME.fullmatch(name)]
    if not names:
        return survey
    survey.seals = [known[name] for name in names if name in known]
    unknown = sorted(name for name in names if name not in known)
    for name, data in location.read(f"{base}/seals", unknown, flag).items():
        try:
            survey.seals.append(parse_seal(data, name, key, secret))
        except IntegrityError as error:
            survey.left_out.append(str(error))
    packs = location.names(f"{base}/packs")
    for seal in survey.seals:
        # Over NFS, and in some stores, names appear later than they were made.
        if packs.get(seal.pack_name) != seal.pack_size:
            survey.broken.add(seal.pack)
            survey.left_out.append(f"{seal.name}: its pack is not there, or has another size")
    return survey
