"""How one transfer uses cache nodes: whether it does, and what it has learned about them."""

from __future__ import annotations

from pgetpy.core.fleet.piece_plan import PiecePlan
from pgetpy.core.http.answers import Identity
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.node_access import NodeAccess
from pgetpy.engine.node_attempt import NodeAttempt
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("fleet")


class NodeUse:
    """One transfer's use of the nodes, over all of its attempts.

    Args:
        access: the nodes.
        url: as the user wrote it.
    """

    def __init__(self, access: NodeAccess, url: str) -> None:
        self._access = access
        self._url = url
        # The version that the origin has named, after nodes had disagreed.
        self._decided: Identity | None = None
        self._delivered: set[str] = set()
        self._left = False

    def attempt_like(self, attempt: Attempt, *, in_order: bool) -> Attempt:
        """Return an attempt through the nodes in place of `attempt`, which has not begun; itself if
        they may not be used.

        Args:
            attempt: at what is not held.
            in_order: whether the object is read from its beginning while it arrives.
        """
        route = attempt.route
        # Nodes from a look-up are placed by the URL as the user wrote it, as pget does.
        named = route.source == "origin" and route.target is route.link
        url = self._url if named and self._url.startswith("http") else route.target.url
        if self._left or not self._access.takes(url, route.target):
            return attempt
        return NodeAttempt(
            attempt.context,
            route,
            PiecePlan.of(attempt.plan, self._access.nodes.piece_size),
            attempt.callbacks,
            attempt.counts,
            access=self._access,
            url=url,
            decided=self._decided,
            in_order=in_order,
        )

    def learn(self, attempt: Attempt) -> None:
        """Keep what `attempt`, which has ended, has found out."""
        if isinstance(attempt, NodeAttempt):
            self._decided = attempt.decided
            self._delivered |= attempt.delivered

    def leave(self) -> bool:
        """Use no nodes from now on, as their bytes may be wrong; whether any have been used."""
        if self._left or not self._delivered:
            return False
        self._left = True
        _LOG.warning("%s came wrong from %s", self._url, ", ".join(sorted(self._delivered)))
        return True
