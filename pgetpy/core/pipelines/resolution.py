"""When what a reference means has to be looked up again."""

from __future__ import annotations

from dataclasses import dataclass

from pgetpy.core.pipelines.plans import PipelinePlan

# A branch that moves is noticed after this many seconds.
REFRESH_SECONDS = 300.0


@dataclass(frozen=True)
class Resolution:
    """A plan, and when it was made.

    Attributes:
        plan: what the references meant.
        looked_up: on a monotonic clock, in seconds.
    """

    plan: PipelinePlan
    looked_up: float

    def is_due(self, now: float, refresh: float) -> bool:
        """Whether it has to be made again; never if everything in it is pinned."""
        return not self.plan.pinned and now - self.looked_up >= refresh
