"""Who leaves a cache, in which order, and when it is no use to take more.

What shares an inode leaves together or not at all: one name of several gives no byte back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

# After so many victims that gave no room, more would not either: their bytes are kept by those who
# have mapped them, or taken by other writers at once.
FRUITLESS_VICTIMS = 3


class EvictionPriority(IntEnum):
    """How near an entry is to those who use it; the lowest leave first."""

    IDLE = 0
    HANDED_OUT = 1  # to a process that lives
    JUST_HANDED_OUT = 2  # … within the last minute
    HELD = 3  # pinned, or leased by a process that lives: stays


@dataclass(frozen=True)
class Candidate:
    """An entry, seen by who decides.

    Attributes:
        used: when it was used last, on a clock that is never set back.
        inode: what its bytes are counted by.
        names: how many names the inode has, also outside of the cache.
    """

    key: str
    size: int
    used: int
    standing: EvictionPriority
    inode: tuple[int, int]
    names: int = 1


@dataclass(frozen=True)
class Goal:
    """Bytes to be gained: off the cache's own count, and on the disk."""

    budget: int = 0
    disk: int = 0

    @property
    def met(self) -> bool:
        return self.budget <= 0 and self.disk <= 0


@dataclass(frozen=True)
class Group:
    """The entries that share one inode.

    Attributes:
        gain: bytes that the disk gets back, which it does not where names outside remain.
    """

    members: tuple[Candidate, ...]
    size: int
    standing: EvictionPriority
    used: int
    gain: int

    @classmethod
    def of(cls, *members: Candidate) -> Group:
        """Return the group of `members`, which stays as long as any of them has to."""
        size = max(member.size for member in members)
        remain = max(member.names for member in members) > len(members)
        standing = max(member.standing for member in members)
        used = max(member.used for member in members)
        return cls(members, size, standing, used, 0 if remain else size)


def groups_of(candidates: Iterable[Candidate]) -> list[Group]:
    """Return the candidates by inode."""
    found: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.inode, []).append(candidate)
    return [Group.of(*members) for members in found.values()]


def total_size(candidates: Iterable[Candidate]) -> int:
    """Return the bytes of all of them, each inode's once."""
    return sum({candidate.inode: candidate.size for candidate in candidates}.values())


def leaving_order(candidates: Iterable[Candidate]) -> list[Group]:
    """Return the groups that may leave, the first to go first."""
    free = [each for each in groups_of(candidates) if each.standing is not EvictionPriority.HELD]
    return sorted(free, key=lambda group: (group.standing, group.used, group.members[0].key))


def victims(candidates: Iterable[Candidate], goal: Goal) -> list[Group] | None:
    """Return who has to leave, in order, to meet `goal`; None where all together do not.

    Where only the disk is short, those that give it nothing back stay.
    """
    chosen = []
    budget, disk = goal.budget, goal.disk
    for group in leaving_order(candidates):
        if budget <= 0 and disk <= 0:
            break
        if budget > 0 or group.gain:
            chosen.append(group)
            budget -= group.size
            disk -= group.gain
    return chosen if budget <= 0 and disk <= 0 else None


def most_gain(candidates: Iterable[Candidate]) -> Goal:
    """Return what could be gained at most."""
    order = leaving_order(candidates)
    return Goal(sum(group.size for group in order), sum(group.gain for group in order))


def batches(chosen: Sequence[Group], most: int = 256) -> list[list[Group]]:
    """Return `chosen` in groups to be taken at once: single ones first, until the gain is known."""
    alone, rest = chosen[:FRUITLESS_VICTIMS], chosen[FRUITLESS_VICTIMS:]
    together = [list(rest[at : at + most]) for at in range(0, len(rest), most)]
    return [[group] for group in alone] + together


class Gains:
    """Keeps account of what victims gave the disk back."""

    def __init__(self) -> None:
        self._fruitless = 0

    @property
    def hopeless(self) -> bool:
        """Whether the last victims show that more would give nothing."""
        return self._fruitless >= FRUITLESS_VICTIMS

    def took(self, expected: int, gained: int) -> None:
        """Note that victims of `expected` bytes made the disk's free bytes rise by `gained`."""
        if expected <= 0:
            return
        self._fruitless = 0 if pays(expected, gained) else self._fruitless + 1


def pays(expected: int, gained: int) -> bool:
    """Whether `gained` bytes are what became of `expected`, other writers at work considered."""
    return gained * 2 >= expected
