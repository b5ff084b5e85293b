"""A cache service in place of an origin (PGET_CACHE_SERVICE_HOSTNAME), as transfers use it.

A transfer asks the service first, and the origin for what the service does not deliver: bytes that
have come are kept. A service that cannot be reached is left out for a while by the whole process,
or each of a thousand files would wait for the same time-out.

What needs credentials is not asked of it: what a cache holds it serves to everyone.
"""

from __future__ import annotations

import time
from dataclasses import replace

from pgetpy.core.fleet.health import NodeHealth
from pgetpy.core.http.answers import Identity
from pgetpy.core.http.ranges import Span
from pgetpy.core.http.urls import Link, parse_link
from pgetpy.engine.credentials import needs_credentials
from pgetpy.engine.hosts import Host, Hosts
from pgetpy.engine.requests import Route
from pgetpy.engine.transports.base import Request
from pgetpy.errors import ConnectionFailedError, HttpStatusError, StalledError, TransferError
from pgetpy.settings import Settings
from pgetpy.system.logs import RoomLog

# Failures in a row after which a transfer goes to the origin: that is another way, so it need not
# wait as long as for an origin.
_RETRIES = 1
_LOG = RoomLog("fleet")


# What this process knows of services, by their URLs.
_HEALTH = NodeHealth()


class ServiceRoute(Route):
    """The way to an object through the service.

    Args:
        link: the object's URL at the service.
        behind: the object's own, which a policy judges.
        base: the service's URL.
        hosts: see `Route`.
        settings: see `Route`.
    """

    def __init__(
        self, link: Link, behind: Link, base: str, hosts: Hosts, settings: Settings
    ) -> None:
        super().__init__(link, hosts, settings)
        self.source = link.origin.host
        self.retries = min(settings.retries, _RETRIES)
        self.is_cache = True
        self._behind = behind
        self._base = base
        self._began = time.monotonic()

    async def host(self) -> Host:
        """See `Route.host`; the origin behind the service must be allowed, too."""
        if self._settings.policy is not None:
            await self._hosts.get(self._behind)
        return await super().host()

    def request(self, host: Host, asked: Span | None, known: Identity | None) -> Request:
        """See `Route.request`. It has no If-Range, for which nginx would fetch the first slice; the
        answers are compared with each other in any case."""
        return super().request(host, asked, None)

    def delivered(self) -> None:
        """See `Route.delivered`."""
        _HEALTH.answered(self._base)

    def failed(self, error: TransferError) -> None:
        """See `Route.failed`."""
        broken = isinstance(error, (ConnectionFailedError, StalledError)) or (
            isinstance(error, HttpStatusError) and error.status >= 500
        )
        if not broken:
            _LOG.debug("the cache service did not deliver %s: %s", self.link, error)
            _HEALTH.answered(self._base)
        elif _HEALTH.lost(self._base, time.monotonic(), self._began):
            _LOG.warning("cache service %s is not asked for now: %s", self._base, error)


def service_routes(settings: Settings, hosts: Hosts, url: str, link: Link) -> list[Route]:
    """Return the way to an object through the cache service; none if it does not go that way.

    Args:
        settings: the service, headers, and the service's own Authorization value.
        hosts: logins of ~/.netrc.
        url: of the object, as the user wrote it.
        link: the same, parsed.

    Raises:
        BadSettingError: it goes that way, but the service has no http or https URL.
    """
    service = settings.fleet.service if settings.fleet is not None else None
    if service is None or not link.origin.host:
        return []
    # A reference such as hf://OWNER/NAME is by now located at a URL of its service.
    written = url if url.lower().startswith("http") else link.url
    asked = service.url_for(written)
    if not asked or not service.keeps(written):
        return []
    if needs_credentials(link, settings, hosts):
        _LOG.debug("%s needs credentials, and does not go through the cache service", link)
        return []
    if not _HEALTH.admits(service.base, time.monotonic()):
        return []
    through = parse_link(asked)
    through = replace(through, authorization=settings.proxy_authorization, trusted=True)
    return [ServiceRoute(through, link, service.base, hosts, settings)]
