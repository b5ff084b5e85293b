"""The process's own streams and signals.

Three things a command line meets that a library does not:

    the reader of standard output leaves (`| head`)    end silently with 141, as other tools do
    a standard stream was closed before we started     put /dev/null there: a file opened later
                                                       would get its number, and our messages
    SIGTERM from a supervisor, perhaps twice           raised once, as Ctrl-C is, so that part files
                                                       are kept and the last line says what is left
    SIGHUP, as the terminal or its connection closes   the same; under nohup it stays ignored

Everything printed is one line of printable characters: names and servers' words may contain escape
sequences, which would move the cursor or set the title of a terminal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator

from pgetpy.core.report.text import one_line
from pgetpy.errors import OutputError
from pgetpy.errors.reasons import system_reason

STANDARD_OUTPUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


# What ends a command in good order, beside Ctrl-C.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Not an Exception: nothing on the way may take it for a failure.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the main thread on SIGTERM and SIGHUP, for as long as this lasts.

    Once it, or Ctrl-C, was raised, these signals are ignored until the end: the process is stopping
    already, and has to say first what is left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}

    def stop(number: int, _frame: object) -> None:
        # Supervisors often send it twice; the second may not break into what the first set off.
        # The interpreter complains of one that is ignored when it is already on its way.
        for each, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(each, _pass_over)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    # A shell starts background jobs with SIGINT ignored, nohup ignores SIGHUP, and an embedding
    # program may have handlers of its own: all are left as they are.
    if before[signal.SIGTERM] is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, stop)
    if before[signal.SIGHUP] is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, stop)
    if before[signal.SIGINT] is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) in (stop, _pass_over):
                signal.signal(number, handler)


def ignore_signals() -> None:
    """The process ends now; the interpreter gives up handlers then, but not what is ignored."""
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, signal.SIG_IGN)


def _pass_over(_number: int, _frame: object) -> None:
    """Do nothing about a signal."""


def silence_output() -> None:
    """Drop a standard output without a reader: the interpreter's last flush would complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        output = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output)
        os.close(nowhere)


def fill_standard_streams() -> None:
    """Put something in the place of standard streams that were closed before we began.

    Files that are opened would get their numbers, and what is meant for the stream would go there.
    Writing to standard output fails afterwards as well.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)


def print_line(text: str) -> None:
    """Write a line to standard output.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: its reader has left.
    """
    try:
        _write_output(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail once more at the end of the process.
        silence_output()
        raise OutputError(system_reason(error)) from None


def _write_output(text: str) -> None:
    output = sys.stdout
    if output is None or output.closed:
        raise OSError(errno.EBADF, "it is closed")
    try:
        output.write(f"{text}\n")
    except UnicodeEncodeError:
        # A path that is not valid UTF-8 is written as its own bytes.
        output.flush()
        output.buffer.write(f"{text}\n".encode(errors="surrogateescape"))
    output.flush()


def output_width() -> int | None:
    """Return the columns of standard output; None if that is not a terminal."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None


def print_beside(dest: str | None, text: str) -> None:
    """Write a line to the stream that does not get the bytes of `dest`."""
    if dest in STANDARD_OUTPUT:
        say_raw(text)
    else:
        print_line(text)


def say(text: str) -> None:
    """Write a line to standard error in the program's name, made printable."""
    say_raw(f"pgetpy: {one_line(text)}")


def complain(text: str) -> None:
    """Write an error to standard error as `say` does, in red where that is wanted."""
    line = f"pgetpy: {one_line(text)}"
    say_raw(f"\x1b[31m{line}\x1b[0m" if _wants_colour() else line)


def _wants_colour() -> bool:
    """Return whether standard error shows colours: a terminal, unless the environment says no.

    NO_COLOR is described at https://no-color.org: any text but the empty one turns colours off.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # standard error is closed
        return False


def say_raw(text: str) -> None:
    """Write a line, made fit to be shown, to standard error; a closed one is ignored."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
