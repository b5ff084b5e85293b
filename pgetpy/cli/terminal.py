"""The process's own streams and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from pgetpy.core.report.text import one_line

STANDARD_OUTPUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


class Terminated(BaseException):
    """SIGTERM arrived. No Exception, as nothing on the way may take it for a failure."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the main thread on SIGTERM, for as long as this lasts.

    Once it, or Ctrl-C, was raised both signals are ignored until the end: who was told to stop says
    so first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        # Supervisors often send it twice; the second may not break into what the first set off.
        # The interpreter complains of one that is ignored when it is already on its way.
        for each in before:
            signal.signal(each, _pass_over)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    signal.signal(signal.SIGTERM, stop)
    # Who starts us in the background has it ignored, and who runs us may see to it himself.
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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _pass_over(_number: int, _frame: object) -> None:
    """Do nothing about a signal."""


def silence_output() -> None:
    """Forget a standard output that nobody reads: the interpreter's last flush would complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        output = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output)
        os.close(nowhere)


def print_line(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_beside(dest: str | None, text: str) -> None:
    """Write a line to the stream that does not get the bytes of `dest`."""
    if dest in STANDARD_OUTPUT:
        say_raw(text)
    else:
        print_line(text)


def say(text: str) -> None:
    """Write a line to standard error in the program's name, made printable."""
    say_raw(f"pgetpy: {one_line(text)}")


def say_raw(text: str) -> None:
    """Write a line that is fit to be shown to standard error; one that is gone is no matter."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
