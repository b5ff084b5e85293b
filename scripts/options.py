"""docs/options.md, made from the tables of options and commands. `make docs-options` writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pgetpy.cli.command_table import COMMANDS, usage_of
from pgetpy.cli.option_table import FLAGS, GROUPS, OPTIONS, VARIABLES
from pgetpy.settings.options import Option

_HEAD = """\
# Options

This page is generated (`make docs-options`) from `pgetpy/settings/options.py`, the rows of
`pgetpy/sources/` and `pgetpy/cli/command_table.py`. Do not edit it.

A flag overrules its environment variable. An empty variable counts as unset. Every switch has a
`--no-` form. SIZE is a number of bytes, or has a unit such as `10M` or `16MiB`; TIME is a number
of seconds, or has units such as `1m30s`."""
_TAIL = """\
`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` (or in lower case) name proxies. The cache
of huggingface_hub is where it has it: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME` and
`XDG_CACHE_HOME` are used. `PGET_HEADERS` is a JSON object of strings."""


def page() -> str:
    """Return docs/options.md."""
    parts = [_HEAD]
    for title, options in GROUPS.items():
        rows = ((_flag(each), _code(each.variable), each.help) for each in options)
        parts.append(_section(title.capitalize(), ("flag", "variable", "meaning"), rows))
    variables = ((_code(each.variable), each.help) for each in VARIABLES)
    parts += [_section("Environment variables without a flag", ("variable", "meaning"), variables)]
    parts += [_TAIL, "## Commands", *_commands()]
    return "\n\n".join(parts) + "\n"


def _flag(option: Option) -> str:
    value = f" {option.value}" if option.value else ""
    return ", ".join(_code(flag + value) for flag in FLAGS[option.name])


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _section(title: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"## {title}", "", _row(heads), _row("---" for _ in heads), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("*", "\\*") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _commands() -> Iterator[str]:
    for name, command in COMMANDS.items():
        yield f"### `{usage_of(name).splitlines()[0]}`"
        yield command.about
        yield "Flags: " + " ".join(f"`--{each.name}`" for each in OPTIONS if name in each.commands)


if __name__ == "__main__":
    Path("docs/options.md").write_text(page())
