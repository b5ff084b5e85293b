"""What a list of arguments says by the table of flags.

No value is judged here beyond its shape, and neither environment nor disk is looked at.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from pgetpy.cli.options import CACHE_COMMANDS, COMMANDS, FLAGS, SHELLS, Flag, belongs
from pgetpy.core.text.values import read_bool
from pgetpy.errors import UsageError

_GROUPS = {
    "transfer": "transfer",
    "file": "files",
    "cache": "cache",
    "report": "reports",
    "pget": "accepted for pget's sake",
}
_USAGE = {
    "download": "pgetpy [flags] URL DEST\n       pgetpy COMMAND [flags] ...",
    "multifile": "pgetpy multifile [flags] MANIFEST|-",
    "ensure": "pgetpy ensure [flags] REF...",
    "snapshot": "pgetpy snapshot [flags] REPOSITORY",
    "cache": "pgetpy cache COMMAND [flags] ...",
    "cache ls": "pgetpy cache ls [flags]",
    "cache info": "pgetpy cache info [flags]",
    "cache path": "pgetpy cache path [flags] REF...",
    "cache ensure": "pgetpy cache ensure [flags] REF...",
    "cache rm": "pgetpy cache rm [flags] REF...",
    "cache verify": "pgetpy cache verify [flags] [REF...]",
    "cache gc": "pgetpy cache gc [flags]",
    "cache pin": "pgetpy cache pin [flags] REF...",
    "cache unpin": "pgetpy cache unpin [flags] REF...",
    "cache prune": "pgetpy cache prune --older-than TIME [flags]",
    "version": "pgetpy version",
    "completion": f"pgetpy completion {'|'.join(SHELLS)}",
    "help": "pgetpy help [COMMAND]",
}
_KINDS = """\
an http, https, file or data URL, huggingface.co/OWNER/NAME[/FILE], civitai.com/models/ID,
an AIR name, or OWNER/NAME[:VERSION] of Replicate"""
_REF = "REF is a reference, or the first 8 digits or more of a key that `pgetpy cache ls` shows."
_ENSURE = f"""\
Print a path for each REF at which it stands, whole and checked, one a line in the
order given. What is not in the cache is downloaded first, side by side. REF is
{_KINDS}.
Of an archive or repository the path is that of its one .safetensors."""
_ABOUT = {
    "download": f"""\
Download URL to DEST over as many connections as pay. URL is
{_KINDS}.
DEST is a file, a folder (which takes the name from the URL), or - for standard output.""",
    "multifile": """\
Download the files of a manifest, one `URL DEST [ALGO:HEX]` a line; blank lines
and # comments are passed over. Other files go on when one fails.""",
    "ensure": _ENSURE,
    "snapshot": """\
Bring a repository of Hugging Face (hf://OWNER/NAME[@REVISION], OWNER/NAME's page, or
one of its folders) into the cache of huggingface_hub, where from_pretrained finds it,
and print the path of the snapshot. What is there already is not fetched.""",
    "cache": "Look after the cache of weights that `pgetpy ensure` and the Python package share.",
    "cache ls": "List what is in the cache, what was used last first.",
    "cache info": "Show what the cache takes, what it holds, and its bounds.",
    "cache path": f"Print the path of each REF that is there; no server is asked.\n{_REF}",
    "cache ensure": _ENSURE,
    "cache rm": f"Remove entries, unless they are pinned or leased.\n{_REF}",
    "cache verify": f"""\
Hash entries, all of them without REF, and compare. What is damaged is fetched anew;
the exit status is 1 where something was.
{_REF}""",
    "cache gc": """\
Bring the cache back to its bounds: what was used longest ago leaves. What dead
processes left is swept; their unfinished downloads are kept for a day (or as long
as --older-than says) for the next one to go on from.""",
    "cache pin": f"Keep entries, also those still to come, until they are unpinned.\n{_REF}",
    "cache unpin": f"Take pins back.\n{_REF}",
    "cache prune": "Remove entries that were not used for long and are not pinned or leased.",
    "version": "Show the version.",
    "completion": "Print a completion script, as in: source <(pgetpy completion bash)",
    "help": "Show help on a command.",
}
_EPILOG = """\
Every flag is also an environment variable: --chunk-size is PGET_CHUNK_SIZE. A
switch has a --no- form that takes it back. PGET_HEADERS (a JSON object) holds
headers; HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are heeded.

Exit status: 0 done, 1 failed, 2 asked for nonsense, 130 or 143 interrupted (what
has arrived is kept for the same command to go on from)."""


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        command: download, a key of COMMANDS, or `cache` and a key of CACHE_COMMANDS.
        operands: what is no flag, without the command.
        values: the text of each flag given, `true` or `false` for a switch.
        lists: the texts of each flag given that adds up.
        deprecated: deprecated flags that were given, and what to use instead.
    """

    command: str
    operands: tuple[str, ...]
    values: Mapping[str, str] = field(repr=False)
    lists: Mapping[str, tuple[str, ...]] = field(repr=False)
    deprecated: Mapping[str, str]

    def has(self, switch: str) -> bool:
        return self.values.get(switch) == "true"


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Return what `argv` (without the program's name) says.

    Raises:
        UsageError: there is a flag that does not exist, lacks its value or does not belong there.
    """
    arguments = list(argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    everything = _parser("download", FLAGS)
    namespace, rest = everything.parse_known_args(_without_values(arguments[:end]))
    unknown = next((text for text in rest if text.startswith("-") and text != "-"), None)
    if unknown is not None:
        raise UsageError(_unknown(unknown))
    operands = [*rest, *arguments[end + 1 :]]
    command = _command(operands)
    given = vars(namespace)
    _check_belonging(command, given)
    values, lists = _sorted_out(given)
    deprecated = {
        flag.name: flag.deprecated for flag in FLAGS if flag.deprecated and flag.dest in given
    }
    return Arguments(command, tuple(operands), values, lists, deprecated)


def help_text(command: str) -> str:
    """Return the help of a command, as `Arguments.command` has it."""
    if command not in _USAGE:
        raise UsageError(f"there is no command {command!r}")
    flags = [flag for flag in FLAGS if belongs(flag, command)]
    return _parser(command, flags).format_help().rstrip()


def _command(operands: list[str]) -> str:
    """Take the command from the front of `operands`."""
    if not operands or operands[0] not in COMMANDS:
        return "download"
    command = operands.pop(0)
    if command == "cache" and operands and operands[0] in CACHE_COMMANDS:
        command = f"cache {operands.pop(0)}"
    return command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # What argparse says of the -z in -fz.
        stray = re.search(r"ignored explicit argument '(.)", message)
        raise UsageError(f"unknown flag: -{stray[1]}" if stray else message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def _parser(command: str, flags: Iterable[Flag]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pgetpy",
        usage=_USAGE[command],
        description=_described(command),
        epilog=_EPILOG if command in {"download", "multifile", "ensure", "snapshot"} else None,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    groups = {key: parser.add_argument_group(title) for key, title in _GROUPS.items()}
    for flag in flags:
        _add(groups[flag.group], flag)
    return parser


def _described(command: str) -> str:
    commands = {"download": COMMANDS, "cache": CACHE_COMMANDS}.get(command)
    if commands is None:
        return _ABOUT[command]
    lines = "\n".join(f"  {name:<12} {about}" for name, about in commands.items())
    return f"{_ABOUT[command]}\n\ncommands:\n{lines}"


def _add(group: argparse._ArgumentGroup, flag: Flag) -> None:
    names = ([f"-{flag.short}"] if flag.short else []) + [f"--{flag.name}"]
    if flag.value:
        action = "append" if flag.many else "store"
        group.add_argument(
            *names, action=action, dest=flag.dest, metavar=flag.value, help=flag.help
        )
        return
    group.add_argument(*names, action="store_const", const="true", dest=flag.dest, help=flag.help)
    group.add_argument(
        f"--no-{flag.name}",
        action="store_const",
        const="false",
        dest=flag.dest,
        help=argparse.SUPPRESS,
    )


def _without_values(arguments: list[str]) -> list[str]:
    """Return `arguments` with --switch=true and --switch=false as --switch and --no-switch."""
    switches = {f"--{flag.name}": flag.name for flag in FLAGS if not flag.value}
    switches |= {f"-{flag.short}": flag.name for flag in FLAGS if not flag.value and flag.short}

    def plain(text: str) -> str:
        name, equals, value = text.partition("=")
        if not equals or name not in switches:
            return text
        return f"--{switches[name]}" if read_bool(value, name) else f"--no-{switches[name]}"

    return [plain(text) for text in arguments]


def _unknown(text: str) -> str:
    import difflib

    name = text.partition("=")[0]
    close = difflib.get_close_matches(name, [f"--{flag.name}" for flag in FLAGS], n=1)
    return f"unknown flag: {name}" + (f" (is {close[0]} meant?)" if close else "")


def _check_belonging(command: str, given: Mapping[str, object]) -> None:
    places = {"download": "a single URL", "multifile": "multifile mode"}
    cached = command in {"ensure", "snapshot"} or command.startswith("cache ")
    if command not in places and not cached:
        return
    for flag in FLAGS:
        if flag.dest in given and flag.name != "version" and not belongs(flag, command):
            place = places.get(command, f"pgetpy {command}")
            raise UsageError(f"cannot use --{flag.name} with {place}")
    if "chunk_size" in given and "minimum_chunk_size" in given:
        raise UsageError(
            "--minimum-chunk-size and --chunk-size cannot be used at the same time, "
            "use --chunk-size instead"
        )


def _sorted_out(
    given: Mapping[str, object],
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    values: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for flag in FLAGS:
        value = given.get(flag.dest)
        if isinstance(value, list):
            lists[flag.name] = tuple(value)
        elif value is not None:
            # A deprecated flag speaks for the one that replaces it, unless that is given too.
            name = flag.deprecated or flag.name
            values.setdefault(name, str(value))
    return values, lists
