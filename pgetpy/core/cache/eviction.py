"""What to evict, in which order, and when evicting more is pointless.

Entries that share an inode are evicted together or not at all: removing one of several hard links
frees nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

# If this many evictions freed no space, more would not either: processes have the files mapped, or
# other writers take the space at once.
FRUITLESS_VICTIMS = 3


class EvictionPriority(IntEnum):
    """How much an entry is in use; the lowest are evicted first."""

    IDLE = 0
    HANDED_OUT = 1  # to a living process
    JUST_HANDED_OUT = 2  # … within the last minute
    HELD = 3  # pinned, or leased by a living process: never evicted


@dataclass(frozen=True)
class Candidate:
    """An entry as eviction sees it.

    Attributes:
        used: its last use, on a clock that never runs backwards.
        standing: how much it is in use.
        inode: by which its bytes are counted.
        names: the number of hard links of the inode, including any outside the cache.
    """

    key: str
    size: int
    used: int
    standing: EvictionPriority
    inode: tuple[int, int]
    names: int = 1


@dataclass(frozen=True)
class Goal:
    """Bytes to free: within the cache's own limit, and on the disk."""

    budget: int = 0
    disk: int = 0

    @property
    def met(self) -> bool:
        return self.budget <= 0 and self.disk <= 0


@dataclass(frozen=True)
class Group:
    """Entries that share an inode.

    Attributes:
        gain: bytes that the disk gains; 0 if other hard links remain.
    """

    members: tuple[Candidate, ...]
    size: int
    standing: EvictionPriority
    used: int
    gain: int

    @classmethod
    def of(cls, *members: Candidate) -> Group:
        """Return the group of `members`, which is in use as much as its most used member."""
        size = max(member.size for member in members)
        remain = max(member.names for member in members) > len(members)
        standing = max(member.standing for member in members)
        used = max(member.used for member in members)
        return cls(members, size, standing, used, 0 if remain else size)


def groups_of(candidates: Iterable[Candidate]) -> list[Group]:
    """Group the candidates by inode."""
    found: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(candidate.inode, []).append(candidate)
    return [Group.of(*members) for members in found.values()]


def total_size(candidates: Iterable[Candidate]) -> int:
    """Return the bytes of all of them, each inode counted once."""
    return sum({candidate.inode: candidate.size for candidate in candidates}.values())


def leaving_order(candidates: Iterable[Candidate]) -> list[Group]:
    """Return the groups that may be evicted, in order."""
    free = [each for each in groups_of(candidates) if each.standing is not EvictionPriority.HELD]
    return sorted(free, key=lambda group: (group.standing, group.used, group.members[0].key))


def victims(candidates: Iterable[Candidate], goal: Goal) -> list[Group] | None:
    """Return what to evict, in order, to meet `goal`; None if everything would not be enough.

    If only the disk is short, groups that free nothing there are left alone.
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
    """Return the most that could be freed."""
    order = leaving_order(candidates)
    return Goal(sum(group.size for group in order), sum(group.gain for group in order))


def batches(chosen: Sequence[Group], most: int = 256) -> list[list[Group]]:
    """Return `chosen` in batches; single ones first, until evicting is known to free space."""
    alone, rest = chosen[:FRUITLESS_VICTIMS], chosen[FRUITLESS_VICTIMS:]
    together = [list(rest[at : at + most]) for at in range(0, len(rest), most)]
    return [[group] for group in alone] + together


class Gains:
    """Keeps track of how much evictions freed."""

    def __init__(self) -> None:
        self._fruitless = 0

    @property
    def hopeless(self) -> bool:
        """Whether the last evictions show that more would free nothing."""
        return self._fruitless >= FRUITLESS_VICTIMS

    def took(self, expected: int, gained: int) -> None:
        """Note that evicting `expected` bytes increased the free space by `gained`."""
        if expected <= 0:
            return
        self._fruitless = 0 if pays(expected, gained) else self._fruitless + 1


def pays(expected: int, gained: int) -> bool:
    """Whether `gained` is about what was `expected`, allowing for other writers."""
    return gained * 2 >= expected
