"""One call of the command line: what was asked for, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgetpy.cli.parser import Arguments
from pgetpy.cli.terminal import Terminated
from pgetpy.settings import CommandOptions, Console, Settings

DONE, FAILED, MISUSED = 0, 1, 2
# 128 and the number of the signal, as shells have it.
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143


@dataclass(frozen=True)
class Invocation:
    """One run of a command that downloads."""

    arguments: Arguments
    settings: Settings
    console: Console
    options: CommandOptions
    api: Any


class Stopped(BaseException):
    """A download was interrupted; `sentence` says what is left of it."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, status)
        self.sentence = sentence
        self.status = status


def status_of(signal: BaseException) -> int:
    return TERMINATED if isinstance(signal, Terminated) else INTERRUPTED
