"""Settings: one frozen object, and the only reader of the environment.

Every flag has its variable: PGET_ and the flag's name in upper case with underscores. The mapping
is an argument, so that nothing here reaches for the process's own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from pgetpy.core.archives.member_policy import Limits
from pgetpy.core.destinations.names import check_url
from pgetpy.core.references.policy import Policy
from pgetpy.core.text.values import (
    check_header,
    count_reader,
    read_bool,
    read_duration,
    read_resolve,
    read_text,
    read_token,
    size_reader,
    word_reader,
)
from pgetpy.errors import BadReferenceError, BadSettingError
from pgetpy.errors.redact import HIDDEN, redact

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_NOTHING: Mapping[str, str] = MappingProxyType({})
Warn = Callable[[str], None]


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Return where weights are kept: PGET_CACHE_DIR, else `pgetpy` in the user's cache folder."""
    chosen = environ.get("PGET_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "pgetpy"


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


@dataclass(frozen=True)
class CacheSettings:
    """Where the cache of weights is, and what it keeps to.

    Attributes:
        folder: where it is, or is to be.
        min_disk_free: bytes that stay free on its disk.
        max_bytes: bytes that it takes at most, None for any.
    """

    folder: Path
    min_disk_free: int = 10 << 30
    max_bytes: int | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> CacheSettings:
        """Read PGET_CACHE_DIR, PGET_MIN_DISK_FREE and PGET_MAX_BYTES; empty ones count as unset."""
        names = {flag: variable(flag) for flag in CACHE_FLAGS if flag != "cache-dir"}
        given = {flag: environ[name] for flag, name in names.items() if environ.get(name)}
        return cls(default_cache_dir(environ)).with_flags(given, name=variable)

    def with_flags(
        self, values: Mapping[str, str], *, name: Callable[[str], str] = "--{}".format
    ) -> CacheSettings:
        """Return these settings changed by flags: the name of each (a key of CACHE_FLAGS) to its
        text."""
        return replace(self, **_read(CACHE_FLAGS, values, name))


@dataclass(frozen=True)
class SourceSettings:
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

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> SourceSettings:
        """Read the variables of huggingface_hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
        HF_HUB_ENABLE_HF_TRANSFER), CIVITAI_API_TOKEN, PGET_CIVITAI_ENDPOINT,
        PGET_REPLICATE_ENDPOINT, PGET_MAX_DATA_SIZE and those of SOURCE_FLAGS, which go before the
        services' own; empty ones count as unset.

        Raises:
            BadSettingError: a value that cannot be used; `.name` is the variable's.
        """
        found: dict[str, object] = {}
        for name, place in _ENDPOINTS.items():
            if url := environ.get(name):
                try:
                    check_url(url)
                except BadReferenceError as error:
                    raise BadSettingError(name, redact(url), error.reason) from None
                if "@" in urlsplit(url).netloc:
                    # It is a part of what is shown and recorded.
                    raise BadSettingError(name, redact(url), "may bear no user and password")
                found[place] = url.rstrip("/")
        for name, place in _TOKENS.items():
            found[place] = read_token(environ.get(name, ""), name)
        for name, place in _SWITCHES.items():
            found[place] = environ.get(name, "").strip().upper() in _ON
        if size := environ.get("PGET_MAX_DATA_SIZE"):
            found["max_data_size"] = size_reader(0)(size, "PGET_MAX_DATA_SIZE")
        settings = cls(**found)  # type: ignore[arg-type]  # the tables pair variable and field
        names = {flag: variable(flag) for flag in SOURCE_FLAGS}
        given = {flag: environ[name] for flag, name in names.items() if environ.get(name)}
        return settings.with_flags(given, name=variable)

    def with_flags(
        self, values: Mapping[str, str], *, name: Callable[[str], str] = "--{}".format
    ) -> SourceSettings:
        """Return these settings changed by flags: the name of each (a key of SOURCE_FLAGS) to its
        text."""
        return replace(self, **_read(SOURCE_FLAGS, values, name))


_ENDPOINTS = {
    "HF_ENDPOINT": "hf_endpoint",
    "PGET_CIVITAI_ENDPOINT": "civitai_endpoint",
    "PGET_REPLICATE_ENDPOINT": "replicate_endpoint",
}
_TOKENS = {
    "HF_TOKEN": "hf_token",
    "CIVITAI_API_TOKEN": "civitai_token",
}
_SWITCHES = {"HF_HUB_OFFLINE": "hf_offline", "HF_HUB_ENABLE_HF_TRANSFER": "hf_transfer"}
# What huggingface_hub takes for yes.
_ON = frozenset({"1", "ON", "YES", "TRUE"})


@dataclass(frozen=True)
class Proxies:
    """Proxy URLs (with user and password where given) and the hosts that need none."""

    http: str | None = field(default=None, repr=False)
    https: str | None = field(default=None, repr=False)
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
        """Read the PGET_ variables, the proxies and SSL_CERT_FILE; empty ones count as unset.

        `warn` gets a sentence for each variable that is deprecated or has no effect.

        Raises:
            BadSettingError: a value that cannot be used; `.name` is the variable's.
        """
        settings = cls(
            proxies=_proxies(environ),
            cacert=environ.get("SSL_CERT_FILE") or None,
            sources=SourceSettings.from_environment(environ),
        )
        names = {flag: variable(flag) for flag in FLAGS} | _deprecated_names(environ, warn)
        given = {flag: environ[name] for flag, name in names.items() if environ.get(name)}
        settings = settings.with_flags(given, name=names.__getitem__)
        if endpoint := environ.get("PGET_METRICS_ENDPOINT"):
            if not endpoint.lower().startswith(("http://", "https://")):
                raise BadSettingError("PGET_METRICS_ENDPOINT", redact(endpoint), "is no http URL")
            settings = replace(settings, metrics_endpoint=endpoint)
        _warn_of_cache_nodes(environ, warn)
        settings = replace(settings, authorization=environ.get("PGET_PROXY_AUTH_HEADER") or None)
        return settings.with_headers(_json_headers(environ.get("PGET_HEADERS", "")), "PGET_HEADERS")

    def with_flags(
        self, values: Mapping[str, str], *, name: Callable[[str], str] = "--{}".format
    ) -> Settings:
        """Return these settings changed by flags: the name of each (a key of FLAGS) to its text.

        `name` says what an error calls a flag.
        """
        return replace(self, **_read(FLAGS, values, name))

    def with_headers(self, headers: Sequence[tuple[str, str]], name: str) -> Settings:
        """Return these settings with `headers` put in place of their namesakes.

        Authorization goes to its own field, the one place where it is looked for. `name` says what
        gave them.
        """
        merged = dict(self.headers)
        authorization = self.authorization
        for key, value in headers:
            check_header(key, value, name)
            if key.lower() == "authorization":
                authorization = value
                continue
            merged = {known: kept for known, kept in merged.items() if known.lower() != key.lower()}
            merged[key] = value
        return replace(self, headers=MappingProxyType(merged), authorization=authorization)


@dataclass(frozen=True)
class Console:
    """How the command line behaves: what concerns no transfer.

    Attributes:
        log_level: debug, info, warn or error.
        output: file, null or tar-extractor.
        progress: auto, bar, plain, json or none.
    """

    log_level: str = "info"
    output: str = "file"
    progress: str = "auto"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Console:
        """Read the PGET_ variables of the command line's own flags."""
        given = {
            flag: environ[variable(flag)] for flag in CONSOLE_FLAGS if environ.get(variable(flag))
        }
        return cls().with_flags(given, name=variable)

    def with_flags(
        self, values: Mapping[str, str], *, name: Callable[[str], str] = "--{}".format
    ) -> Console:
        """Return this changed by flags: the name of each (a key of CONSOLE_FLAGS) to its text."""
        read = {flag: CONSOLE_FLAGS[flag](text, name(flag)) for flag, text in values.items()}
        changes = {field: read[flag] for flag, field in _CONSOLE_FIELDS.items() if flag in read}
        if read.get("verbose"):
            changes["log_level"] = "debug"
        if read.get("extract"):
            changes["output"] = "tar-extractor"
        return replace(self, **changes)  # type: ignore[arg-type]


def variable(flag: str) -> str:
    """Return the environment variable of a flag: `chunk-size` has PGET_CHUNK_SIZE."""
    return f"PGET_{flag.upper().replace('-', '_')}"


@dataclass(frozen=True)
class FlagRule:
    """Which field a flag sets, and what reads its text (given the flag's name for errors)."""

    field: str
    read: Callable[[str, str], object]


def _read(
    rules: Mapping[str, FlagRule], values: Mapping[str, str], name: Callable[[str], str]
) -> dict[str, Any]:
    """Return the fields that flags set: a table pairs each with what reads its text."""
    return {rules[flag].field: rules[flag].read(text, name(flag)) for flag, text in values.items()}


def _files(text: str, name: str) -> int:
    # pget takes 0 for its default.
    return count_reader(0)(text, name) or Settings.max_concurrent_files


def _policy(text: str, name: str) -> Policy | None:
    return Policy.public() if word_reader("public", "none")(text, name) == "public" else None


FLAGS: Mapping[str, FlagRule] = {
    "concurrency": FlagRule("concurrency", count_reader(1)),
    "chunk-size": FlagRule("chunk_size", size_reader(1)),
    "connect-timeout": FlagRule("connect_timeout", read_duration),
    "stall-timeout": FlagRule("stall_timeout", read_duration),
    "retries": FlagRule("retries", count_reader(0)),
    "max-conn-per-host": FlagRule("max_conn_per_host", count_reader(1)),
    "max-concurrent-files": FlagRule("max_concurrent_files", _files),
    "force": FlagRule("force", read_bool),
    "resume": FlagRule("resume", read_bool),
    "fsync": FlagRule("fsync", read_bool),
    "limit-rate": FlagRule("limit_rate", size_reader(1)),
    "max-size": FlagRule("max_size", size_reader(0)),
    "min-free": FlagRule("min_free", size_reader(0)),
    "cacert": FlagRule("cacert", read_text),
    "netrc": FlagRule("use_netrc", read_bool),
    "resolve": FlagRule("resolve", read_resolve),
    "policy": FlagRule("policy", _policy),
}

# An empty text takes back what the environment gives.
SOURCE_FLAGS: Mapping[str, FlagRule] = {
    "hf-transfer": FlagRule("hf_transfer", read_bool),
    "hf-token": FlagRule("hf_token", read_token),
    "civitai-token": FlagRule("civitai_token", read_token),
}

CACHE_FLAGS: Mapping[str, FlagRule] = {
    "cache-dir": FlagRule("folder", lambda text, _: Path(text).expanduser()),
    "min-disk-free": FlagRule("min_disk_free", size_reader(0)),
    "max-bytes": FlagRule("max_bytes", size_reader(1)),
}

# pget's --pid-file and --force-http2 are read and have no effect.
CONSOLE_FLAGS: Mapping[str, Callable[[str, str], object]] = {
    "log-level": word_reader("debug", "info", "warn", "error", warning="warn"),
    "output": word_reader("file", "null", "tar-extractor", tar="tar-extractor"),
    "progress": word_reader("auto", "bar", "plain", "json", "none"),
    "verbose": read_bool,
    "extract": read_bool,
    "force-http2": read_bool,
    "pid-file": read_text,
}
_CONSOLE_FIELDS = {"log-level": "log_level", "output": "output", "progress": "progress"}


def _json_headers(text: str) -> list[tuple[str, str]]:
    if not text:
        return []
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not all(isinstance(value, str) for value in parsed.values()):
        raise BadSettingError("PGET_HEADERS", HIDDEN, "is no JSON object of strings")
    return list(parsed.items())


def _deprecated_names(environ: Mapping[str, str], warn: Warn) -> dict[str, str]:
    """Return the flags that are set by a deprecated variable alone, each with that variable."""
    found = {}
    for flag, old in (
        ("chunk-size", "PGET_MINIMUM_CHUNK_SIZE"),
        ("concurrency", "PGET_MAX_CHUNKS"),
    ):
        new = variable(flag)
        if environ.get(old) and not environ.get(new):
            warn(f"Using {old} is deprecated, use {new} instead")
            found[flag] = old
        elif environ.get(old) and environ[old] != environ[new]:
            warn(f"Both {old} and {new} are set, using {new}")
    return found


def _warn_of_cache_nodes(environ: Mapping[str, str], warn: Warn) -> None:
    by_cidr = "PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR"
    names = ["PGET_CACHE_NODES_SRV_NAME", "PGET_CACHE_SERVICE_HOSTNAME"]
    if environ.get("PGET_HOST_IP"):
        names.append(by_cidr)
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
    url = environ[name] if "://" in environ[name] else f"http://{environ[name]}"
    try:
        check_url(url)
    except BadReferenceError as error:
        raise BadSettingError(name, redact(url), error.reason) from None
    return url
