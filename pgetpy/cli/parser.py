"""The parser and the help, made from the tables of options and commands.

One parser knows all options, whatever the command: flags may come before the command's name, and a
flag of another command gets a better error than "unknown". What belongs to which command is checked
afterwards (`_check_belonging`), from the same table.

Before argparse sees them, arguments are brought to one form:

    --switch=false            --no-switch
    -C -, --continue          --resume, as aria2c, wget and curl call it
    everything after --       operands

Values stay text. Their readers, in the table of options, run when settings are made, so that flags
and environment variables are read by the same code. Neither the environment nor the disk is read
here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from pgetpy.cli.command_table import CACHE_COMMANDS, COMMANDS, TOP_COMMANDS, usage_of
from pgetpy.cli.option_table import COMMON, FLAGS, GROUPS, OPTIONS
from pgetpy.core.text.values import read_bool
from pgetpy.errors import UsageError
from pgetpy.settings.options import REPORT, Option, Texts

# A command with at most this many flags always shows all of them.
_FEW_FLAGS = 14
_ENVIRONMENT = """\
Most flags can also be set in the environment: --chunk-size is PGET_CHUNK_SIZE. Every
switch has a --no- form. PGET_HEADERS (a JSON object) holds request headers. HTTP_PROXY,
HTTPS_PROXY, ALL_PROXY and NO_PROXY are used."""
_STATUS = """\
Exit status: 0 success, 1 failure, 2 usage error, 130 or 143 interrupted (repeat the
command to continue)."""


_OFFSET = re.compile(r"(?:-C|--continue-at)(?:(?:(?<=-C)=?|=)(.+))?")
_CONTINUE = re.compile(r"--(no-)?continue(?==|\Z)")


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        command: a key of COMMANDS.
        operands: the arguments that are not flags, without the command.
        values: the text of each flag given, `true` or `false` for a switch, a tuple of texts for
            one that may be repeated.
        deprecated: deprecated flags that were given, and what to use instead.
        help, version: show this and nothing else.
    """

    command: str
    operands: tuple[str, ...]
    values: Mapping[str, Texts] = field(repr=False)
    deprecated: Mapping[str, str]
    help: bool
    version: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Return what `argv` (without the program's name) says.

    Raises:
        UsageError: there is a flag that does not exist, lacks its value or does not belong there.
    """
    arguments = list(argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    texts = arguments[:end]
    # Looked for as text first, because few use it and every start pays for this.
    if "-C" in "".join(texts) or "continue" in "".join(texts):
        texts = _translate(texts)
    flags = [_without_value(text) for text in texts]
    namespace, rest = _parser().parse_known_args(flags)
    unknown = next((text for text in rest if text.startswith("-") and text != "-"), None)
    if unknown is not None:
        raise UsageError(_unknown(unknown))
    operands = [*rest, *arguments[end + 1 :]]
    command = _command(operands)
    found = vars(namespace)
    given = [option for option in OPTIONS if option.name in found]
    _check_belonging(command, given)
    values: dict[str, Texts] = {}
    for option in given:
        # A deprecated flag stands for the one that replaces it, unless that is given too.
        text = tuple(found[option.name]) if option.many else found[option.name]
        values.setdefault(option.deprecated or option.name, text)
    return Arguments(
        command,
        tuple(operands),
        values,
        {option.name: option.deprecated for option in given if option.deprecated},
        help=values.get("help") == "true",
        version=values.get("version") == "true",
    )


def help_text(command: str, *, everything: bool = False) -> str:
    """Return the help of a command, a key of COMMANDS.

    Args:
        everything: show all flags of a command that has many; otherwise the common ones.

    Raises:
        UsageError: there is no such command.
    """
    if command not in COMMANDS:
        raise UsageError(f"there is no command {command!r}")
    taken = [option.name for option in OPTIONS if command in option.commands]
    few = everything or len(taken) <= _FEW_FLAGS
    shown = frozenset(taken) if few else COMMON.intersection(taken)
    parser = _parser(command, shown)
    parser.usage = usage_of(command)
    parser.description = COMMANDS[command].about
    below = {"download": TOP_COMMANDS, "cache": CACHE_COMMANDS}.get(command, {})
    if below:
        parser.description += "\n\ncommands:"
    for name, summary in below.items():
        parser.description += f"\n  {name:<12} {summary}"
    if len(shown) < len(taken):
        name = "pgetpy" if command == "download" else f"pgetpy {command}"
        parser.epilog = (
            f"{name} --help all shows {len(taken) - len(shown)} more flags.\n\n{_STATUS}"
        )
    elif command in {"download", "multifile", "ensure", "snapshot"}:
        parser.epilog = f"{_ENVIRONMENT}\n\n{_STATUS}"
    return parser.format_help().rstrip()


def _command(operands: list[str]) -> str:
    """Take the command from the front of `operands`."""
    if not operands or operands[0] not in TOP_COMMANDS:
        return "download"
    command = operands.pop(0)
    if command == "cache" and operands and operands[0] in CACHE_COMMANDS:
        command = f"cache {operands.pop(0)}"
    return command


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse says this of the -z in -fz.
        stray = re.search(r"ignored explicit argument '(.)", message)
        raise UsageError(f"unknown flag: -{stray[1]}" if stray else message)


def _parser(command: str = "", shown: Container[str] = ()) -> argparse.ArgumentParser:
    """Return a parser of all options, or one that has the help of `command` and of `shown`."""
    parser = _Parser(
        prog="pgetpy",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            if command and option.name not in shown:
                continue
            add = partial(group.add_argument, dest=option.name)
            about = option.help if command else ""
            if option.value:
                action = "append" if option.many else "store"
                add(*FLAGS[option.name], action=action, metavar=option.value, help=about)
            else:
                add(*FLAGS[option.name], action="store_const", const="true", help=about)
                negated = f"--no-{option.name}"
                add(negated, action="store_const", const="false", help=argparse.SUPPRESS)
    return parser


def _translate(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with --resume for what aria2c, wget and curl call it."""
    found: list[str] = []
    rest = iter(arguments)
    for text in rest:
        offset = _OFFSET.fullmatch(text)
        if offset is None:
            found.append(_CONTINUE.sub(r"--\1resume", text))
            continue
        value = next(rest, "") if offset[1] is None else offset[1]
        if value not in ("-", "0"):
            raise UsageError(f"{text} {value}: where to go on is found out; write -C -")
        found.append("--resume" if value == "-" else "--no-resume")
    return found


def _without_value(text: str) -> str:
    """Return --switch=true and --switch=false as --switch and --no-switch, all else as it is."""
    flag, equals, value = text.partition("=")
    for option in OPTIONS if equals else ():
        if flag in FLAGS[option.name] and not option.value:
            return f"--{option.name}" if read_bool(value, flag) else f"--no-{option.name}"
    return text


# Flags of other programs that name the file or its folder; errors say what to write instead.
_NAMES_FILE = re.compile(r"-[a-zA-Z]*O|--remote-name(-all)?|-[a-zA-Z]*J|--remote-header-name")
_NAMES_DEST = re.compile(
    r"-O.+|--out|--output-document|-[dP]|--dir|--output-dir|--directory-prefix"
)


def _unknown(text: str) -> str:
    import difflib

    name = text.partition("=")[0]
    if _NAMES_FILE.fullmatch(name):
        return (
            f"unknown flag: {name} (pgetpy URL names the file as the server or the URL does, "
            "pgetpy URL FILE as you like)"
        )
    if _NAMES_DEST.fullmatch(name):
        return f"unknown flag: {name} (write pgetpy URL FILE, or pgetpy URL FOLDER/)"
    close = difflib.get_close_matches(name, [f"--{option.name}" for option in OPTIONS], n=1)
    return f"unknown flag: {name}" + (f" (is {close[0]} meant?)" if close else "")


def _check_belonging(command: str, given: Sequence[Option]) -> None:
    if command not in REPORT:
        return
    for option in given:
        if option.name != "version" and command not in option.commands:
            places = {"download": "a single URL", "multifile": "multifile mode"}
            place = places.get(command, f"pgetpy {command}")
            raise UsageError(f"cannot use --{option.name} with {place}")
    if {"chunk-size", "minimum-chunk-size"} <= {option.name for option in given}:
        raise UsageError(
            "--minimum-chunk-size and --chunk-size cannot be used at the same time, "
            "use --chunk-size instead"
        )
