"""One call of the command line: what was asked for, and how it ends.

Settings come from three places, and the later one wins: defaults, environment, flags. Everything is
read before the first request, so that a mistake in a flag costs no download.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pgetpy.cli.parser import Arguments
from pgetpy.cli.results import failure_record
from pgetpy.cli.terminal import Terminated, print_beside, print_line
from pgetpy.core.lazy_dataclass import dataclass
from pgetpy.errors import OutputError, PgetError, UsageError
from pgetpy.settings import Console, Settings
from pgetpy.settings.command_options import CommandOptions

DONE, FAILED, MISUSED = 0, 1, 2
# 128 and the number of the signal, as shells have it.
INTERRUPTED, PIPE_CLOSED = 130, 141


@dataclass(frozen=True)
class Invocation:
    """One run of a command.

    Attributes:
        arguments: the command, its operands, and the flags as text.
        settings: what the engine goes by.
        console: what is printed, and how.
        options: what only this run of the command is about, such as `--checksum`.
        api: replaces pgetpy.api in tests; None otherwise.
    """

    arguments: Arguments
    settings: Settings
    console: Console
    options: CommandOptions
    api: Any

    def take(self, counts: Container[int], expected: str, hint: str = "") -> tuple[str, ...]:
        """Return the operands.

        Raises:
            UsageError: there are not as many as `counts` allows; it says what is `expected`.
        """
        operands = self.arguments.operands
        if len(operands) not in counts:
            raise UsageError(f"expected {expected}, got {len(operands) or 'nothing'}{hint}")
        return operands

    def refuse_operands(self) -> None:
        """Raise UsageError if there are operands."""
        for operand in self.arguments.operands:
            raise UsageError(f"pgetpy {self.arguments.command} takes no arguments, got {operand}")

    def tell(self, words: str, record: object) -> None:
        """Print `words` for people, or `record` as a line of JSON for programs.

        Raises:
            OutputError: standard output cannot be written.
        """
        if self.options.json:
            import json

            words = json.dumps(record)
        print_line(words)

    @contextmanager
    def telling_programs(self, about: Mapping[str, Any], dest: str | None = None) -> Iterator[None]:
        """Print a failure for programs, behind the fields of `about`; people get the error alone.

        `dest` is where bytes go, which may be standard output.
        """
        try:
            yield
        except PgetError as error:
            self.tell_programs(error, about, dest)
            raise

    def tell_programs(
        self, error: PgetError, about: Mapping[str, Any], dest: str | None = None
    ) -> None:
        """See `telling_programs`."""
        if self.options.json and not isinstance(error, UsageError):
            import json

            # Why it failed is said in any case.
            with suppress(OutputError):
                print_beside(dest, json.dumps({**about, **failure_record(error)}))


class Stopped(BaseException):
    """A download was interrupted.

    Not an Exception: nothing on the way to `run` may take it for a failure of a file.

    Attributes:
        sentence: what is kept, and how to continue.
        status: 128 and the number of the signal.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, status)
        self.sentence = sentence
        self.status = status


def check_digits(key: str, least: int) -> None:
    """Raise UsageError if a key has fewer than `least` digits, which could mean several."""
    if len(key) < least:
        raise UsageError(f"{key!r} is too short: give at least {least} digits of the key")


def status_of(signal: BaseException) -> int:
    """Return the exit status for Ctrl-C, SIGTERM or SIGHUP."""
    return 128 + signal.number if isinstance(signal, Terminated) else INTERRUPTED
