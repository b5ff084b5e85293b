"""What is odd about an archive that is extracted all the same."""

from __future__ import annotations


class Remarks:
    """Collects clauses, the first of each kind and a count: a million members may be odd."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, what: str, where: str = "") -> None:
        """Note `what`, a clause that is the same for all of its kind, of the member `where`."""
        self._first.setdefault(what, f"{where}: {what}" if where else what)
        self._count[what] = self._count.get(what, 0) + 1

    def clauses(self) -> tuple[str, ...]:
        """Return a clause for each kind."""
        more = ((clause, self._count[what] - 1) for what, clause in self._first.items())
        return tuple(f"{clause} (and {n} more such)" if n else clause for clause, n in more)
