"""Every way to write a flag, and what it says."""

from __future__ import annotations

import shlex

import pytest

from pgetpy.cli.command_table import COMMANDS, EXAMPLES
from pgetpy.cli.help import help_text
from pgetpy.cli.parser import parse_arguments
from pgetpy.errors import BadSettingError, UsageError
from pgetpy.settings.options import GROUP_NAMES


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        ("-c 4 u d", {"concurrency": "4"}),
        ("-c4 u d", {"concurrency": "4"}),
        ("-c=4 u d", {"concurrency": "4"}),
        ("--concurrency 4 u d", {"concurrency": "4"}),
        ("u --concurrency=4 d", {"concurrency": "4"}),
        ("u d -c 3 -c 4", {"concurrency": "4"}),
        ("-r -1 u d", {"retries": "-1"}),
        ("--cacert=-x u d", {"cacert": "-x"}),
        ("--cacert= u d", {"cacert": ""}),
        ("-fx u d", {"force": "true", "extract": "true"}),
        ("-fc4 u d", {"force": "true", "concurrency": "4"}),
        ("-fc 4 u d", {"force": "true", "concurrency": "4"}),
        ("-f=false u d", {"force": "false"}),
        ("--force=0 u d", {"force": "false"}),
        ("--force --no-force u d", {"force": "false"}),
        ("-H a:b --header=c:d u d", {"header": ("a:b", "c:d")}),
        ("--hf-token x u d", {"hf-token": "x"}),
        ("--max-chunks 4 u d", {"concurrency": "4"}),
        ("-c 3 --max-chunks 4 u d", {"concurrency": "3"}),
        ("--max-chunks 4 -c 3 u d", {"concurrency": "3"}),
    ],
)
def test_a_flag_may_be_written_in_several_ways(argv: str, values: dict[str, object]) -> None:
    found = parse_arguments(argv.split())
    assert (found.values, found.operands) == (values, ("u", "d"))


def test_a_value_may_be_a_sentence_that_begins_with_a_dash() -> None:
    assert parse_arguments(["-H", "-a: b", "u"]).values == {"header": ("-a: b",)}


def test_what_follows_two_dashes_is_an_operand() -> None:
    found = parse_arguments(["-f", "u", "--", "-c", "--", "d"])
    assert (found.values, found.operands) == ({"force": "true"}, ("u", "-c", "--", "d"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("-c", "argument -c/--concurrency: expected one argument"),
        ("-c -f u d", "argument -c/--concurrency: expected one argument"),
        ("--cacert --force u", "argument --cacert: expected one argument"),
        ("--no-force=true u", "--no-force takes no value"),
        ("-fz u", "unknown flag: -z"),
        ("-z u", "unknown flag: -z"),
        ("--forc u", r"unknown flag: --forc \(did you mean --force\?\)"),
        ("--hf-tokn=x u", r"unknown flag: --hf-tokn \(did you mean --hf-token\?\)"),
        ("-1 u", "unknown flag: -1"),
    ],
)
def test_a_flag_that_makes_no_sense_is_a_usage_error(argv: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_arguments(argv.split())


def test_a_switch_takes_a_word_for_yes_or_no_alone() -> None:
    with pytest.raises(BadSettingError, match="--force 'maybe'"):
        parse_arguments(["--force=maybe", "u"])


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {*GROUP_NAMES, "version"}))
def test_the_help_of_a_command_has_an_example_that_can_be_read(command: str) -> None:
    example = EXAMPLES[command]
    assert example in help_text(command).replace("\n  ", "\n")
    if command == "completion":
        return
    for line in example.splitlines():
        program, *words = shlex.split(line)
        if program == "pgetpy":
            parsed = parse_arguments(words[: words.index(">")] if ">" in words else words)
            assert parsed.command == command


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_of_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # A command to copy stays whole.
    examples = EXAMPLES.get(command, "").splitlines()
    for everything in (False, True):
        lines = help_text(command, everything=everything).splitlines()
        assert [line for line in lines if len(line) > 80 and line[2:] not in examples] == []
