"""The command line as tables: its flags and commands. Parsing, help and completion follow them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CACHE_COMMANDS: Mapping[str, str] = {
    "ls": "list what is there, what was used last first",
    "info": "show what it takes, what it holds, and its bounds",
    "path": "print where something is, without asking any server",
    "ensure": "the same as pgetpy ensure",
    "rm": "remove entries",
    "verify": "hash entries (all of them without REF) and fetch anew what is damaged",
    "gc": "bring it back to its bounds and sweep what dead processes left",
    "pin": "keep entries until they are unpinned",
    "unpin": "take pins back",
    "prune": "remove entries that were not used for long",
}


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        value: what its value is called; empty for a switch, which also has a --no- twin.
        only: the commands it belongs to; where there is none, all that download.
        words: the values it can have, for completion.
        deprecated: what to use instead.
        many: it may be given again, and adds up.
    """

    name: str
    short: str = ""
    value: str = ""
    help: str = ""
    group: str = "transfer"
    only: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    deprecated: str = ""
    many: bool = False

    @property
    def dest(self) -> str:
        return self.name.replace("-", "_")


# The commands that bring things into the cache, and those about entries that are there.
_FILLING = ("ensure", "cache ensure", "cache verify")
_NAMING = ("cache path", "cache rm", "cache pin", "cache unpin")
_REFERRING = ("download", "multifile", "snapshot", *_FILLING, *_NAMING)
_BOUNDED = (*_FILLING, "cache info", "cache gc")

FLAGS: tuple[Flag, ...] = (
    Flag("concurrency", "c", "N", "most ranges in flight for one file (default: by measurement)"),
    Flag("chunk-size", "m", "SIZE", "largest range to ask for, as 10M or 16MiB (default 125M)"),
    Flag("connect-timeout", value="TIME", help="for a connection to stand, as 10s (default 5s)"),
    Flag("stall-timeout", value="TIME", help="for a connection that is silent (default 15s)"),
    Flag("retries", "r", "N", "failures in a row without progress to bear (default 5)"),
    Flag("max-conn-per-host", value="N", help="most connections to one host (default 64)"),
    Flag(
        "max-concurrent-files",
        value="N",
        help="files of a manifest in flight at one time (default 20)",
    ),
    Flag("limit-rate", value="SIZE", help="bytes a second over all connections"),
    Flag(
        "resume", help="go on from what an earlier run left (the default; --no-resume: start anew)"
    ),
    Flag(
        "mirror",
        value="URL",
        help="the same bytes elsewhere; may repeat",
        only=("download",),
        many=True,
    ),
    Flag("header", "H", "LINE", "header to send, as 'Name: value'; may repeat", many=True),
    Flag(
        "hf-token",
        value="TOKEN",
        help="opens what is gated on Hugging Face; HF_TOKEN is the better place: other users of a "
        "machine see the flags of its processes",
        only=_REFERRING,
    ),
    Flag(
        "civitai-token",
        value="TOKEN",
        help="opens what CivitAI shows to its users; CIVITAI_API_TOKEN is the better place",
        only=_REFERRING,
    ),
    Flag(
        "hf-transfer",
        help="hf_transfer brings large files of Hugging Face (also HF_HUB_ENABLE_HF_TRANSFER=1)",
        only=("download", "multifile", "snapshot", *_FILLING),
    ),
    Flag("netrc", help="take credentials from ~/.netrc"),
    Flag("cacert", value="FILE", help="certificate authorities to trust (PEM)"),
    Flag("resolve", value="HOST:PORT:IP", help="address of a host; may repeat", many=True),
    Flag(
        "policy",
        value="NAME",
        help="public, for URLs from strangers: https to public hosts, safetensors alone, and none "
        "of your tokens, headers and proxies; or none (the default)",
        words=("public", "none"),
    ),
    Flag("force", "f", help="overwrite what stands at the destination", group="file"),
    Flag(
        "checksum",
        value="ALGO:HEX",
        help="what the bytes must hash to: sha256, sha1, md5 or blake2b",
        group="file",
        only=("download",),
    ),
    Flag(
        "extract",
        "x",
        help="extract an archive into folder DEST while it arrives",
        group="file",
    ),
    Flag(
        "output",
        "o",
        "KIND",
        "file, null or tar-extractor (default file)",
        group="file",
        words=("file", "null", "tar-extractor"),
    ),
    Flag("max-size", value="SIZE", help="refuse files larger than this", group="file"),
    Flag("min-free", value="SIZE", help="space that must stay free on the disk", group="file"),
    Flag("fsync", help="be done only when the file is on stable storage", group="file"),
    Flag("fail-fast", help="stop all files when one fails", group="file", only=("multifile",)),
    Flag(
        "cache-dir",
        value="DIR",
        help="folder of the cache (default ~/.cache/pgetpy)",
        group="cache",
        only=("ensure", *(f"cache {name}" for name in CACHE_COMMANDS)),
    ),
    Flag(
        "hub-cache-dir",
        value="DIR",
        help="the Hub's cache (default HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub)",
        group="cache",
        only=("snapshot",),
    ),
    Flag(
        "min-disk-free",
        value="SIZE",
        help="space that must stay free on its disk (default 10Gi)",
        group="cache",
        only=_BOUNDED,
    ),
    Flag(
        "max-bytes",
        value="SIZE",
        help="most that the cache may take (default: any)",
        group="cache",
        only=_BOUNDED,
    ),
    Flag(
        "wanted",
        value="KIND",
        help="auto, file, weights or folder: what of an archive or repository is kept "
        "(default auto)",
        group="cache",
        only=(*_FILLING, *_NAMING),
        words=("auto", "file", "weights", "folder"),
    ),
    Flag(
        "include",
        value="PATTERN",
        help="files of a repository to take, as '*.json'; may repeat",
        group="cache",
        only=("ensure", "cache ensure", "snapshot"),
        many=True,
    ),
    Flag(
        "exclude",
        value="PATTERN",
        help="files of a repository to leave; may repeat",
        group="cache",
        only=("ensure", "cache ensure", "snapshot"),
        many=True,
    ),
    Flag(
        "digest",
        value="HEX",
        help="sha256 that the object must have",
        group="cache",
        only=("ensure", "cache ensure"),
    ),
    Flag(
        "refresh",
        help="ask the server whether it still has the same version",
        group="cache",
        only=("ensure", "cache ensure"),
    ),
    Flag(
        "any-file",
        help="take files that are no weights (JSON, text, pickles) as well",
        group="cache",
        only=("ensure", "cache ensure"),
    ),
    Flag(
        "older-than",
        value="TIME",
        help="not used for so long, as 30d or 12h",
        group="cache",
        only=("cache prune", "cache gc"),
    ),
    Flag(
        "progress",
        value="KIND",
        help="auto, bar, plain, json or none (default auto)",
        group="report",
        words=("auto", "bar", "plain", "json", "none"),
    ),
    Flag("json", help="print the result as JSON on standard output", group="report"),
    Flag(
        "log-level",
        value="LEVEL",
        help="debug, info, warn or error (default info)",
        group="report",
        words=("debug", "info", "warn", "error"),
    ),
    Flag("verbose", "v", help="the same as --log-level debug", group="report"),
    Flag("help", "h", help="show this and exit", group="report"),
    Flag("version", help="show the version and exit", group="report"),
    Flag(
        "pid-file",
        value="PATH",
        help="no effect: runs do not wait for each other",
        group="pget",
    ),
    Flag(
        "force-http2",
        help="no effect: ranges go over several HTTP/1.1 connections",
        group="pget",
    ),
    Flag("max-chunks", value="N", help="use --concurrency", group="pget", deprecated="concurrency"),
    Flag(
        "minimum-chunk-size",
        value="SIZE",
        help="use --chunk-size",
        group="pget",
        deprecated="chunk-size",
    ),
)

COMMANDS: Mapping[str, str] = {
    "multifile": "download the files of a manifest",
    "ensure": "bring weights into the cache and print where they are",
    "snapshot": "bring a repository into the cache of huggingface_hub",
    "cache": "look after the cache: ls, info, verify, gc and more",
    "version": "show the version",
    "completion": "print a completion script for bash, zsh, fish or powershell",
    "help": "show help on a command",
}
SHELLS = ("bash", "zsh", "fish", "powershell")

# Of the flags for all that download, those that mean something where the cache is filled.
_FOR_CACHE = frozenset({"transfer", "report"})


def belongs(flag: Flag, command: str) -> bool:
    """Whether `flag` is one of `command`: `download`, a key of COMMANDS, or `cache ls` and such."""
    if flag.only:
        return command in flag.only
    if command in {"download", "multifile"}:
        return True
    if command == "snapshot":
        return flag.group in _FOR_CACHE or flag.name in {"max-size", "min-free", "fsync"}
    if command in _FILLING:
        return flag.group in _FOR_CACHE or flag.name == "max-size"
    if command.startswith("cache "):
        return flag.name in {"json", "help", "log-level", "verbose"}
    return flag.name == "help"
