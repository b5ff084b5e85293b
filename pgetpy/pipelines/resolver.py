"""Plans that are kept while they hold: of branches for a while, of commits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pgetpy.core.pipelines.plans import PipelinePlan
from pgetpy.core.pipelines.resolution import REFRESH_SECONDS, Resolution
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.errors import HttpStatusError, NotAllowedError, ServiceError, TransferError
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("pipelines")
_SERVER_ERRORS = 500
# Plans that are kept.
_MOST = 1000


class PlanResolver:
    """The plans of this process, by specification.

    Args:
        make: makes a plan.
        refresh: seconds after which a plan that is not pinned is made again.
        now: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        make: Callable[[PipelineSpec], PipelinePlan],
        refresh: float = REFRESH_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._refresh = refresh
        self._now = now
        self._found: dict[str, Resolution] = {}
        self._lock = threading.Lock()

    def plan(self, spec: PipelineSpec) -> PipelinePlan:
        """Return the plan of `spec`, made again if it is due.

        If a service cannot be reached then, the plan from before is used until the next time; if
        it refuses, that is an error.

        Raises:
            PgetError: see `planning.Planner.plan`.
        """
        known = self._known(spec)
        now = self._now()
        if known is not None and not known.is_due(now, self._refresh):
            return known.plan
        try:
            plan = self._make(spec)
        except TransferError as error:
            if known is None or _is_refusal(error):
                raise
            _LOG.warning("using what was resolved before: %s", error.sentence())
            plan = known.plan
        with self._lock:
            self._found[spec.unscaled_identity] = Resolution(plan, now)
            if len(self._found) > _MOST:
                del self._found[next(iter(self._found))]
        return plan

    def forget(self, spec: PipelineSpec) -> None:
        """Have `spec` resolved at the next call."""
        with self._lock:
            self._found.pop(spec.unscaled_identity, None)

    def _known(self, spec: PipelineSpec) -> Resolution | None:
        with self._lock:
            return self._found.get(spec.unscaled_identity)


def _is_refusal(error: TransferError) -> bool:
    """Whether a service says that the model is gone, or that the caller must not have it."""
    if isinstance(error, HttpStatusError):
        return error.status < _SERVER_ERRORS
    return isinstance(error, (NotAllowedError, ServiceError))
