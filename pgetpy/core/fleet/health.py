"""Which cache nodes are worth asking: what one process has learned of them, for all its transfers.

A node that is dead, or cut off, costs a time-out. So it is left alone after one failure, for longer
each time, and then asked by one request alone; only when that has been answered, by all:

    up --- lost ---> down for 10 s ---> one request may try ---+--- answered ---> up
                        ^                                      |
                        +------ for twice as long, at most ----+--- lost
                                320 s

    up --- lied ---> down for the rest of the run

Many requests are under way at a time and one outage fails them all, so a failure counts only if its
request was made after the last one was known.

A silent node may be filling: it fetches a large piece from the origin, and those who wait see
nothing until it is complete. A probe on a connection of its own tells; one at a time is enough.
"""

from __future__ import annotations

from dataclasses import dataclass

# Seconds that a node is left alone after its first failure, and the most that doubling leads to.
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 320.0
# Seconds in which the one request that tries again, or a probe, must have been answered; after that
# another may try.
_TRIAL = 3.0


@dataclass
class _Record:
    """What is known of one node.

    Attributes:
        strikes: failures in a row.
        until: when it may be tried again.
        failed_at: when the last failure was known.
        tried_until: until when the one request that tries again has time to be answered.
        probed_until: until when a probe is under way.
    """

    strikes: int = 0
    until: float = 0.0
    failed_at: float = float("-inf")
    tried_until: float = float("-inf")
    probed_until: float = float("-inf")


class NodeHealth:
    """Up, down until when, or down for good. Nodes are known by their names, times are in seconds
    of one monotonic clock."""

    def __init__(self) -> None:
        # Nodes that have failed since they last answered.
        self._records: dict[str, _Record] = {}
        self._liars: set[str] = set()

    def admits(self, name: str, now: float) -> bool:
        """Whether a request may be made to the node now.

        After a pause this is true for one caller alone, until it reports what came of it.
        """
        if name in self._liars:
            return False
        record = self._records.get(name)
        if record is None or not record.strikes:
            return True
        if now < record.until:
            return False
        record.until = record.tried_until = now + _TRIAL
        return True

    def is_down(self, name: str, now: float) -> bool:
        """Whether the node has failed and not answered since, and is not being tried again."""
        record = self._records.get(name)
        if name in self._liars:
            return True
        return record is not None and record.strikes > 0 and now >= record.tried_until

    def lost(self, name: str, now: float, asked: float) -> bool:
        """Record that the node cannot be reached, or does not answer.

        Args:
            name: of the node.
            now: the time.
            asked: when the request was made that failed.

        Returns:
            Whether this is news, and not one more request that failed for the same reason.
        """
        record = self._records.setdefault(name, _Record())
        if asked < record.failed_at:
            return False
        record.strikes += 1
        record.failed_at = now
        record.tried_until = float("-inf")
        pause = FIRST_PAUSE * 2.0 ** min(record.strikes - 1, 16)
        record.until = now + min(LONGEST_PAUSE, pause)
        return True

    def answered(self, name: str) -> None:
        """Record that the node has answered."""
        self._records.pop(name, None)

    def lied(self, name: str) -> None:
        """Record that the node has sent what is not the object: it is not asked again."""
        self._liars.add(name)

    def may_probe(self, name: str, now: float) -> bool:
        """Whether to probe the silent node now: not if another caller does so already."""
        record = self._records.setdefault(name, _Record())
        if now < record.probed_until:
            return False
        record.probed_until = now + _TRIAL
        return True

    def probed(self, name: str) -> None:
        """Record that the probe is over, so that the next one may begin."""
        record = self._records.get(name)
        if record is not None:
            record.probed_until = float("-inf")
