"""How one URL is reached.

Redirects are followed once, credentials and the cookies of the chain sent where they belong, and
signed targets resolved again when their time is over.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgetpy.core.http.answers import Identity, Redirected
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import Span, format_range
from pgetpy.core.http.retry import EXPIRED_STATUSES
from pgetpy.core.http.urls import MOST_REDIRECTS, Link, follow, headers_for, may_see_credentials
from pgetpy.engine.hosts import Host, Hosts
from pgetpy.engine.transports.base import USER_AGENT, Request
from pgetpy.errors import HttpStatusError, NotAllowedError, TransferError
from pgetpy.settings import Settings
from pgetpy.system.logs import RoomLog

if TYPE_CHECKING:
    from pgetpy.core.http.cookies import Cookies

_LOG = RoomLog("engine")
_HEADERS = (("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Accept-Encoding", "identity"))


class Route:
    """The way to `link`: `target` is where its redirects led."""

    def __init__(self, link: Link, hosts: Hosts, settings: Settings) -> None:
        self.link = link
        self.target = link
        self._hosts = hosts
        self._settings = settings
        self._hops = 0
        # None until a server on the way has set one.
        self._cookies: Cookies | None = None
        # Once a step has led from https to http, no credential goes on.
        self._downgraded = False

    async def host(self) -> Host:
        """Return the host of the target.

        Raises:
            NotAllowedError: a policy forbids to ask it.
            ConnectionFailedError: its name cannot be resolved.
            PgetError: there are no keys to sign its requests with any more.
        """
        signer = self.target.signer
        if signer is not None and signer.due(time.time()):
            await self._hosts.workers.submit(signer.refresh)
        try:
            return await self._hosts.get(self.target)
        except NotAllowedError as error:
            if self.target is self.link:
                raise
            # The service that led there may be the operator's, and its hosts nobody's business.
            raise NotAllowedError(
                self.link.url, error.rule, f"it redirects, and {error.reason}", hint=error.hint
            ) from None

    def request(self, host: Host, asked: Span | None, known: Identity | None) -> Request:
        """Return the request for `asked` (None: all), tied to version `known` where it can be."""
        own = self._own_headers()
        names = {name.lower() for name, _ in own}
        headers = [each for each in _HEADERS if each[0].lower() not in names] + own
        if self._cookies is not None:
            headers = _with_cookies(headers, self._cookies, self.target)
        if self.target.signer is not None:
            headers += self.target.signer.headers(self.target, time.time())
        elif (authorization := self._authorization()) is not None:
            headers.append(("Authorization", authorization))
        if asked is not None:
            headers.append(("Range", format_range(asked)))
            if known is not None and known.if_range is not None:
                # Object stores ignore If-Range, and honour If-Match.
                signed = self.target.signer is not None and known.strong
                headers.append(("If-Match" if signed else "If-Range", known.if_range))
        return Request(
            url=self.target.url,
            headers=tuple(headers),
            addresses=host.addresses,
            proxy=host.proxy,
            tls=self._hosts.tls() if self.target.origin.scheme == "https" else None,
            connect_timeout=self._settings.connect_timeout,
            trusted=self.target.trusted,
        )

    def redirected(self, redirect: Redirected, asked_of: str) -> None:
        """Go where `redirect`, the answer of URL `asked_of`, leads.

        Raises:
            TransferError: it leads nowhere or in a circle.
        """
        if asked_of != self.target.url:
            return  # another answer has led on already
        self._hops += 1
        if self._hops > MOST_REDIRECTS:
            raise TransferError(self.link.url, f"more than {MOST_REDIRECTS} redirects")
        before = self.target
        self._learn_cookies(before, redirect.head.headers.get("set-cookie", ""))
        self.target = follow(before, redirect.location)
        _LOG.debug("redirect %d: %s leads to %s", self._hops, before.url, self.target.url)
        if before.signer is not None:
            self.target = before.signer.onward(before, self.target)
        if before.origin.scheme == "https" and self.target.origin.scheme == "http":
            self._downgraded = True
            _LOG.debug("%s is not TLS: credentials stay behind", self.target.url)

    def sign_again(self, request: Request, head: Head) -> bool:
        """Whether the next request will be signed in another way than `request`, which `head`
        refused, so that it may succeed. Called from any thread."""
        signer = self.target.signer
        if signer is None:
            return False
        if request.url != self.target.url:
            return True  # another answer has led on already
        link = signer.sign_again(self.target, request.headers, head, time.time())
        if link is None:
            return False
        self.target = link
        return True

    def expired(self, error: TransferError, asked_of: str) -> bool:
        """Whether `error`, the answer of URL `asked_of`, may mean that its time is over."""
        return (
            isinstance(error, HttpStatusError)
            and error.status in EXPIRED_STATUSES
            and asked_of != self.link.url
        )

    def start_again(self) -> None:
        """Ask the original URL next, which may lead elsewhere by now."""
        _LOG.debug("%s has expired: asking %s again", self.target.url, self.link.url)
        self.target = self.link
        self._hops = 0
        self._downgraded = False
        self._cookies = None

    def _learn_cookies(self, link: Link, fields: str) -> None:
        """Take note of what an answer of `link` has set, a field a line."""
        if not fields:
            return
        if self._cookies is None:
            from pgetpy.core.http.cookies import Cookies

            self._cookies = Cookies()
        self._cookies.learn(link, fields.split("\n"), time.time())

    def _own_headers(self) -> list[tuple[str, str]]:
        asked = self.target.origin
        headers = headers_for(asked, self.link.origin, self._settings.headers)
        return headers if not self._downgraded else []

    def _authorization(self) -> str | None:
        asked = self.target.origin
        if self._downgraded:
            return None
        if self.target.authorization is not None:
            return self.target.authorization
        if may_see_credentials(self.link.origin, asked):
            given = self.link.authorization or self._settings.authorization
            if given is not None:
                return given
        return self._hosts.login(asked)


def _with_cookies(
    headers: list[tuple[str, str]], cookies: Cookies, link: Link
) -> list[tuple[str, str]]:
    """Return `headers` with what of `cookies` goes to `link` beside the caller's own."""
    given = next((value for name, value in headers if name.lower() == "cookie"), "")
    kept = [each for each in headers if each[0].lower() != "cookie"]
    value = cookies.header(link, given)
    return [*kept, ("Cookie", value)] if value else headers
