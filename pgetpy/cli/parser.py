"""The parser, made from the tables of options and commands.

One parser knows all options, whatever the command: flags may come before the command's name, and a
flag of another command gets a better error than "unknown". What belongs to which command is checked
afterwards (`_check_belonging`), from the same table.

    --flag VALUE, --flag=VALUE            a value, which begins with a dash only after =
    -c 4, -c4, -fc4                       the same; short switches may share a dash
    --switch, --no-switch, --switch=false
    -C -, --continue                      --resume, as aria2c, wget and curl call it
    -                                     an operand, like everything after --

Values stay text. Their readers, in the table of options, run when settings are made, so that flags
and environment variables are read by the same code. Neither the environment nor the disk is read
here.

argparse parses the same, but importing it and telling it of each option takes 5 ms at every start;
it only formats the help (`cli.help`). The options of sources are looked at when a flag is not one
of the settings', because they are in the sources' modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from pgetpy.cli.command_table import SUBCOMMANDS, TOP_COMMANDS
from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.text.values import read_bool
from pgetpy.errors import UsageError
from pgetpy.settings.options import OPTIONS, REPORT, Option, Texts

_ON, _OFF = "true", "false"
# Negative numbers, sentences and - for standard output are values although they begin with a dash.
_FLAG = r"-(?!\Z|\d+\Z|\d*\.\d+\Z)\S*\Z"

_OFFSET = r"(?:-C|--continue-at)(?:(?:(?<=-C)=?|=)(.+))?"
_CONTINUE = r"--(no-)?continue(?==|\Z)"


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
    operands: list[str] = []
    given: dict[str, Option] = {}
    found: dict[str, list[str]] = {}
    for item, text in _read(texts):
        if item is None:
            operands.append(text)
        else:
            given[item.name] = item
            found.setdefault(item.name, []).append(text)
    operands += arguments[end + 1 :]
    command = _command(operands)
    options = sorted(given.values(), key=lambda option: bool(option.deprecated))
    _check_belonging(command, options)
    values: dict[str, Texts] = {}
    for option in options:
        text_or_texts = tuple(found[option.name]) if option.many else found[option.name][-1]
        # A deprecated flag stands for the one that replaces it, unless that is given too.
        values.setdefault(option.deprecated or option.name, text_or_texts)
    return Arguments(
        command,
        tuple(operands),
        values,
        {option.name: option.deprecated for option in options if option.deprecated},
        help=values.get("help") == "true",
        version=values.get("version") == "true",
    )


def _command(operands: list[str]) -> str:
    """Take the command from the front of `operands`."""
    if not operands or operands[0] not in TOP_COMMANDS:
        return "download"
    command = operands.pop(0)
    if operands and operands[0] in SUBCOMMANDS.get(command, {}):
        command = f"{command} {operands.pop(0)}"
    return command


def _read(texts: Sequence[str]) -> Iterator[tuple[Option | None, str]]:
    """Yield each option with a text that it was given, and each operand with None.

    Raises:
        UsageError: a flag does not exist, lacks its value, or has one that it does not take.
    """
    rest = iter(texts)
    for text in rest:
        if not text.startswith("-") or text == "-":
            yield None, text
        elif text.startswith("--"):
            name, equals, value = text.partition("=")
            yield _long(name, value if equals else None, rest)
        else:
            yield from _short(text, rest)


def _long(name: str, value: str | None, rest: Iterator[str]) -> tuple[Option, str]:
    """Return the option of a long flag, and its text: `value`, or the next of `rest`."""
    option, word = _flag(name, name)
    if not word:
        return option, _value(option, value, rest)
    if value is None:
        return option, word
    if word == _OFF:
        raise UsageError(f"{name} takes no value")
    return option, _ON if read_bool(value, name) else _OFF


def _short(text: str, rest: Iterator[str]) -> Iterator[tuple[Option, str]]:
    """Yield the options of `text`, a dash and letters, and their texts."""
    for at in range(1, len(text)):
        joined = text[at + 1 :]
        name = f"-{text[at]}"
        option, word = _flag(text if at == 1 else name, name)
        if not word:
            yield option, _value(option, joined.removeprefix("=") if joined else None, rest)
            return
        if joined.startswith("="):
            yield option, _ON if read_bool(joined[1:], name) else _OFF
            return
        yield option, word


def _value(option: Option, value: str | None, rest: Iterator[str]) -> str:
    """Return the text of an option that takes one: `value`, or the next of `rest`."""
    found = next(rest, None) if value is None else value
    if found is None or (value is None and re.match(_FLAG, found)):
        flags = "/".join(filter(None, (option.short, f"--{option.name}")))
        raise UsageError(f"argument {flags}: expected one argument")
    return found


def _flag(text: str, name: str) -> tuple[Option, str]:
    """Return the option of the flag `name`, and the word that it sets if it takes no value.

    Raises:
        UsageError: there is no such flag; it is shown as `text`.
    """
    found = _OWN.get(name) or _all_flags().get(name)
    if found is None:
        raise UsageError(_unknown(text))
    return found


def _flags_of(options: Iterable[Option]) -> dict[str, tuple[Option, str]]:
    """Return the flags of `options`, as they are typed, and what `_flag` returns of them."""
    flags = {}
    for option in options:
        for name in filter(None, (option.short, f"--{option.name}")):
            flags[name] = option, "" if option.value else _ON
        if not option.value:
            flags[f"--no-{option.name}"] = option, _OFF
    return flags


_OWN = _flags_of(option for option in OPTIONS if option.name)


@lru_cache(maxsize=1)
def _all_flags() -> Mapping[str, tuple[Option, str]]:
    """Return the flags of all options, those of the sources included."""
    from pgetpy.cli import option_table

    return _flags_of(option_table.OPTIONS)


def _translate(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with --resume for what aria2c, wget and curl call it."""
    found: list[str] = []
    rest = iter(arguments)
    for text in rest:
        offset = re.fullmatch(_OFFSET, text)
        if offset is None:
            found.append(re.sub(_CONTINUE, r"--\1resume", text))
            continue
        value = next(rest, "") if offset[1] is None else offset[1]
        if value not in ("-", "0"):
            raise UsageError(f"{text} {value}: the offset is found automatically; write -C -")
        found.append("--resume" if value == "-" else "--no-resume")
    return found


# Flags of other programs that name the file or its folder; errors say what to write instead.
_NAMES_FILE = r"-[a-zA-Z]*O|--remote-name(-all)?|-[a-zA-Z]*J|--remote-header-name"
_NAMES_DEST = r"-O.+|--out|--output-document|-[dP]|--dir|--output-dir|--directory-prefix"


def _unknown(text: str) -> str:
    import difflib

    from pgetpy.cli.option_table import OPTIONS as EVERY_OPTION

    name = text.partition("=")[0]
    if re.fullmatch(_NAMES_FILE, name):
        return (
            f"unknown flag: {name} (pgetpy URL names the file as the server or the URL does, "
            "pgetpy URL FILE as you like)"
        )
    if re.fullmatch(_NAMES_DEST, name):
        return f"unknown flag: {name} (write pgetpy URL FILE, or pgetpy URL FOLDER/)"
    close = difflib.get_close_matches(name, [f"--{option.name}" for option in EVERY_OPTION], n=1)
    return f"unknown flag: {name}" + (f" (did you mean {close[0]}?)" if close else "")


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
