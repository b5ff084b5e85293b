"""One call of the command line: what was asked for, and how its progress is shown."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pgetpy.cli import results
from pgetpy.cli.parser import Arguments
from pgetpy.cli.progress import LogLines, Progress, open_progress
from pgetpy.cli.terminal import Terminated
from pgetpy.settings import CommandOptions, Console, Settings

DONE, FAILED, MISUSED = 0, 1, 2
# 128 and the number of the signal, as shells have it.
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass(frozen=True)
class Call:
    """One run of a command that downloads."""

    arguments: Arguments
    settings: Settings
    console: Console
    options: CommandOptions
    api: Any

    @property
    def to_null(self) -> bool:
        return self.console.output == "null"

    @property
    def extracts(self) -> bool:
        return self.console.output == "tar-extractor"

    @property
    def json(self) -> bool:
        return self.options.json

    def shows(self, level: str) -> bool:
        """Whether a line of `level` is to be printed."""
        return _LEVELS[self.console.log_level] <= _LEVELS[level]


class Stopped(BaseException):
    """A download was interrupted; `sentence` says what is left of it."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, status)
        self.sentence = sentence
        self.status = status


def status_of(signal: BaseException) -> int:
    return TERMINATED if isinstance(signal, Terminated) else INTERRUPTED


@contextlib.contextmanager
def progress_of(
    call: Call, *, keeps: bool, endings: bool = False, again: bool = False
) -> Iterator[Progress]:
    """A Progress that also carries the log lines while it lasts.

    Args:
        keeps: whether what has arrived is of use to a rerun.
        endings: whether nobody else says that a file is complete.
        again: whether a rerun may name what is finished once more.

    Raises:
        Stopped: it was interrupted.
    """
    mode = call.console.progress
    if mode == "auto" and not call.shows("info"):
        mode = "none"
    progress = open_progress(
        mode,
        stream=sys.stderr,
        is_terminal=bool(sys.stderr and sys.stderr.isatty()),
        rows=shutil.get_terminal_size().lines,
        endings=endings or not call.shows("info"),
    )
    try:
        with progress, _logging_to(progress, _LEVELS[call.console.log_level]):
            yield progress
    except (KeyboardInterrupt, Terminated) as signal:
        keeps = keeps and call.settings.resume and not call.to_null
        sentence = results.interrupted_line(
            progress.tally, keeps=keeps, overwrites=again or call.settings.force
        )
        raise Stopped(sentence, status_of(signal)) from None


@contextlib.contextmanager
def _logging_to(progress: Progress, level: int) -> Iterator[None]:
    logger = logging.getLogger("pgetpy")
    handler = LogLines(progress)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
