"""The help of each command, made from the tables of options and commands.

argparse formats it. It is not imported for anything else: see `cli.parser`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Container
from functools import partial

from pgetpy.cli.command_table import COMMANDS, EXAMPLES, SUBCOMMANDS, TOP_COMMANDS, usage_of
from pgetpy.cli.option_table import COMMON, FLAGS, GROUPS, OPTIONS
from pgetpy.errors import UsageError

_WIDEST = 98
# A command with at most this many flags always shows all of them.
_FEW_FLAGS = 14
_ENVIRONMENT = """\
Most flags can also be set in the environment: --chunk-size is PGET_CHUNK_SIZE. Every
switch has a --no- form. PGET_HEADERS (a JSON object) holds request headers. HTTP_PROXY,
HTTPS_PROXY, ALL_PROXY and NO_PROXY are used."""
_STATUS = """\
Exit status: 0 success, 1 failure, 2 usage error, 129, 130 or 143 interrupted (repeat
the command to continue)."""


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
    parser.description = _filled(COMMANDS[command].about)
    below = {"download": TOP_COMMANDS, **SUBCOMMANDS}.get(command, {})
    if below:
        parser.description += "\n\ncommands:"
    for name, summary in below.items():
        parser.description += "\n" + _fill(f"  {name:<14} {summary}", " " * 17)
    parser.description += _example(EXAMPLES.get(command, ""))
    if len(shown) < len(taken):
        name = "pgetpy" if command == "download" else f"pgetpy {command}"
        parser.epilog = (
            f"{name} --help all shows {len(taken) - len(shown)} more flags.\n\n{_filled(_STATUS)}"
        )
    elif command in {"download", "multifile", "ensure", "prefetch", "snapshot"}:
        parser.epilog = f"{_filled(_ENVIRONMENT)}\n\n{_filled(_STATUS)}"
    return parser.format_help().rstrip()


def _filled(text: str) -> str:
    """Return prose in lines that fit the terminal; a line that ends a sentence stays the last."""
    sentences = re.split(r"(?<=\.)\n", text)
    return "\n".join(_fill(" ".join(sentence.split())) for sentence in sentences)


def _fill(line: str, indent: str = "") -> str:
    # The width that argparse has for the flags, up to the one that long lines are read well in.
    width = min(shutil.get_terminal_size().columns - 2, _WIDEST)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _example(commands: str) -> str:
    lines = commands.splitlines()
    title = "\n\nexamples:" if len(lines) > 1 else "\n\nexample:"
    return "".join([title, *(f"\n  {line}" for line in lines)]) if lines else ""


def _parser(command: str, shown: Container[str]) -> argparse.ArgumentParser:
    """Return a parser that has the help of `command` and of the options in `shown`."""
    parser = argparse.ArgumentParser(
        prog="pgetpy",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        add_help=False,
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            if option.name in shown:
                add = partial(group.add_argument, *FLAGS[option.name], help=option.help)
                if option.value:
                    add(metavar=option.value)
                else:
                    add(action="store_true")
    return parser
