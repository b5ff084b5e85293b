"""How much an archive may ask for, so that a small one cannot fill the memory or the disk."""

from __future__ import annotations

from pgetpy.core.lazy_dataclass import dataclass


@dataclass(frozen=True)
class Limits:
    """How much an archive may ask for. Errors call a limit by its name here.

    Attributes:
        total_bytes: the sizes of all files together, holes of sparse ones and files that later
            members replace included; None for no limit but the disk's, as weights have any size
            and what is compressed is bounded by `ratio`.
        members: members, with the folders that none of them states and the paths that symbolic
            links expect: all that costs an inode or memory.
        name_bytes: the longest name or link target (Linux: PATH_MAX is 4096 with the zero).
        component_bytes: the longest component of a name (NAME_MAX of the usual file systems).
        depth: components of a name or link target. Programs that walk folders by recursion, as
            Python's `shutil.rmtree` does before 3.13, give up at a thousand.
        ratio: bytes out for each byte in, where the archive is compressed. Weights reach 2 and text
            20; files of zeros reach gzip's 1032.
        ratio_floor: the bytes out up to which any ratio will do.
        header_bytes: what describes one member: extended headers, long names, sparse maps.
    """

    total_bytes: int | None = None
    members: int = 1_000_000
    name_bytes: int = 4095
    component_bytes: int = 255
    depth: int = 256
    ratio: float = 250.0
    ratio_floor: int = 1 << 30
    header_bytes: int = 1 << 20

    def exceeds_ratio(self, out: int, consumed: int) -> bool:
        """Whether `out` bytes are too many to have come out of `consumed`."""
        return out > self.ratio_floor and out > self.ratio * consumed
