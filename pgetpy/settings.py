"""Settings: one frozen object, and the only reader of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Proxies:
    """Proxy URLs (with user and password where given) and the hosts that need none."""

    http: str | None = None
    https: str | None = None
    no_proxy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How transfers are made. Sizes are bytes, times float seconds.

    Attributes:
        concurrency: the most ranges in flight for one file; None leaves it to measurement.
        chunk_size: the largest range asked for.
        connect_timeout: for a connection with its TLS handshake.
        stall_timeout: a connection that delivers nothing for so long is given up.
        retries: consecutive failures without progress before a transfer is given up.
        max_conn_per_host: the most connections to one host over all transfers.
        max_concurrent_files: files of a manifest in flight.
        force: overwrite what stands at a destination.
        resume: go on from what an earlier run left.
        fsync: return only when the file is on stable storage.
        limit_rate: bytes a second over all transfers of a call.
        max_size: refuse objects larger than this.
        min_free: bytes that must stay free on the destination's file system.
        cacert: PEM file of certificate authorities to trust instead of the system's.
        use_netrc: take credentials from ~/.netrc (or $NETRC) for hosts it names.
        resolve: (host, port) to the IP address to connect to.
        headers: sent to the hosts of the URLs given, never to another after a redirect.
        authorization: value of the Authorization header for the same hosts.
        proxies: see `Proxies`.
        metrics_endpoint: URL that gets a POST per file, as pget's PGET_METRICS_ENDPOINT.
    """

    concurrency: int | None = None
    chunk_size: int = 125_000_000
    connect_timeout: float = 5.0
    stall_timeout: float = 15.0
    retries: int = 5
    max_conn_per_host: int = 64
    max_concurrent_files: int = 20
    force: bool = False
    resume: bool = True
    fsync: bool = False
    limit_rate: int | None = None
    max_size: int | None = None
    min_free: int = 0
    cacert: str | None = None
    use_netrc: bool = False
    resolve: Mapping[tuple[str, int], str] = field(default_factory=lambda: MappingProxyType({}))
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    authorization: str | None = None
    proxies: Proxies = field(default_factory=Proxies)
    metrics_endpoint: str | None = None
