"""The process's own streams and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from pgetpy.core.text import one_line

STANDARD_OUTPUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


class Terminated(BaseException):
    """SIGTERM arrived. No Exception, as nothing on the way may take it for a failure."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated in the main thread on SIGTERM, for as long as this lasts.

    Once it was raised SIGTERM stays ignored: the process is about to end, and says so first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        # Supervisors often send it twice; the second may not break into what the first set off.
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)


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
