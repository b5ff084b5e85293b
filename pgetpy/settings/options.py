"""The table of all options: flags, environment variables, and the fields that they set.

To add an option, add a row here and a field to the dataclass that the row names, and use the field.
The parser, --help, shell completion, the reading of the environment and docs/options.md (`make
docs-options`) are all generated from the rows. A test rejects a row whose field is never used.
Options of a source are in the source's own module.

Which value wins: a flag, then the option's own variable, then a variable without a flag (VARIABLES,
such as XDG_CACHE_HOME), then the field's default. Names are those of pget and curl where these have
the same option; help texts are phrases in lower case without a full stop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.core.references.reference import Wanted
from pgetpy.core.text.values import (
    ChoiceReader,
    count_reader,
    one_of,
    read_bool,
    read_duration,
    read_header_value,
    read_headers,
    read_http_url,
    read_resolve,
    read_store_folder,
    read_text,
    read_texts,
    read_token,
    read_words,
    size_reader,
    switch_to,
)
from pgetpy.settings.folders import expand_user, read_cache_home

if TYPE_CHECKING:
    from pgetpy.core.references.checksums import Checksum

Texts = str | tuple[str, ...]

# Commands that take the same options.
DOWNLOAD = ("download", "multifile")
FILL_CACHE = ("ensure", "cache ensure", "cache verify", "prefetch")
PIPELINES = tuple(
    f"pipeline {name}" for name in ("plan", "key", "build", "ls", "show", "verify", "rm", "gc")
)
SPECIFY = PIPELINES[:3]
GENERATIONS = tuple(
    f"generation {name}"
    for name in ("lock", "build", "daemon", "verify", "prune", "ready", "diff", "ls", "exec")
)
FILL_GENERATIONS = GENERATIONS[:3]
TRANSFER = (*DOWNLOAD, "snapshot", *FILL_CACHE, *SPECIFY, *FILL_GENERATIONS)
UPLOAD = ("put",)
CONNECT = (*TRANSFER, *UPLOAD)
FILL_TIERS = (*FILL_CACHE, *SPECIFY, *FILL_GENERATIONS)
NAME_ENTRIES = ("cache path", "cache rm", "cache pin", "cache unpin")
KEEP_BOUNDS = (*FILL_TIERS, "cache info", "cache gc")
UPKEEP = ("cache ls", "cache prune", "generation verify", "generation prune")
USE_CACHE = (*KEEP_BOUNDS, *NAME_ENTRIES, *PIPELINES[3:], *UPKEEP)
CHOOSE_FILES = ("ensure", "cache ensure", "prefetch", "snapshot")
COMPILED = tuple(
    f"compile-cache {name}"
    for name in ("load", "save", "ls", "info", "explain", "verify", "rm", "prune", "publish", "run")
)
FOR_THIS_MACHINE = tuple(f"compile-cache {name}" for name in ("load", "save", "explain", "run"))
NODES = ("node config", "node check")
REPORT = (*DOWNLOAD, "snapshot", *UPLOAD, *USE_CACHE, *COMPILED, *NODES, *GENERATIONS[5:])
GROUP_NAMES = ("cache", "compile-cache", "generation", "node", "pipeline")
EVERY = (*REPORT, *GROUP_NAMES, "version", "completion", "help")

# Options of a single run, which have no environment variables.
_OF_COMMANDS = ("Command", "Generation", "Node", "Pipeline")
_OF_ONE_RUN = ("Arguments.", *(f"{name}Options." for name in _OF_COMMANDS))


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Attributes:
        name: the flag without dashes; empty for a variable without a flag.
        short: a dash and a letter, or empty.
        value: the placeholder in --help; empty for a switch, which also gets a --no- form.
        sets: the dataclass and field that get the value; empty if it has no effect.
        read: converts the text to the value, given the option's name for errors.
        about: the help text. Choices, default and repetition are added to it.
        commands: the commands that accept it.
        default: the field's default as help shows it.
        many: whether it may be repeated.
        deprecated: the option to use instead.
        environ: its environment variable, if not PGET_ and the name.
    """

    name: str
    short: str
    value: str
    sets: str
    read: Callable[[Any, str], object]
    about: str
    commands: tuple[str, ...] = TRANSFER
    default: str = ""
    many: bool = False
    deprecated: str = ""
    environ: str = ""

    @property
    def variable(self) -> str:
        """The environment variable; empty if there is none."""
        return next(iter(by_variable((self,))), "")

    @property
    def section(self) -> str:
        """The dataclass that the value goes to."""
        return self.sets.partition(".")[0]

    @property
    def field(self) -> str:
        """The field of that dataclass."""
        return self.sets.partition(".")[2]

    @property
    def choices(self) -> tuple[str, ...]:
        """The accepted words; empty if any text is accepted."""
        return tuple(self.read.values) if isinstance(self.read, ChoiceReader) else ()

    @property
    def help(self) -> str:
        """The help text with choices and default."""
        *others, last = self.choices or ("",)
        notes = [f"{', '.join(others)} or {last}"] if others else []
        notes += ["may be repeated"] if self.many else []
        notes += [f"default {self.default}"] if self.default else []
        return f"{self.about} ({'; '.join(notes)})" if notes else self.about


def by_variable(options: Iterable[Option]) -> dict[str, Option]:
    """Return the options that have an environment variable, by its name."""
    # Written without a call for each row: every download runs this.
    return {
        option.environ or f"PGET_{option.name.replace('-', '_').upper()}": option
        for option in options
        if option.environ or not option.sets.startswith(_OF_ONE_RUN)
    }


def _paths(given: Texts, name: str) -> tuple[Path, ...]:
    texts = (given,) if isinstance(given, str) else given
    names = [each for text in texts for each in text.split(os.pathsep) if each]
    return tuple(expand_user(each, name) for each in names)


def _file_count(text: str, name: str) -> int:
    return count_reader(0)(text, name) or 64  # pget treats 0 as its default


def _checksum(text: str, name: str) -> Checksum | None:
    from pgetpy.core.references.checksums import Checksum

    return Checksum.parse(text, name=name) if text else None


_REMOTE_MODE = one_of("readwrite", "read")


class _PolicyReader(ChoiceReader):
    """Reads the name of a policy. Policies are imported for those who want one."""

    def __call__(self, text: str, name: str) -> object:
        if super().__call__(text, name) == "none":
            return None
        from pgetpy.core.references.policy import Policy

        return Policy.public()


_POLICY = _PolicyReader({"public": "public", "none": "none"})
_WANTED = one_of("auto", *(wanted.value for wanted in Wanted))
_OUTPUT = one_of("file", "null", "tar-extractor", tar="tar-extractor").hinting(
    "to name the file write pgetpy URL FILE"
)
_LEVEL = one_of("debug", "info", "warn", "error", warning="warn")
_PROGRESS = one_of("auto", "bar", "plain", "json", "none")

# The rows of each group in --help: name, short form, placeholder, field, reader and help text. If
# several set the same field, the last one wins.
# fmt: off
GROUPS: Mapping[str, tuple[Option, ...]] = {
    "transfer": (
        Option("concurrency", "-c", "N", "Settings.concurrency", count_reader(1),
               "maximum number of parallel requests for one file (default: found by measuring)",
               CONNECT),
        Option("chunk-size", "-m", "SIZE", "Settings.chunk_size", size_reader(1),
               "maximum size of one range request, such as 10M or 16MiB", CONNECT,
               default="125M"),
        Option("connect-timeout", "", "TIME", "Settings.connect_timeout", read_duration,
               "time allowed to connect, such as 10s or 1m30s", CONNECT, default="5s"),
        Option("stall-timeout", "", "TIME", "Settings.stall_timeout", read_duration,
               "give up a connection that receives nothing for this long", CONNECT, default="15s"),
        Option("speed-limit", "", "SIZE", "Settings.speed_limit", size_reader(0),
               "give up a transfer slower than this many bytes a second (0: never)",
               default="1KiB"),
        Option("speed-time", "", "TIME", "Settings.speed_time", read_duration,
               "time over which --speed-limit is measured", default="1m"),
        Option("retries", "-r", "N", "Settings.retries", count_reader(0),
               "give up after this many failures in a row without progress", CONNECT,
               default="5"),
        Option("max-conn-per-host", "", "N", "Settings.max_conn_per_host", count_reader(1),
               "maximum number of connections to one host", default="64"),
        Option("max-concurrent-files", "", "N", "Settings.max_concurrent_files", _file_count,
               "maximum number of files to download at the same time; more than 20 only "
               "while they are small", default="64"),
        Option("limit-rate", "", "SIZE", "Settings.limit_rate", size_reader(1),
               "maximum bytes per second over all connections, such as 50M"),
        Option("resume", "", "", "Settings.resume", read_bool,
               "continue what an earlier run left unfinished; this is the default, --no-resume "
               "starts over; --continue and -C - are the same", CONNECT),
        Option("mirror", "", "URL", "CommandOptions.mirror", read_texts,
               "another URL of the same file", ("download",), many=True),
        Option("header", "-H", "LINE", "Settings.headers", read_headers,
               "request header to send, written 'Name: value'", many=True, environ="PGET_HEADERS"),
        Option("netrc", "", "", "Settings.use_netrc", read_bool, "read logins from ~/.netrc"),
        Option("cacert", "", "FILE", "Settings.cacert", read_text,
               "certificate authorities to trust instead of the system's, as a PEM file or a "
               "folder", (*CONNECT, "node check")),
        Option("resolve", "", "HOST:PORT:IP", "Settings.resolve", read_resolve,
               "connect to IP when HOST and PORT are asked for", many=True),
        Option("policy", "", "NAME", "Settings.policy", _POLICY,
               "what may be downloaded: public is for URLs from people you do not trust and allows "
               "only safetensors over https from public hosts, without your tokens, headers, "
               "logins and proxies", default="none"),
    ),
    "files": (
        Option("force", "-f", "", "Settings.force", read_bool, "overwrite DEST if it exists",
               DOWNLOAD),
        Option("skip-existing", "", "", "Settings.skip_existing", read_bool,
               "leave DEST as it is if it exists, and count it as done", DOWNLOAD),
        Option("checksum", "", "ALGO:HEX", "CommandOptions.checksum", _checksum,
               "expected checksum of the file; ALGO is sha256, sha1, md5 or blake2b",
               ("download",)),
        Option("output", "-o", "KIND", "Console.output", _OUTPUT,
               "write a file, discard the bytes, or extract an archive", DOWNLOAD, default="file"),
        Option("extract", "-x", "", "Console.output", switch_to("tar-extractor"),
               "extract an archive into the folder DEST while it downloads", DOWNLOAD),
        Option("max-size", "", "SIZE", "Settings.max_size", size_reader(0),
               "refuse files larger than this"),
        Option("min-free", "", "SIZE", "Settings.min_free", size_reader(0),
               "disk space to leave free", (*DOWNLOAD, "snapshot")),
        Option("fsync", "", "", "Settings.fsync", read_bool,
               "finish only when the file is on stable storage", (*DOWNLOAD, "snapshot")),
        Option("if-absent", "", "", "CommandOptions.if_absent", read_bool,
               "fail if there is such an object already", UPLOAD),
        Option("content-type", "", "TYPE", "CommandOptions.content_type", read_header_value,
               "media type of the object (default: by its name)", UPLOAD),
        Option("cache-control", "", "TEXT", "CommandOptions.cache_control", read_header_value,
               "Cache-Control that the object is served with", UPLOAD),
        Option("fail-fast", "", "", "CommandOptions.fail_fast", read_bool,
               "stop at the first file that fails", ("multifile",)),
    ),
    "cache": (
        Option("cache-dir", "", "DIR", "CacheSettings.folder", expand_user, "folder of the cache",
               USE_CACHE, default="~/.cache/pgetpy"),
        Option("cache-lower", "", "DIR", "CacheSettings.lower", _paths,
               "cache that is searched first and never written, such as a layer of the image; "
               "the variable holds several with colons between them", USE_CACHE, many=True),
        Option("hub-cache-dir", "", "DIR", "CommandOptions.hub_cache_dir", expand_user,
               "huggingface_hub's cache folder (default: HF_HUB_CACHE, HF_HOME/hub or "
               "~/.cache/huggingface/hub)", ("snapshot",), environ="PGET_HUB_CACHE_DIR"),
        Option("min-disk-free", "", "SIZE", "CacheSettings.min_disk_free", size_reader(0),
               "disk space to leave free", KEEP_BOUNDS, default="10Gi"),
        Option("max-bytes", "", "SIZE", "CacheSettings.max_bytes", size_reader(1),
               "maximum size of the cache (default: unlimited)", KEEP_BOUNDS),
        Option("cache-remote", "", "URL", "CacheSettings.remote", read_store_folder,
               "second tier of the cache, such as s3://BUCKET/PREFIX: what is missing is looked "
               "for there first, and what was downloaded without a secret is copied there",
               FILL_TIERS),
        Option("cache-remote-mode", "", "MODE", "CacheSettings.remote_mode", _REMOTE_MODE,
               "whether to copy to the second tier", FILL_TIERS, default="readwrite"),
        Option("cache-remote-max-age", "", "TIME", "CacheSettings.remote_max_age", read_duration,
               "ask the server whether what the second tier has is current, once it is older",
               FILL_TIERS, default="24h"),
        Option("wanted", "", "KIND", "CommandOptions.wanted", _WANTED,
               "what to keep of an archive or repository", (*FILL_CACHE, *NAME_ENTRIES),
               default="auto"),
        Option("include", "", "PATTERN", "CommandOptions.include", read_texts,
               "files of a repository to download, such as '*.json'", CHOOSE_FILES, many=True),
        Option("exclude", "", "PATTERN", "CommandOptions.exclude", read_texts,
               "files of a repository to skip", CHOOSE_FILES, many=True),
        Option("digest", "", "HEX", "CommandOptions.digest", read_text,
               "expected sha256 of the file", ("ensure", "cache ensure")),
        Option("refresh", "", "", "CommandOptions.refresh", read_bool,
               "ask the server whether a cached file is still current", ("ensure", "cache ensure")),
        Option("any-file", "", "", "CommandOptions.any_file", read_bool,
               "also accept files that are not weights: JSON, text, pickles",
               ("ensure", "cache ensure", "prefetch")),
        Option("check", "", "", "CommandOptions.check", read_bool,
               "download nothing; compare names and sizes", ("prefetch",)),
        Option("verify", "", "", "CommandOptions.verify", read_bool,
               "download nothing; hash everything and compare", ("prefetch",)),
        Option("older-than", "", "TIME", "CommandOptions.older_than", read_text,
               "remove what was not used for this long, such as 30d or 12h",
               ("cache prune", "cache gc")),
    ),
    "compile cache": (
        Option("location", "", "LOCATION", "CompileCacheSettings.location", read_text,
               "a folder, s3://BUCKET/PREFIX or https:// URL", COMPILED,
               environ="PGET_COMPILE_CACHE"),
        Option("name", "", "NAME", "CompileCacheSettings.name", read_text,
               "part of the key, such as the model and its version", FOR_THIS_MACHINE,
               environ="PGET_COMPILE_CACHE_NAME"),
        Option("kind", "", "KIND", "CompileCacheSettings.kinds", read_words,
               "inductor, triton or vllm (default: inductor and triton)", FOR_THIS_MACHINE,
               many=True, environ="PGET_COMPILE_CACHE_KINDS"),
        Option("ready-url", "", "URL", "CommandOptions.ready_url", read_http_url,
               "save as soon as this URL answers that the program is ready",
               ("compile-cache run",)),
        Option("repair", "", "", "CommandOptions.repair", read_bool,
               "remove what is damaged, so that the next save replaces it",
               ("compile-cache verify",)),
    ),
    "reports": (
        Option("progress", "", "KIND", "Console.progress", _PROGRESS, "how to show progress",
               CONNECT, default="auto"),
        Option("metrics-file", "", "FILE", "Settings.metrics_file", read_text,
               "add counts of transfers, bytes and cache to FILE, such as pgetpy.prom in the "
               "folder of node exporter's textfile collector"),
        Option("json", "", "", "CommandOptions.json", read_bool,
               "print the result as JSON on standard output", REPORT),
        Option("log-level", "", "LEVEL", "Console.log_level", _LEVEL,
               "how much to print", REPORT, default="info"),
        Option("verbose", "-v", "", "Console.log_level", switch_to("debug"),
               "the same as --log-level debug", REPORT),
        Option("help", "-h", "", "Arguments.help", read_bool,
               "show this help and exit; --help all shows every flag", EVERY),
        Option("version", "", "", "Arguments.version", read_bool, "show the version and exit"),
    ),
    "for compatibility with pget": (
        Option("pid-file", "", "PATH", "", read_text,
               "no effect: runs do not wait for each other", DOWNLOAD),
        Option("force-http2", "", "", "Console.force_http2", read_bool,
               "no effect: ranges go over several HTTP/1.1 connections", DOWNLOAD),
        Option("max-chunks", "", "N", "Settings.concurrency", count_reader(1),
               "deprecated, use --concurrency", DOWNLOAD, deprecated="concurrency"),
        Option("minimum-chunk-size", "", "SIZE", "Settings.chunk_size", size_reader(1),
               "deprecated, use --chunk-size", DOWNLOAD, deprecated="chunk-size"),
    ),
}

# Variables without a flag. A flag's own variable is read later, and so wins over them.
variable = partial(Option, "", "", "", commands=())
VARIABLES: tuple[Option, ...] = (
    variable("Settings.proxy_authorization", read_text,
             "Authorization header for the cache nodes or the cache service, if there are any, "
             "otherwise for the hosts of the URLs given", environ="PGET_PROXY_AUTH_HEADER"),
    variable("Settings.metrics_endpoint", read_http_url,
             "URL that gets a POST with the figures of each file",
             environ="PGET_METRICS_ENDPOINT"),
    variable("Settings.ssl_cert_file", read_text,
             "certificate authorities to trust instead of the system's, as a PEM file or a folder",
             environ="SSL_CERT_FILE"),
    variable("Settings.ssl_cert_dir", read_text,
             "folders of certificate authorities to trust instead of the system's, separated "
             "by colons; added to SSL_CERT_FILE", environ="SSL_CERT_DIR"),
    variable("Settings.requests_ca_bundle", read_text,
             "the same as SSL_CERT_FILE, where that and SSL_CERT_DIR are not set",
             environ="REQUESTS_CA_BUNDLE"),
    variable("Settings.curl_ca_bundle", read_text,
             "the same as SSL_CERT_FILE, where none of these is set", environ="CURL_CA_BUNDLE"),
    variable("CompileCacheSettings.secret", read_token,
             "signs what is saved in a compile cache, and has all that is not signed ignored",
             environ="PGET_COMPILE_CACHE_SECRET"),
    variable("CompileCacheSettings.max_bytes", size_reader(1),
             "compile caches that are larger are not saved", default="2Gi",
             environ="PGET_COMPILE_CACHE_MAX_BYTES"),
    variable("CacheSettings.folder", read_cache_home,
             "folder that holds pgetpy, the default of --cache-dir", default="~/.cache",
             environ="XDG_CACHE_HOME"),
)
# fmt: on

OPTIONS: tuple[Option, ...] = (*VARIABLES, *chain.from_iterable(GROUPS.values()))
# Variables and flags of fleets; their table is in `fleet_settings`, which few downloads need.
OF_FLEETS = frozenset(
    """PGET_CACHE_NODES PGET_CACHE_URI_PREFIXES PGET_CACHE_PIECE PGET_NO_CACHE_NODES PGET_HOST_IP
    PGET_CACHE_NODES_SRV_NAME PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR PGET_CACHE_SERVICE_HOSTNAME
    PGET_FORCE_CACHE_PREFIX_REWRITE PGET_CACHE_USE_PATH_PROXY
    cache-nodes cache-prefixes cache-piece no-cache-nodes""".split()  # noqa: SIM905  much shorter
)
