"""What is known of each host while transfers run: where it is, how fast, when to ask next.

All transfers of an engine share this, so that the second file of a host begins with what the first
has shown: the addresses, the rate of a connection, the time to a first byte, how many connections
pay. That is kept per origin and per trust: a host that the operator named is not judged by the
policy, and what is resolved for it must not be used for a stranger's URL to the same name.

A name is resolved once, before the policy sees it, and connections go to the addresses that were
judged. A second look-up could give others (DNS rebinding).

The first bytes of a host say most, and are treated apart (`first_bytes`): until one connection has
shown its rate, the size of ranges is a guess and the pace knows nothing. After that the rate
follows the median of the connections slowly (`observe`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgetpy.core.http.pace import ConcurrencyController
from pgetpy.core.http.range_request import Latency, RangeRequest, median
from pgetpy.core.http.urls import Link, Origin, basic_authorization, parse_link
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.engine.transports.base import Address
from pgetpy.errors import BadReferenceError, BadSettingError, ConnectionFailedError
from pgetpy.errors.reasons import system_reason
from pgetpy.settings import Settings
from pgetpy.system.cpu_load import machine_load
from pgetpy.system.logs import RoomLog
from pgetpy.system.threads import Workers

if TYPE_CHECKING:
    import netrc

    from pgetpy.core.references.policy import Policy

# A connection of the direct transport takes a socket and the two ends of a pipe.
_DESCRIPTORS_PER_CONNECTION = 3
_DESCRIPTORS_FOR_FILES = 64
# From so many bytes, or seconds, on the rate of a body means something.
_TELLING = 512 * 1024
_TELLING_SECONDS = 0.02
# What the head of an answer counts for, in bytes.
_HEAD = 1000
# Guards a division: a body may come with its head.
_SHORTEST = 0.001
_LOG = RoomLog("engine")
# Addresses for documentation (RFC 5737, RFC 3849), which no host has.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@dataclass
class Host:
    """One origin.

    Attributes:
        addresses: of the host, or of its proxy; in the resolver's order.
        proxy: URL of the proxy to go through; None for none.
        pace: how many connections pay.
        busy: connections with a request under way, over all transfers.
        delivering: those of them whose bytes flow.
        quiet: how many of the delivering ones delivered no byte between the last two looks.
        moved: bytes received, in answers that have ended and in those under way.
        ended: how many answers have ended.
        rate: what one connection delivers, bytes a second; 0 for unknown.
        latency: how long its answers take to begin.
        not_before: when requests may be made again, after a Retry-After (loop time).
        no_ranges: whether an object could be fetched by a plain GET only; the next one is asked
            for that way from the start.
        usual_headers: of a request for everything that needs no cookie, signature or login of its
            own; None before the first.
        crowded_at: when a transfer last found no room for its first request (loop time).
    """

    origin: Origin
    addresses: tuple[Address, ...]
    proxy: str | None = field(repr=False)
    pace: ConcurrencyController
    busy: int = 0
    delivering: int = 0
    quiet: int = 0
    moved: int = 0
    ended: int = 0
    rate: float = 0.0
    latency: Latency = field(default_factory=Latency)
    not_before: float = 0.0
    no_ranges: bool = False
    usual_headers: tuple[tuple[str, str], ...] | None = field(default=None, repr=False)
    crowded_at: float = -1.0
    # The level that the log has last told of.
    _told: int = field(default=0, repr=False)

    @property
    def local(self) -> bool:
        """Whether this is the stand-in for file and data URLs, which need no connection."""
        return not self.origin.host

    def observe(self, now: float, rates: Sequence[float] = (), lull: float = 0.0) -> bool:
        """Update the pace and the rate. Called by each attempt at each of its ticks.

        Args:
            now: loop time.
            rates: bytes a second of the connections that have delivered for a while.
            lull: seconds between two bursts of one of them, typically.

        Returns:
            Whether there may be more connections now. They are opened at once, not a tick later.
        """
        # A host that only redirects moves nothing: its answers themselves tell what pays.
        moved = self.moved + self.ended * _HEAD
        latency = self.latency.typical
        self.pace.observe(
            now, moved, self.ended, self.busy, self.delivering, latency, self.quiet, lull
        )
        before = self._told
        if self.pace.level != before:
            self._tell_level()
        if rates and self.rate:
            # Never 0, which means unknown.
            self.rate = max(1.0, self.rate + (median(rates) - self.rate) * 0.3)
        return self.pace.level > before > 0

    def _tell_level(self) -> None:
        """Log a decision of the pace, with what it was based on."""
        self._told = self.pace.level
        _LOG.debug(
            "%s: up to %d connections, %.1f MB/s each, first byte after %.0f ms",
            self.origin.host,
            self.pace.level,
            self.rate / 1e6,
            self.latency.typical * 1e3,
        )

    def took_small(self, size: int, latency: float, seconds: float) -> None:
        """Learn from an answer of `size` bytes that came as a whole.

        Args:
            latency: seconds to its head.
            seconds: to its end.
        """
        self.moved += size
        self.latency.add(latency)
        if not self.rate and self.pace.is_new:
            # A small answer is mostly waiting.
            self.pace.first_seen(size / max(seconds, _SHORTEST), self.latency.typical)

    def first_bytes(self, now: float, part: RangeRequest, *, ended: bool) -> None:
        """Learn from how `part` is doing what one connection delivers.

        The first part to deliver enough sets the rate and lets the pace take its first step, long
        before there is anything to average. Once the rate is known, only whole large answers
        adjust it here.
        """
        answered = part.meter.answered
        size = part.pos - part.start
        if answered is None or not size:
            return
        seconds = max(now - answered, _SHORTEST)
        if self.rate:
            if ended and size >= _TELLING:
                # What came in a moment may have been a burst.
                self.rate += (size / seconds - self.rate) * min(0.1, seconds)
            return
        if size >= _TELLING or (seconds >= _TELLING_SECONDS and not ended):
            self.rate = size / seconds
            self.pace.first_seen(self.rate, self.latency.typical)
        elif ended:
            # Of a small answer, most of the time is waiting: count from the request on. Not
            # stored as the rate, which would make later ranges far too small.
            self.pace.first_seen(size / max(now - part.meter.born, _SHORTEST), self.latency.typical)


class Hosts:
    """The hosts of one engine; each is looked up once.

    Args:
        settings: proxies, policy, --resolve, certificate authorities, ~/.netrc.
        workers: threads for name look-ups.

    Attributes:
        ceiling: the most connections to a host, by the settings and by the descriptors there are.
        start: how many connections to a new host to begin with.
    """

    def __init__(self, settings: Settings, workers: Workers) -> None:
        self._settings = settings
        self.workers = workers
        # By origin, and whether it is trusted; see above.
        self._hosts: dict[tuple[Origin, bool], Host] = {}
        self._tls: ssl.SSLContext | None = None
        self._netrc: netrc.netrc | None = None
        self.ceiling = min(settings.max_conn_per_host, descriptor_limit())
        self.start = 1

    async def get(self, link: Link) -> Host:
        """Return the host of `link`, resolved and judged.

        Raises:
            NotAllowedError: the policy forbids requests to it.
            ConnectionFailedError: its name cannot be resolved.
        """
        known = self._hosts.get((link.origin, link.trusted))
        if known is not None:
            return known
        if not link.origin.host:
            # A file or data URL: one reader is as fast as several.
            here = Host(link.origin, (), None, ConcurrencyController(1, 1))
            return self._hosts.setdefault((link.origin, link.trusted), here)
        policy = None if link.trusted else self._settings.policy
        if policy is not None:
            policy.check_origin(link.origin, link.url)
        proxy = self._proxy_for(link.origin)
        if policy is None or proxy is not None:
            # A proxy resolves the name itself: these are its own addresses.
            addresses = await self._addresses(link, proxy)
        else:
            addresses = await self._admit(link, policy)
        pace = ConcurrencyController(self.ceiling, min(self.start, self.ceiling), machine_load)
        host = Host(link.origin, addresses, proxy, pace, _told=pace.level)
        if _LOG.wants_debug():
            where = ", ".join(str(address.sockaddr[0]) for address in addresses)
            way = f"proxy {proxy}" if proxy is not None else "no proxy"
            _LOG.debug("%s is at %s (%s)", link.origin.host, where, way)
        return self._hosts.setdefault((link.origin, link.trusted), host)

    def known(self, link: Link) -> Host | None:
        """Return the host of `link` if `get` has returned it before."""
        return self._hosts.get((link.origin, link.trusted))

    def tls(self) -> ssl.SSLContext:
        """Return the context for https; made when first needed, for it reads many certificates.

        Raises:
            BadSettingError: the certificate authorities that were given cannot be used.
        """
        if self._tls is None:
            from pgetpy.engine.authorities import trusting

            self._tls = trusting(self._settings)
        return self._tls

    def login(self, origin: Origin) -> str | None:
        """Return the Authorization value that ~/.netrc has for `origin`, if the settings allow it.

        Raises:
            BadSettingError: the file cannot be read.
        """
        if not self._settings.use_netrc:
            return None
        import netrc

        if self._netrc is None:
            try:
                self._netrc = netrc.netrc(os.path.expanduser(self._settings.netrc_file))
            except (OSError, netrc.NetrcParseError) as error:
                reason = system_reason(error) if isinstance(error, OSError) else str(error)
                raise BadSettingError("--netrc", self._settings.netrc_file, reason) from None
        entry = self._netrc.authenticators(origin.host)
        return basic_authorization(entry[0], entry[2] or "") if entry is not None else None

    def _proxy_for(self, origin: Origin) -> str | None:
        """Return the URL of the proxy for `origin`; one given as `host:port` means http."""
        proxies = self._settings.proxies
        proxy = proxies.https if origin.scheme == "https" else proxies.http
        if not proxy:
            return None
        from pgetpy.core.http.proxies import bypasses_proxy

        if bypasses_proxy(origin, proxies.no_proxy):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    async def _addresses(self, link: Link, proxy: str | None) -> tuple[Address, ...]:
        """Return the addresses to connect to for `link`: the host's, or the proxy's."""
        origin = link.origin
        if proxy is not None:
            try:
                origin = parse_link(proxy).origin
            except BadReferenceError as error:
                raise BadSettingError("HTTP_PROXY", str(error.reference), error.reason) from None
        try:
            return await self._resolve(origin)
        except (OSError, UnicodeError) as error:
            raise _unresolved(link, origin, error) from None

    async def _admit(self, link: Link, policy: Policy) -> tuple[Address, ...]:
        """Return the addresses of `link` that `policy` admits; those of --resolve are judged too.

        Some hosts have internal addresses beside their public ones. Leaving these out is as safe
        as refusing the host, since connections go to the returned addresses only.

        Raises:
            NotAllowedError: none is left. A name that does not exist ends here as well: the error
                does not tell a stranger which internal names there are.
            ConnectionFailedError: the resolver cannot tell for the moment.
        """
        try:
            found = await self._resolve(link.origin)
        except (OSError, UnicodeError) as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                raise _unresolved(link, link.origin, error) from None
            found = ()
        admitted = tuple(each for each in found if policy.admits(str(each.sockaddr[0])))
        if not admitted:
            raise policy.no_address(link.url)
        return admitted

    async def _resolve(self, origin: Origin) -> tuple[Address, ...]:
        """Look up the addresses of `origin`, or of what --resolve puts in its place."""
        name = self._settings.resolve.get((origin.host, origin.port), origin.host)
        # Given a str, Python imports its codec for international names, even for an IP address.
        host = name.encode() if name.isascii() else name
        found = await self.workers.submit(
            lambda: socket.getaddrinfo(host, origin.port, type=socket.SOCK_STREAM)
        )
        return tuple(
            Address(family, (str(sockaddr[0]), *sockaddr[1:]))
            for family, _, _, _, sockaddr in found
        )


def _unresolved(link: Link, origin: Origin, error: Exception) -> ConnectionFailedError:
    """Return the error for a name, of the host or of its proxy, that cannot be resolved."""
    who = f"host {origin.host}" if origin.host == link.origin.host else f"the proxy {origin.host}"
    reason = system_reason(error) if isinstance(error, OSError) else str(error)
    hint = "check its name in the URL" if who[:4] == "host" else "check HTTP_PROXY and HTTPS_PROXY"
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        hint = "no name server answers; check /etc/resolv.conf, or try later"
    if not _has_network():
        reason = "this machine has no network"
        hint = "check its network, or that of the container"
    return ConnectionFailedError(link.url, f"{who} cannot be resolved: {reason}", hint=hint)


def _has_network() -> bool:
    """Whether this machine has a route to the internet. Connecting a UDP socket sends nothing.

    Only asked after a look-up failed: "name cannot be resolved" sends people to the URL, although
    it is the container that has no network.
    """
    for family, address in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 9))
            return True
    return False


def descriptor_limit() -> int:
    """Return how many connections this process has file descriptors for (`ulimit -n`).

    Running out of them would fail in some unrelated `open` of the caller's program.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 16
    return max(1, (soft - _DESCRIPTORS_FOR_FILES) // _DESCRIPTORS_PER_CONNECTION)
