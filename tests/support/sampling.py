"""Which rows of long tables of tests a run of the whole suite leaves to `make soak`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from zlib import crc32

LONG = 6


def left_out(names: Iterable[str]) -> set[str]:
    """Return two thirds of the rows of each table of LONG rows and more; `names` are ids of tests.

    They are the same in every run and process. A hash chooses them, because a stride could leave
    out one of several transports altogether.
    """
    tables = defaultdict(list)
    for name in names:
        tables[name.partition("[")[0]].append(name)
    rows = (sorted(table, key=_rank) for table in tables.values() if len(table) >= LONG)
    return {name for table in rows for name in table[-(-len(table) // 3) :]}


def _rank(name: str) -> int:
    return crc32(name.encode())
