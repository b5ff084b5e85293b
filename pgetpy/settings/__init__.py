"""Settings: frozen dataclasses, and the only readers of the environment.

Which flag and which environment variable set which field is in the table of `settings.options`. The
environment is an argument, so that nothing here reaches for the process's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from pgetpy.core.archives.member_policy import Limits
from pgetpy.core.references.policy import Policy
from pgetpy.core.text.values import UNCHANGED, check_header, read_url
from pgetpy.settings.folders import default_cache_folder
from pgetpy.settings.options import OPTIONS, Option, Texts, by_variable

_NOTHING: Mapping[str, str] = MappingProxyType({})
_FLAGS = frozenset(option.name for option in OPTIONS)
# From the most to the least that is printed.
_LOG_LEVELS = ("debug", "info", "warn", "error")

Warn = Callable[[str], None]
# An option that was set, its text, and the flag or variable that set it.
_Given = tuple[Option, Texts, str]
_S = TypeVar("_S", bound="Section")
_C = TypeVar("_C", bound="SourceSection")


@dataclass(frozen=True)
class Section:
    """A dataclass whose fields options set.

    Attributes:
        options: the rows that are looked through; those of other sections set nothing.
    """

    options: ClassVar[tuple[Option, ...]] = OPTIONS
    _by_variable: ClassVar[Mapping[str, Option]] = by_variable(OPTIONS)

    def __init_subclass__(cls) -> None:
        if "options" in cls.__dict__:
            cls._by_variable = by_variable(cls.options)

    @classmethod
    def from_environment(
        cls: type[_S], environ: Mapping[str, str], *, warn: Warn = lambda _: None
    ) -> _S:
        """Read the environment; empty variables count as unset.

        `warn` gets a sentence for each variable that is deprecated or has no effect.

        Raises:
            BadSettingError: a value that cannot be used; `.name` is the variable's.
        """
        given = [
            (option, environ[name], name)
            for name, option in cls._by_variable.items()
            if environ.get(name) and (not option.deprecated or _counts(option, environ, warn))
        ]
        return cls()._read(given) if given else cls()

    def with_flags(self: _S, values: Mapping[str, Texts]) -> _S:
        """Return these settings changed by flags: the name of each to its text, or to a tuple of
        them if it may be repeated. Flags that set nothing here are passed over.

        Raises:
            BadSettingError: a value that cannot be used; `.name` is the flag's.
        """
        if not values:
            return self
        given = [
            (option, values[option.name], f"--{option.name}")
            for option in self.options
            if option.name in values
        ]
        return self._read(given)

    def _read(self: _S, given: Sequence[_Given]) -> _S:
        changes: dict[str, Any] = {}
        for option, text, name in given:
            if option.section == type(self).__name__:
                value = option.read(text, name)
                changes |= {} if value is UNCHANGED else {option.field: value}
        return self._changed(changes) if changes else self

    def _changed(self: _S, changes: dict[str, Any]) -> _S:
        return replace(self, **changes)


@dataclass(frozen=True)
class CacheSettings(Section):
    """Where the cache of weights is, and what it keeps to.

    Attributes:
        folder: where it is, or is to be.
        min_disk_free: bytes that stay free on its disk.
        max_bytes: bytes that it takes at most, None for any.
    """

    folder: Path = field(default_factory=default_cache_folder)
    min_disk_free: int = 10 << 30
    max_bytes: int | None = None


@dataclass(frozen=True)
class SourceSection(Section):
    """What one source goes by. Each has a dataclass of its own, with the rows that set its fields.

    A field that `repr` leaves out is a secret of the operator's.

    Attributes:
        endpoint: URL of the service without a slash at its end; empty where there is none.
        token: is sent to the service alone.
    """

    options: ClassVar[tuple[Option, ...]] = ()

    endpoint: str = ""
    token: str | None = field(default=None, repr=False)

    def under_policy(self: _C, policy: Policy) -> _C:
        """Return what a stranger's references may go by: nothing that is secret."""
        if policy.own_tokens:
            return self
        changes: dict[str, Any] = {e.name: e.default for e in fields(self) if not e.repr}
        return replace(self, **changes)


@dataclass(frozen=True)
class SourceSettings:
    """What all sources go by. A source is known when it is asked, so what it goes by is read then.

    Attributes:
        given: what was set by the program, in place of what the others say.
        environ, flags: the environment and the texts of flags, as far as no `Settings` are set by
            them.
        policy: what takes their secrets from those that are read.
    """

    given: tuple[SourceSection, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    flags: Mapping[str, Texts] = field(default_factory=dict, repr=False, hash=False)
    policy: Policy | None = None
    _known: dict[type[SourceSection], Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_known", dict(zip(map(type, self.given), self.given, strict=True))
        )

    def of(self, section: type[_C]) -> _C:
        """Return what the source whose settings are a `section` goes by.

        Raises:
            BadSettingError: a value that cannot be used.
        """
        found: _C | None = self._known.get(section)
        if found is None:
            found = section.from_environment(self.environ) if section.options else section()
            if self.flags:
                found = found.with_flags(self.flags)
            if self.policy is not None:
                found = found.under_policy(self.policy)
            self._known[section] = found
        return found

    def replacing(self, section: SourceSection) -> SourceSettings:
        """Return these settings with `section` for the source that it belongs to."""
        others = (each for each in self.given if type(each) is not type(section))
        return replace(self, given=(section, *others))

    def under_policy(self, policy: Policy) -> SourceSettings:
        """Return these settings without what `policy` takes away."""
        given = tuple(each.under_policy(policy) for each in self.given)
        return replace(self, given=given, policy=policy)


@dataclass(frozen=True)
class Proxies:
    """Proxy URLs (with user and password where given) and the hosts that need none."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings(Section):
    """How transfers are made. Sizes are bytes, times float seconds.

    Attributes:
        concurrency: the most ranges in flight for one file; None leaves it to measurement.
        chunk_size: the largest range asked for.
        connect_timeout: for a connection with its TLS handshake.
        stall_timeout: a connection that delivers nothing for so long is given up.
        speed_limit: bytes a second that a transfer has to bring, all connections together.
        speed_time: seconds over which it has to; 0 for either waits however slow it is.
        retries: consecutive failures without progress before a transfer is given up.
        max_conn_per_host: the most connections to one host over all transfers.
        max_concurrent_files: files of a manifest in flight.
        force: overwrite what stands at a destination.
        skip_existing: leave what stands at a destination as it is, and count it as done; what is
            known to be wrong by its checksum is an error all the same. Goes before `force`.
        resume: go on from what an earlier run left.
        fsync: return only when the file is on stable storage.
        limit_rate: bytes a second over all transfers of a call.
        max_size: refuse objects larger than this.
        min_free: bytes that must stay free on the destination's file system.
        cacert: PEM file, or folder, of certificate authorities to trust instead of the system's.
        ssl_cert_file, ssl_cert_dir, requests_ca_bundle, curl_ca_bundle: the same, as the variables
            say it that other programs read; the first that is given counts.
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
    speed_limit: float = 1024.0
    speed_time: float = 60.0
    retries: int = 5
    max_conn_per_host: int = 64
    max_concurrent_files: int = 20
    force: bool = False
    skip_existing: bool = False
    resume: bool = True
    fsync: bool = False
    limit_rate: int | None = None
    max_size: int | None = None
    min_free: int = 0
    cacert: str | None = None
    ssl_cert_file: str | None = None
    ssl_cert_dir: str | None = None
    requests_ca_bundle: str | None = None
    curl_ca_bundle: str | None = None
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
        given what a login of the operator's opens.
        """
        policy = self.policy
        if policy is None:
            return self
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
            sources=self.sources.under_policy(policy),
            limits=limits,
        )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], *, warn: Warn = lambda _: None
    ) -> Settings:
        _warn_of_cache_nodes(environ, warn)
        settings = super().from_environment(environ, warn=warn)
        own = cls._by_variable
        rest = {name: value for name, value in environ.items() if value and name not in own}
        return replace(settings, proxies=_proxies(environ), sources=SourceSettings(environ=rest))

    def with_flags(self, values: Mapping[str, Texts]) -> Settings:
        if not values:
            return self
        rest = {name: values[name] for name in values.keys() - _FLAGS}
        settings = super().with_flags(values)
        return replace(settings, sources=replace(self.sources, flags=rest)) if rest else settings

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
class Console(Section):
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


def _counts(option: Option, environ: Mapping[str, str], warn: Warn) -> bool:
    """Whether a deprecated variable counts: it does unless the new one is set."""
    old = option.variable
    new = next(each.variable for each in OPTIONS if each.name == option.deprecated)
    if not environ.get(new):
        warn(f"Using {old} is deprecated, use {new} instead")
        return True
    if environ[old] != environ[new]:
        warn(f"Both {old} and {new} are set, using {new}")
    return False
