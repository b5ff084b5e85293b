"""How one URL is reached: redirects, credentials, cookies, signatures.

Following redirects for each range would double every request. So they are followed once, and ranges
are requested from the target directly:

    link --302--> hop --302--> target          link: what the user named; target: asked for ranges
     ^                            |
     +------- `start_again` ------+            when the target's signature has expired

Several requests are under way at a time, so the same redirect, or the same expiry, may be reported
more than once. Each method that moves `target` is told which URL the answer came from, and ignores
answers of a target that is no longer in use.

What a request carries, by where it goes:

    user's headers and login     to the origin of `link` (`core/http/urls.may_see_credentials`)
    login in a redirect's URL    to that URL only
    ~/.netrc                     to the host that it names
    cookies                      as their servers said (`core/http/cookies`)
    signatures                   each request is signed for the target, by its signer

After a step from https to http none of the first three is sent, even where it leads back: anyone on
the way could have written that redirect.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pgetpy.core.http.answers import Identity, Redirected
from pgetpy.core.http.heads import Head
from pgetpy.core.http.ranges import EVERYTHING, OPEN_END, Span, format_range
from pgetpy.core.http.retry import EXPIRED_STATUSES
from pgetpy.core.http.urls import MOST_REDIRECTS, Link, follow, headers_for, may_see_credentials
from pgetpy.engine.context import EngineContext
from pgetpy.engine.hosts import Host, Hosts
from pgetpy.engine.transports.base import (
    USER_AGENT,
    Exchange,
    Request,
    UnsupportedResponseError,
)
from pgetpy.engine.watchdog import TransferCounts
from pgetpy.errors import HttpStatusError, NotAllowedError, ObjectChangedError, TransferError
from pgetpy.settings import Settings
from pgetpy.system.logs import RoomLog

if TYPE_CHECKING:
    from pgetpy.core.http.cookies import Cookies

T = TypeVar("T")
_LOG = RoomLog("engine")
_HEADERS = (("User-Agent", USER_AGENT), ("Accept", "*/*"), ("Accept-Encoding", "identity"))


class Route:
    """The way to one URL. Used by one attempt after another, on the loop.

    Attributes:
        link: what was named: the URL to go back to.
        target: where its redirects have led so far: the URL to send requests to.
        whole_first: whether a request for everything has no Range; see `RequestSigner.whole_first`.
        source: what the result calls it, `origin` or the host of a mirror.
        retries: failures in a row after which it is given up.
        is_cache: whether this is a cache on the way to the next route. What it says about the
            object is not final.
        impatient: whether to give it up once it is silent and answers no probe, because a mirror
            can take over.
        given_up: whether that has happened.
    """

    def __init__(self, link: Link, hosts: Hosts, settings: Settings) -> None:
        self.link = link
        self.target = link
        self.whole_first = False
        self.source = "origin"
        self.retries = settings.retries
        self.is_cache = False
        self.impatient = self.given_up = False
        self._hosts = hosts
        self._settings = settings
        self._hops = 0
        # None until a server on the way has set one.
        self._cookies: Cookies | None = None
        # After a step from https to http no credentials are sent.
        self._downgraded = False

    def delivered(self) -> None:
        """Is told that the object came this way."""

    def failed(self, error: TransferError) -> None:
        """Is told that the object did not come this way."""

    async def host(self) -> Host:
        """Return the host of the target.

        Raises:
            NotAllowedError: a policy forbids requests to it.
            ConnectionFailedError: its name cannot be resolved.
            PgetError: the keys that sign its requests cannot be renewed.
        """
        signer = self.target.signer
        if signer is not None and signer.due(time.time()):
            await self._hosts.workers.submit(signer.refresh)
        try:
            return await self._hosts.get(self.target)
        except NotAllowedError as error:
            if self.target is self.link:
                raise
            # Name the user's URL, not the target: internal hosts of a service are not shown.
            raise NotAllowedError(
                self.link.url, error.rule, f"it redirects, and {error.reason}", hint=error.hint
            ) from None

    def request(self, host: Host, asked: Span | None, known: Identity | None) -> Request:
        """Return the request for a range of the target.

        Args:
            host: of the target, see `host`.
            asked: the range; None for everything.
            known: the version to tie a range to, if its validator is strong.
        """
        usual = known is None and asked == EVERYTHING and self._is_usual()
        headers = host.usual_headers if usual else None
        if headers is None:
            headers = self._headers(asked, known)
            if usual:
                host.usual_headers = headers
        secure = "https" in (self.target.origin.scheme, urlsplit(host.proxy or "").scheme)
        return Request(
            url=self.target.url,
            headers=headers,
            addresses=host.addresses,
            proxy=host.proxy,
            tls=self._hosts.tls() if secure else None,
            connect_timeout=self._settings.connect_timeout,
            trusted=self.target.trusted,
        )

    def _is_usual(self) -> bool:
        """Whether requests for everything have the same headers as those of most other files."""
        link = self.target
        return (
            link is self.link
            and link.signer is None
            and link.authorization is None
            and self._cookies is None
            and not self.whole_first
        )

    def _headers(self, asked: Span | None, known: Identity | None) -> tuple[tuple[str, str], ...]:
        """Return the headers of a request, all but Host; see `request`."""
        headers = self._own_headers()
        names = {name.lower() for name, _ in headers}
        headers[:0] = [each for each in _HEADERS if each[0].lower() not in names]
        if self._cookies is not None:
            headers = _with_cookies(headers, self._cookies, self.target)
        signer = self.target.signer
        if asked is not None and not (self.whole_first and asked == (0, OPEN_END)):
            headers.append(("Range", format_range(asked)))
            if known is not None and known.if_range is not None:
                # Object stores ignore If-Range, and honour If-Match.
                matches = signer is not None and known.strong
                headers.append(("If-Match" if matches else "If-Range", known.if_range))
        if signer is not None:
            # Last: Azure's signature covers the range.
            headers += signer.headers(self.target, headers, time.time())
        elif (authorization := self._authorization()) is not None:
            headers.append(("Authorization", authorization))
        return tuple(headers)

    def redirected(self, redirect: Redirected, asked_of: str) -> None:
        """Follow `redirect`, the answer of URL `asked_of`.

        Raises:
            TransferError: it leads nowhere or in a circle.
        """
        if asked_of != self.target.url:
            return  # followed already, for another answer
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
        """Whether the next request will be signed differently from `request`, which `head` refused.

        Called from any thread.
        """
        signer = self.target.signer
        if signer is None:
            return False
        if request.url != self.target.url:
            return True  # signed anew already, for another answer
        link = signer.sign_again(self.target, request.headers, head, time.time())
        if link is None:
            return False
        self.target = link
        return True

    def expired(self, error: TransferError, asked_of: str) -> bool:
        """Whether `error`, the answer of URL `asked_of`, may mean that its signature has expired.

        The original URL does not expire: its refusal is final.
        """
        return (
            isinstance(error, HttpStatusError)
            and error.status in EXPIRED_STATUSES
            and asked_of != self.link.url
        )

    def start_again(self) -> None:
        """Request the original URL next; it may lead elsewhere by now."""
        _LOG.debug("%s has expired: asking %s again", self.target.url, self.link.url)
        self.target = self.link
        self._hops = 0
        self._downgraded = False
        self._cookies = None

    def _learn_cookies(self, link: Link, fields: str) -> None:
        """Keep the cookies in `fields`, Set-Cookie headers of an answer of `link`, one a line."""
        if not fields:
            return
        if self._cookies is None:
            from pgetpy.core.http.cookies import Cookies

            self._cookies = Cookies()
        self._cookies.learn(link, fields.split("\n"), time.time())

    def _own_headers(self) -> list[tuple[str, str]]:
        """Return those of the user's headers that the target may see."""
        asked = self.target.origin
        headers = headers_for(asked, self.link.origin, self._settings.headers)
        return headers if not self._downgraded else []

    def _authorization(self) -> str | None:
        """Return the Authorization value for the target: its URL's, the user's, or ~/.netrc's."""
        asked = self.target.origin
        if self._downgraded:
            return None
        if self.target.authorization is not None:
            return self.target.authorization
        if may_see_credentials(self.link.origin, asked):
            given = self.link.authorization or self._settings.origin_authorization
            if given is not None:
                return given
        return self._hosts.login(asked) if self._settings.use_netrc else None


def _with_cookies(
    headers: list[tuple[str, str]], cookies: Cookies, link: Link
) -> list[tuple[str, str]]:
    """Return `headers` with the cookies for `link` merged into the caller's Cookie header."""
    given = next((value for name, value in headers if name.lower() == "cookie"), "")
    kept = [each for each in headers if each[0].lower() != "cookie"]
    value = cookies.header(link, given)
    return [*kept, ("Cookie", value)] if value else headers


async def try_in_turn(routes: Sequence[Route], fetch: Callable[[Route], Awaitable[T]]) -> T:
    """Return what `fetch` gives for the first of `routes` that does not fail.

    Raises:
        TransferError: of the first route that is not a cache.
    """
    failure: TransferError | None = None
    for route in _in_turn(routes) if len(routes) > 1 else routes:
        try:
            found = await fetch(route)
        except NotAllowedError:
            raise  # a mirror cannot help
        except TransferError as error:
            if route.is_cache:
                route.failed(error)
                continue
            if isinstance(error, ObjectChangedError):
                raise
            failure = failure or error
        else:
            route.delivered()
            return found
    assert failure is not None
    raise failure


def _in_turn(routes: Sequence[Route]) -> Iterator[Route]:
    """Yield the ways to an object in the order to try them: each, and those that were given up for
    their silence once more, with patience, in case nothing else works either."""
    for route in routes:
        route.impatient = route is not routes[-1]
        yield route
    for route in routes:
        if route.given_up and not route.is_cache:
            route.impatient = False
            yield route


async def carry(
    context: EngineContext, host: Host, exchange: Exchange, counts: TransferCounts
) -> None:
    """Have the transport that suits `host` carry `exchange`; its requests go into `counts`."""
    counts.requests += 1
    if host.local:
        await context.local.carry(exchange)
        return
    try:
        await context.direct.carry(exchange)
    except UnsupportedResponseError as error:
        _LOG.debug("%s sent %s: aiohttp asks again", host.origin.host, error)
        counts.requests += 1  # the same exchange again: nothing of it was kept
        await context.full.carry(exchange)
