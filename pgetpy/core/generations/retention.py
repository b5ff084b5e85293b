"""Which generations may go, and which numbers have to be there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pgetpy.errors import UsageError

_MOST = 10_000


def removable(
    numbers: Iterable[int],
    *,
    keep: int | None = None,
    minimum: int | None = None,
    latest: int | None = None,
) -> list[int]:
    """Return the numbers that may be pruned, the oldest first.

    A generation stays if any of these rules keeps it.

    Args:
        numbers: of the generations that are there.
        keep: how many of the highest numbers stay.
        minimum: this number and higher ones stay.
        latest: what `latest` leads to, which stays.
    """
    ordered = sorted(set(numbers))
    kept = set(ordered[-keep:] if keep else [])
    if minimum is not None:
        kept |= {each for each in ordered if each >= minimum}
    return [each for each in ordered if each not in kept and each != latest]


def wanted_numbers(present: Collection[int], minimum: int | None, maximum: int | None) -> range:
    """Return the numbers that must be there.

    Without `minimum`, only `maximum`; without `maximum`, all from `minimum` to the highest that is
    there, `minimum` included; with neither, the highest that is there. Empty if nothing is there.

    Raises:
        UsageError: the range is empty, or longer than anyone has generations.
    """
    if minimum is None and maximum is None:
        highest = max(present, default=-1)
        return range(max(highest, 0), highest + 1)
    first = minimum if minimum is not None else maximum or 0
    last = maximum if maximum is not None else max([*present, first])
    if not first <= last < first + _MOST:
        raise UsageError(f"from {first} to {last} is not a range of at most {_MOST} generations")
    return range(first, last + 1)
