"""Settings as frozen dataclasses with their defaults, and how the environment is read into them.

The table in `settings.options` says which flag and which variable sets which field. The environment
is passed as an argument: nothing here reads the process's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pgetpy.core.archives.limits import Limits
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.text.values import UNCHANGED, check_header, read_url
from pgetpy.settings.options import OF_FLEETS, OPTIONS, Option, Texts, by_variable

if TYPE_CHECKING:
    from pgetpy.core.references.policy import Policy
    from pgetpy.settings.fleet_settings import FleetSettings

_NOTHING: Mapping[str, str] = MappingProxyType({})
_FLAGS = frozenset(option.name for option in OPTIONS)
_LOG_LEVELS = ("debug", "info", "warn", "error")  # from most to least verbose

Warn = Callable[[str], None]
# An option, its text, and the flag or variable that gave it.
_Given = tuple[Option, Texts, str]
_S = TypeVar("_S", bound="Section")
_C = TypeVar("_C", bound="SourceSection")


@dataclass(frozen=True)
class Section:
    """A dataclass whose fields are set by options.

    Attributes:
        options: the rows to search; rows of other sections set nothing here.
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

        Args:
            environ: the environment.
            warn: is called with a sentence for each variable that is deprecated or has no effect.

        Raises:
            BadSettingError: a value is invalid; `.name` is the variable.
        """
        given = [
            (option, environ[name], name)
            for name, option in cls._by_variable.items()
            if environ.get(name) and (not option.deprecated or _counts(option, environ, warn))
        ]
        return cls()._read(given) if given else cls()

    def with_flags(self: _S, values: Mapping[str, Texts]) -> _S:
        """Return these settings changed by flags.

        Args:
            values: the name of each flag and its text, or a tuple of texts if it may be repeated.
                Flags of other sections are ignored.

        Raises:
            BadSettingError: a value is invalid; `.name` is the flag.
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
class SourceSection(Section):
    """The settings of one source. Each source has a subclass, with the rows that set its fields.

    A field with `repr=False` is a secret of the operator's.

    Attributes:
        endpoint: the service's URL without a trailing slash; empty if it has none.
        token: is sent to the service only.
    """

    options: ClassVar[tuple[Option, ...]] = ()

    endpoint: str = ""
    token: str | None = field(default=None, repr=False)

    def under_policy(self: _C, policy: Policy) -> _C:
        """Return the settings for references from untrusted callers: without secrets."""
        if policy.own_tokens:
            return self
        from dataclasses import fields

        changes: dict[str, Any] = {e.name: e.default for e in fields(self) if not e.repr}
        return replace(self, **changes)


@dataclass(frozen=True)
class SourceSettings:
    """The settings of all sources. Each source's own are read when it is first used.

    Attributes:
        given: settings that the program passed, which replace what is read.
        environ: environment variables that no field of `Settings` uses.
        flags: flags that no field of `Settings` uses.
        policy: removes secrets from what is read.
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
        """Return the settings of the source whose dataclass is `section`.

        Raises:
            BadSettingError: a value is invalid.
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
        """Return these settings with `section` for its source."""
        others = (each for each in self.given if type(each) is not type(section))
        return replace(self, given=(section, *others))

    def under_policy(self, policy: Policy) -> SourceSettings:
        """Return these settings without what `policy` removes."""
        given = tuple(each.under_policy(policy) for each in self.given)
        return replace(self, given=given, policy=policy)


@dataclass(frozen=True)
class Proxies:
    """Proxy URLs, with user and password if given, and the hosts that are reached directly."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
    no_proxy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings(Section):
    """How transfers are made. Sizes are in bytes, times in seconds.

    Attributes:
        concurrency: the most ranges of one file in flight; None to find the best number by
            measuring.
        chunk_size: the largest range to request, in bytes.
        connect_timeout: time for a connection and its TLS handshake.
        stall_timeout: give up a connection that receives nothing for this long.
        speed_limit: give up a transfer that receives fewer bytes a second than this.
        speed_time: the seconds over which that is measured. 0 for either waits however slow it is.
        retries: failures in a row, without progress between, before a transfer is given up.
        max_conn_per_host: the most connections to one host, over all transfers.
        max_concurrent_files: the most files to download at a time; only small files reach it.
        force: overwrite existing destinations.
        skip_existing: leave existing destinations as they are and count them as done; one with a
            wrong checksum is still an error. Wins over `force`.
        resume: continue what an earlier run left.
        fsync: return only when the file is on stable storage.
        limit_rate: bytes a second, over all transfers of a call.
        max_size: refuse larger objects.
        min_free: bytes to leave free on the destination's file system.
        cacert: a PEM file or folder of certificate authorities to trust, not the system's.
        ssl_cert_file: the same, from SSL_CERT_FILE. The first of these that is set counts.
        ssl_cert_dir: the same, from SSL_CERT_DIR.
        requests_ca_bundle: the same, from REQUESTS_CA_BUNDLE.
        curl_ca_bundle: the same, from CURL_CA_BUNDLE.
        use_netrc: read logins from ~/.netrc or $NETRC for the hosts listed there.
        netrc_file: the path of that file.
        resolve: (host, port) to the IP address to connect to.
        headers: are sent to the hosts of the given URLs, never to another after a redirect.
        authorization: the value of the Authorization header, for the same hosts.
        proxy_authorization: one for the cache nodes or service; without these, for the same hosts.
        proxies: see `Proxies`.
        limits: bounds on what comes out of an archive.
        sources: see `SourceSettings`.
        metrics_endpoint: a URL that gets a POST for each file, like pget's PGET_METRICS_ENDPOINT.
        metrics_file: a file of counts for node exporter's textfile collector.
        policy: what may be fetched for untrusted callers; None allows everything.
        fleet: cache nodes, or a cache service; None if nothing about them is set.
    """

    concurrency: int | None = None
    chunk_size: int = 125_000_000
    connect_timeout: float = 5.0
    stall_timeout: float = 15.0
    speed_limit: float = 1024.0
    speed_time: float = 60.0
    retries: int = 5
    max_conn_per_host: int = 64
    max_concurrent_files: int = 64
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
    proxy_authorization: str | None = field(default=None, repr=False)
    proxies: Proxies = field(default_factory=Proxies)
    limits: Limits = field(default_factory=Limits)
    sources: SourceSettings = field(default_factory=SourceSettings)
    metrics_endpoint: str | None = field(default=None, repr=False)
    policy: Policy | None = None
    fleet: FleetSettings | None = None
    metrics_file: str | None = None

    @property
    def has_fleet(self) -> bool:
        """Whether there are cache nodes, or a cache service."""
        return self.fleet is not None and self.fleet.configured

    @property
    def origin_authorization(self) -> str | None:
        """The Authorization value for the hosts of the given URLs."""
        kept = self.fleet is not None and self.fleet.configured
        return self.authorization or (None if kept else self.proxy_authorization)

    @property
    def largest(self) -> tuple[int, str] | None:
        """The largest allowed object in bytes, and the rule that says so."""
        rules = [] if self.max_size is None else [(self.max_size, "--max-size")]
        if self.policy is not None and self.policy.max_bytes is not None:
            rules.append((self.policy.max_bytes, "max_bytes"))
        return min(rules, default=None)

    def under_policy(self) -> Settings:
        """Return these settings without what their policy removes.

        Otherwise an untrusted caller could have the operator's headers and logins sent to a URL of
        their choice, or receive what the operator's login opens.
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
            proxy_authorization=self.proxy_authorization if self.has_fleet else None,
            use_netrc=False,
            proxies=self.proxies if policy.trust_proxy else Proxies(),
            sources=self.sources.under_policy(policy),
            limits=limits,
        )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], *, warn: Warn = lambda _: None
    ) -> Settings:
        settings = super().from_environment(environ, warn=warn)
        rest = {k: value for k, value in environ.items() if value and k not in cls._by_variable}
        settings = replace(
            settings, proxies=_proxies(environ), sources=SourceSettings(environ=rest)
        )
        return settings if OF_FLEETS.isdisjoint(rest) else settings._with_fleet(rest, {}, warn)

    def with_flags(self, values: Mapping[str, Texts]) -> Settings:
        if not values:
            return self
        rest = {name: values[name] for name in values.keys() - _FLAGS}
        settings = super().with_flags(values)
        if not OF_FLEETS.isdisjoint(rest):
            settings = settings._with_fleet({}, rest)
        return replace(settings, sources=replace(self.sources, flags=rest)) if rest else settings

    def _with_fleet(self, *given: Any) -> Settings:
        from pgetpy.settings.fleet_settings import FleetSettings, fleet_from

        return replace(self, fleet=fleet_from(self.fleet or FleetSettings(), *given))

    def with_headers(self, headers: Sequence[tuple[str, str]], name: str) -> Settings:
        """Return these settings with `headers` added, replacing those of the same name.

        Args:
            name: what gave them, for errors.
        """
        return self._changed({"headers": [check_header(*header, name) for header in headers]})

    def _changed(self, changes: dict[str, Any]) -> Settings:
        settings = replace(self, **{**changes, "headers": self.headers})
        merged = dict(self.headers)
        authorization = settings.authorization
        for key, value in changes.get("headers", ()):
            # Authorization has a field of its own, the only place where it is read.
            if key.lower() == "authorization":
                authorization = value
                continue
            merged = {known: kept for known, kept in merged.items() if known.lower() != key.lower()}
            merged[key] = value
        return replace(settings, headers=MappingProxyType(merged), authorization=authorization)


@dataclass(frozen=True)
class Console(Section):
    """Options of the command line other than those of transfers."""

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


def _proxies(environ: Mapping[str, str]) -> Proxies:
    # A CGI server turns a client's "Proxy:" header into HTTP_PROXY (the httpoxy attack).
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
    """Whether a deprecated variable is used: it is unless its replacement is set."""
    old = option.variable
    new = next(each.variable for each in OPTIONS if each.name == option.deprecated)
    if not environ.get(new):
        warn(f"Using {old} is deprecated, use {new} instead")
        return True
    if environ[old] != environ[new]:
        warn(f"Both {old} and {new} are set, using {new}")
    return False
