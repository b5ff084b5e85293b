"""Settings: frozen dataclasses, and the only readers of the environment.

Which flag and which environment variable set which field is in the table of `settings.options`. The
environment is an argument, so that nothing here reaches for the process's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pgetpy.core.archives.member_policy import Limits
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.policy import Policy
from pgetpy.core.text.values import UNCHANGED, check_header, read_url
from pgetpy.settings.options import BY_VARIABLE, OPTION, Option, Texts

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_NOTHING: Mapping[str, str] = MappingProxyType({})
# From the most to the least that is printed.
_LOG_LEVELS = ("debug", "info", "warn", "error")

Warn = Callable[[str], None]
# An option that was set, its text, and the flag or variable that set it.
_Given = tuple[Option, Texts, str]
_S = TypeVar("_S", bound="_Section")


@dataclass(frozen=True)
class _Section:
    """A dataclass whose fields options set, and those of sections in its fields."""

    @classmethod
    def from_environment(
        cls: type[_S], environ: Mapping[str, str], *, warn: Warn = lambda _: None
    ) -> _S:
        """Read the environment; empty variables count as unset.

        `warn` gets a sentence for each variable that is deprecated or has no effect.

        Raises:
            BadSettingError: a value that cannot be used; `.name` is the variable's.
        """
        return cls()._read(_from_variables(environ, warn))

    def with_flags(self: _S, values: Mapping[str, Texts]) -> _S:
        """Return these settings changed by flags: the name of each to its text, or to a tuple of
        them if it may be repeated. Flags that set nothing here are passed over.

        Raises:
            BadSettingError: a value that cannot be used; `.name` is the flag's.
        """
        given = [(OPTION[name], values[name], f"--{name}") for name in OPTION if name in values]
        return self._read(given)

    def _read(self: _S, given: Sequence[_Given]) -> _S:
        if not given:
            return self
        names = {each.__name__ for each in type(self).__mro__}
        changes: dict[str, Any] = {}
        for option, text, name in given:
            if option.section in names:
                value = option.read(text, name)
                changes |= {} if value is UNCHANGED else {option.field: value}
        for each in fields(self):
            part = getattr(self, each.name)
            if isinstance(part, _Section):
                changes[each.name] = part._read(given)
        return self._changed(changes)

    def _changed(self: _S, changes: dict[str, Any]) -> _S:
        return replace(self, **changes)


@dataclass(frozen=True)
class CacheSettings(_Section):
    """Where the cache of weights is, and what it keeps to.

    Attributes:
        folder: where it is, or is to be.
        min_disk_free: bytes that stay free on its disk.
        max_bytes: bytes that it takes at most, None for any.
    """

    folder: Path = field(default_factory=lambda: Path("~/.cache/pgetpy").expanduser())
    min_disk_free: int = 10 << 30
    max_bytes: int | None = None


@dataclass(frozen=True)
class SourceSettings(_Section):
    """Where the services are, and what opens them.

    Attributes:
        hf_endpoint, civitai_endpoint, replicate_endpoint: URLs without a slash at their ends.
        hf_token, civitai_token: sent to these services alone.
        hf_offline: ask no Hub.
        hf_transfer: fetch files of the Hub whose sha256 is known by hf_transfer.
        max_data_size: bytes that a data: URI may bear.
    """

    hf_endpoint: str = "https://huggingface.co"
    hf_token: str | None = field(default=None, repr=False)
    hf_offline: bool = False
    hf_transfer: bool = False
    civitai_endpoint: str = "https://civitai.com"
    civitai_token: str | None = field(default=None, repr=False)
    replicate_endpoint: str = "https://replicate.com"
    max_data_size: int = 64 << 20


@dataclass(frozen=True)
class Proxies:
    """Proxy URLs (with user and password where given) and the hosts that need none."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings(_Section):
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
        netrc_file: where those are.
        resolve: (host, port) to the IP address to connect to.
        headers: sent to the hosts of the URLs given, never to another after a redirect.
        authorization: value of the Authorization header for the same hosts.
        proxies: see `Proxies`.
        limits: on what comes out of an archive.
        sources: see `SourceSettings`.
        metrics_endpoint: URL that gets a POST per file, as pget's PGET_METRICS_ENDPOINT.
        policy: what may be fetched where strangers give the references; None for everything.
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
    netrc_file: str = "~/.netrc"
    resolve: Mapping[tuple[str, int], str] = field(default_factory=lambda: MappingProxyType({}))
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING, repr=False)
    authorization: str | None = field(default=None, repr=False)
    proxies: Proxies = field(default_factory=Proxies)
    limits: Limits = field(default_factory=Limits)
    sources: SourceSettings = field(default_factory=SourceSettings)
    metrics_endpoint: str | None = field(default=None, repr=False)
    policy: Policy | None = None

    @property
    def largest(self) -> tuple[int, str] | None:
        """How large an object may be, and what says so."""
        rules = [] if self.max_size is None else [(self.max_size, "--max-size")]
        if self.policy is not None and self.policy.max_bytes is not None:
            rules.append((self.policy.max_bytes, "max_bytes"))
        return min(rules, default=None)

    def under_policy(self) -> Settings:
        """Return these settings without what their policy takes away.

        A stranger chooses the URL that headers and Authorization would be sent to, and would be
        given what a login of the operator's opens. hf_transfer looks names up by itself.
        """
        policy = self.policy
        if policy is None:
            return self
        sources = replace(self.sources, hf_transfer=False)
        if not policy.own_tokens:
            sources = replace(sources, hf_token=None, civitai_token=None)
        limits = self.limits
        if policy.max_bytes is not None:
            most = policy.max_bytes if limits.total_bytes is None else limits.total_bytes
            limits = replace(limits, total_bytes=min(most, policy.max_bytes))
        return replace(
            self,
            headers=_NOTHING,
            authorization=None,
            use_netrc=False,
            proxies=self.proxies if policy.trust_proxy else Proxies(),
            sources=sources,
            limits=limits,
        )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], *, warn: Warn = lambda _: None
    ) -> Settings:
        _warn_of_cache_nodes(environ, warn)
        settings = super().from_environment(environ, warn=warn)
        return replace(settings, proxies=_proxies(environ))

    def with_headers(self, headers: Sequence[tuple[str, str]], name: str) -> Settings:
        """Return these settings with `headers` put in place of their namesakes.

        `name` says what gave them.
        """
        return self._changed({"headers": [check_header(*header, name) for header in headers]})

    def _changed(self, changes: dict[str, Any]) -> Settings:
        settings = replace(self, **{**changes, "headers": self.headers})
        merged = dict(self.headers)
        authorization = settings.authorization
        for key, value in changes.get("headers", ()):
            # Authorization has its own field, the one place where it is looked for.
            if key.lower() == "authorization":
                authorization = value
                continue
            merged = {known: kept for known, kept in merged.items() if known.lower() != key.lower()}
            merged[key] = value
        return replace(settings, headers=MappingProxyType(merged), authorization=authorization)


@dataclass(frozen=True)
class Console(_Section):
    """How the command line behaves, apart from the transfer itself.

    Attributes:
        log_level: debug, info, warn or error.
        output: file, null or tar-extractor.
        progress: auto, bar, plain, json or none.
        force_http2: an option of pget that has no effect.
    """

    log_level: str = "info"
    output: str = "file"
    progress: str = "auto"
    force_http2: bool = False

    @property
    def to_null(self) -> bool:
        return self.output == "null"

    @property
    def extracts(self) -> bool:
        return self.output == "tar-extractor"

    def shows(self, level: str) -> bool:
        """Whether a line of `level` is to be printed."""
        return _LOG_LEVELS.index(level) >= _LOG_LEVELS.index(self.log_level)


@dataclass(frozen=True)
class CommandOptions(_Section):
    """What a single run of a command is asked to do. No environment variable sets any of it.

    Attributes:
        mirror: more URLs of the file.
        checksum: what the file must hash to.
        digest: sha256 of a file in the cache.
        fail_fast: stop at the first file of a manifest that fails.
        json: print results for programs.
        hub_cache_dir: the folder of huggingface_hub's cache.
        wanted: what to keep of an archive or repository.
        include, exclude: patterns that choose files of a repository.
        refresh: ask the server whether a cached file is current.
        any_file: accept files that are not weights.
        older_than: an age, as `core.text.units.parse_age` takes it.
    """

    mirror: tuple[str, ...] = field(default=(), repr=False)
    checksum: Checksum | None = None
    digest: str | None = None
    fail_fast: bool = False
    json: bool = False
    hub_cache_dir: Path | None = None
    wanted: str = "auto"
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    refresh: bool = False
    any_file: bool = False
    older_than: str | None = None


def hub_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return where the Hub's own cache is: PGET_HUB_CACHE_DIR, else as huggingface_hub has it."""
    for name in ("PGET_HUB_CACHE_DIR", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return _expanded(environ[name], environ)
    if environ.get("HF_HOME"):
        return _expanded(environ["HF_HOME"], environ) / "hub"
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(base, environ) / "huggingface" / "hub"


def _expanded(path: str, environ: Mapping[str, str]) -> Path:
    """Return `path` with its ~ and variables written out; those that are not set stay."""
    home = os.path.expanduser(path)
    return Path(_VARIABLE.sub(lambda found: environ.get(found[1] or found[2], found[0]), home))


def _warn_of_cache_nodes(environ: Mapping[str, str], warn: Warn) -> None:
    names = ["PGET_CACHE_NODES_SRV_NAME", "PGET_CACHE_SERVICE_HOSTNAME"]
    if environ.get("PGET_HOST_IP"):
        names.append("PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR")
    found = [name for name in names if environ.get(name)]
    if found:
        warn(
            f"{found[0]} is not used: cache nodes are not supported yet, bytes come from the origin"
        )


def _proxies(environ: Mapping[str, str]) -> Proxies:
    # A CGI server hands a client's "Proxy:" header on as HTTP_PROXY (httpoxy).
    http_names = ["http_proxy"] if environ.get("REQUEST_METHOD") else ["http_proxy", "HTTP_PROXY"]
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return Proxies(
        http=_proxy(environ, *http_names, "all_proxy", "ALL_PROXY"),
        https=_proxy(environ, "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
        no_proxy=tuple(no_proxy.replace(",", " ").split()),
    )


def _proxy(environ: Mapping[str, str], *names: str) -> str | None:
    name = next((name for name in names if environ.get(name)), None)
    if name is None:
        return None
    return read_url(environ[name] if "://" in environ[name] else f"http://{environ[name]}", name)


def _from_variables(environ: Mapping[str, str], warn: Warn) -> list[_Given]:
    """Return the options that variables set; empty variables count as unset.

    `warn` gets a sentence for each deprecated variable.
    """
    return [
        (option, environ[name], name)
        for name, option in BY_VARIABLE.items()
        if environ.get(name) and (not option.deprecated or _counts(option, environ, warn))
    ]


def _counts(option: Option, environ: Mapping[str, str], warn: Warn) -> bool:
    """Whether a deprecated variable counts: it does unless the new one is set."""
    old, new = option.variable, OPTION[option.deprecated].variable
    if not environ.get(new):
        warn(f"Using {old} is deprecated, use {new} instead")
        return True
    if environ[old] != environ[new]:
        warn(f"Both {old} and {new} are set, using {new}")
    return False
