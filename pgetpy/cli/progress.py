"""What a person or a program sees of transfers while they run: bars, plain lines or JSON.

    engine's thread  --event-->    Progress --> Tally (the state of all transfers)
    any thread       --log line-->    |
                                      '--> _show: JSON, plain lines, bars, or nothing

This is the only place that draws. One lock keeps events and log lines from tearing each other. A
terminal or pipe that is gone, or a fault in the drawing, never fails a transfer.

`_Notes` decides which events deserve a line; sixteen retries at one time deserve one.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from pgetpy.cli import results
from pgetpy.cli.invocation import Invocation, Stopped, status_of
from pgetpy.cli.terminal import Terminated
from pgetpy.core.report.events import (
    Event,
    Failed,
    Finished,
    Progressed,
    Queued,
    Remarked,
    Retrying,
    Started,
    StartedOver,
    Waiting,
)
from pgetpy.core.report.results import DownloadResult
from pgetpy.core.report.tally import FileState, Tally
from pgetpy.core.report.text import label, one_line
from pgetpy.core.text.units import format_duration, format_rate, format_size
from pgetpy.errors.redact import redact_text

# Seconds between two plain lines on the state, and between two lines on one transfer's retries.
_PLAIN_INTERVAL = 5.0
_RETRY_INTERVAL = 5.0
# With more files than this, plain lines do not name each finished one.
_FEW_FILES = 50
# OSError: the terminal or the reader of a pipe is gone; ValueError: the stream is closed;
# AttributeError: there was none from the beginning.
_IF_NOT_GONE = contextlib.suppress(OSError, ValueError, AttributeError)


class Progress:
    """Takes events and shows nothing: the base class, and what `--progress none` uses."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self.tally = Tally()
        self._stream = stream
        self._clock = clock
        self._lock = threading.RLock()
        self._closed = False
        self._notes = _Notes()

    def __call__(self, event: Event) -> None:
        with self._lock:
            now = self._clock()
            self.tally.take(event, now)
            if not self._closed:
                try:
                    self._show(event, now)
                except (OSError, ValueError):
                    pass  # the terminal or the reader is gone; another event may get through
                except Exception:  # whatever is wrong here is not the download's fault
                    self._closed = True

    def line(self, text: str) -> None:
        """Write `text` as a line of its own, between what else is drawn."""
        with self._lock, _IF_NOT_GONE:
            self._write(one_line(text))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock, _IF_NOT_GONE:
            self._closed = True
            self._close(self._clock())

    def _show(self, event: Event, now: float) -> None:
        pass

    def _write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _close(self, now: float) -> None:
        pass


class JsonProgress(Progress):
    """One JSON object for each event: its name, `seconds` since the start, and its fields.

    Names and fields are an interface: they are those of the classes in `core/report/events`.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        super().__init__(stream, clock)
        self._start = clock()

    def _show(self, event: Event, now: float) -> None:
        import json

        seconds = round(now - self._start, 3)
        record = {"event": _event_name(event), "seconds": seconds, **vars(event)}
        self._write(json.dumps(record, default=_plain))


class PlainProgress(Progress):
    """Plain lines, where there is no terminal: notes, and the state every five seconds.

    Args:
        endings: whether to report finished files; otherwise the caller does.
        verb: what is done with files.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float],
        *,
        endings: bool = True,
        verb: str = "downloading",
    ) -> None:
        super().__init__(stream, clock)
        self._endings = endings
        self._verb = verb
        self._next = clock() + _PLAIN_INTERVAL

    def _show(self, event: Event, now: float) -> None:
        for text in self._lines(event, now):
            self._write(one_line(text))
        if now >= self._next:
            self._next = now + _PLAIN_INTERVAL
            self._write(one_line(self._state(now)))

    def _lines(self, event: Event, now: float) -> list[str]:
        if isinstance(event, Finished) and self.tally.files > _FEW_FILES:
            return []
        lines = self._notes.lines(event, self.tally, now)
        if isinstance(event, Queued) and event.files > 1:
            lines.append(f"{self._verb} {event.files} files")
        if isinstance(event, Started) and self.tally.files == 1 and not event.held:
            size = "of unknown size" if event.total is None else format_size(event.total)
            lines.append(f"{label(event.dest, event.url)}: {self._verb}, {size}")
        if isinstance(event, Finished) and (self._endings or self.tally.files > 1):
            lines.append(finish_line(event.result))
        return lines

    def _state(self, now: float) -> str:
        tally = self.tally
        if tally.files > 1:
            return ", ".join([f"{tally.ended} of {tally.files} files", *_figures(tally, now)])
        state = next(iter(tally.active.values()), None)
        if state is None:
            return "waiting for the first answer" if not tally.ended else "done"
        return f"{label(state.dest)}: {', '.join(_figures(state, now))}"

    def _close(self, now: float) -> None:
        if self._endings and self.tally.files > 1 and self.tally.ended:
            self._write(self._state(now))


class BarProgress(Progress):
    """Bars on a terminal: one for a file, or one for all of them and one for each in flight."""

    def __init__(
        self, stream: TextIO, clock: Callable[[], float], *, columns: int | None, rows: int | None
    ) -> None:
        from pgetpy.cli.progress_bars import Screen

        super().__init__(stream, clock)
        self._screen = Screen(stream, columns=columns, rows=rows)

    def _show(self, event: Event, now: float) -> None:
        self._screen.draw(self.tally, event, now)
        for text in self._notes.lines(event, self.tally, now):
            self._screen.line(one_line(text))

    def _write(self, text: str) -> None:
        self._screen.line(text)

    def _close(self, now: float) -> None:
        self._screen.close(self.tally, now)


class LogLines(logging.Handler):
    """Sends log records through a Progress, so that bars and log lines do not tear each other.

    Redacted once more: records of other libraries below the logger are not ours to trust.
    """

    def __init__(self, progress: Progress, *, timed: bool = False) -> None:
        super().__init__()
        self._progress = progress
        self._timed = timed

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        when = f"{_clock_time(record)} " if self._timed else ""
        self._progress.line(f"pgetpy: {level}: {when}{redact_text(record.getMessage())}")


def _clock_time(record: logging.LogRecord) -> str:
    """Return the local time of `record` and its logger, to tell waits and rooms apart."""
    moment = time.strftime("%H:%M:%S", time.localtime(record.created))
    return f"{moment}.{int(record.msecs):03d} {record.name.rpartition('.')[2]}:"


class _Notes:
    """Which events are worth a line."""

    def __init__(self) -> None:
        self._last_retry: dict[int, float] = {}
        self._unsaid: dict[int, int] = {}
        self._reasons: dict[int, str] = {}

    def lines(self, event: Event, tally: Tally, now: float) -> list[str]:
        if isinstance(event, (Progressed, Finished)):
            return []  # most events
        if isinstance(event, Started) and event.held:
            of = f" of {format_size(event.total)}" if event.total is not None else ""
            return [f"{label(event.dest, event.url)}: going on from {format_size(event.held)}{of}"]
        if isinstance(event, StartedOver):
            return [f"{label(event.dest)}: starting over: {event.reason}"]
        if isinstance(event, Retrying):
            return self._retry(event, now)
        if isinstance(event, Waiting) and self._reasons.get(event.key) != event.reason:
            self._reasons[event.key] = event.reason
            return [f"{label(event.dest)}: {event.reason}"]
        if isinstance(event, Remarked):
            return [f"{label(event.dest)}: {event.remark}"]
        if isinstance(event, Failed) and tally.files > 1:
            return [f"{label(event.dest, event.url)}: failed: {event.error}"]
        return []

    def _retry(self, event: Retrying, now: float) -> list[str]:
        # Sixteen connections that break together are one event for a reader.
        last = self._last_retry.get(event.key)
        if last is not None and now - last < _RETRY_INTERVAL:
            self._unsaid[event.key] = self._unsaid.get(event.key, 0) + 1
            return []
        self._last_retry[event.key] = now
        unsaid = self._unsaid.pop(event.key, 0)
        more = f" ({unsaid} more since the last such line)" if unsaid else ""
        when = "at once" if event.after < 0.1 else f"in {format_duration(event.after)}"
        name = label(event.dest, getattr(event.error, "url", ""))
        return [f"{name}: {event.error.sentence()}; trying again {when}{more}"]


@contextlib.contextmanager
def progress_of(
    invocation: Invocation,
    *,
    keeps: bool = True,
    into_cache: bool = False,
    verb: str = "downloading",
) -> Iterator[Progress]:
    """Show progress and log lines while the block runs.

    Args:
        invocation: says what is shown.
        keeps: whether a rerun can use what has arrived; said when the run is interrupted.
        into_cache: whether files go to a cache. Then this display reports complete files, since
            the command prints only their paths.
        verb: what is done with files.

    Raises:
        Stopped: the block was interrupted; its sentence says what is left.
    """
    mode = invocation.console.progress
    if sys.stderr is None or (mode == "auto" and not invocation.console.shows("info")):
        mode = "none"
    progress = open_progress(
        mode,
        stream=sys.stderr,
        is_terminal=bool(sys.stderr and sys.stderr.isatty()),
        rows=None,
        endings=into_cache or not invocation.console.shows("info"),
        verb=verb,
    )
    try:
        with progress, _logging_to(progress, invocation.console.log_level.upper()):
            yield progress
    except (KeyboardInterrupt, Terminated) as signal:
        keeps = keeps and invocation.settings.resume and not invocation.console.to_null
        sentence = results.interrupted_line(progress.tally, keeps=keeps)
        raise Stopped(sentence, status_of(signal)) from None


@contextlib.contextmanager
def log_lines(invocation: Invocation) -> Iterator[None]:
    """Print log lines while it lasts, for commands that show no progress."""
    with (
        Progress(sys.stderr, time.monotonic) as progress,
        _logging_to(progress, invocation.console.log_level.upper()),
    ):
        yield


@contextlib.contextmanager
def _logging_to(progress: Progress, level: str) -> Iterator[None]:
    logger = logging.getLogger("pgetpy")
    handler = LogLines(progress, timed=level == "DEBUG")
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


def open_progress(
    mode: str,
    *,
    stream: TextIO,
    is_terminal: bool,
    columns: int | None = None,
    rows: int | None = 24,
    clock: Callable[[], float] = time.monotonic,
    endings: bool = True,
    verb: str = "downloading",
) -> Progress:
    """Return a context manager that is called with events and draws them on `stream`.

    Args:
        mode: what --progress takes; `auto` is bars on a terminal and plain lines elsewhere.
        stream: where to draw, standard error usually.
        is_terminal: whether `stream` is one.
        columns: of the bars; None follows the terminal's width.
        rows: of the terminal; they limit the number of bars.
        clock: returns seconds.
        endings: see `PlainProgress`.
        verb: what is done with files.
    """
    if mode == "none":
        return Progress(stream, clock)
    if mode == "json":
        return JsonProgress(stream, clock)
    if mode == "bar" or (mode == "auto" and is_terminal):
        return BarProgress(stream, clock, columns=columns, rows=rows)
    return PlainProgress(stream, clock, endings=endings, verb=verb)


def finish_line(result: DownloadResult) -> str:
    """Return one line on a file that is complete."""
    if result.skipped:
        return f"{label(result.dest, result.url)}: there already, {format_size(result.size)}"
    moved = result.bytes_per_second and not result.shared
    rate = f", {format_rate(result.bytes_per_second)}" if moved else ""
    by = " by another process" if result.shared else ""
    size, seconds = format_size(result.size), format_duration(result.seconds)
    return f"{label(result.dest, result.url)}: done{by}, {size} in {seconds}{rate}"


def _figures(state: FileState | Tally, now: float) -> list[str]:
    total = state.total
    done = format_size(state.done)
    figures = [f"{done} of {format_size(total)}" if total is not None else done]
    if total and isinstance(state, FileState):
        if state.checking is not None:
            return [f"checking, {int(100 * state.checking)}%"]
        figures = [f"{int(100 * state.done / total)}% of {format_size(total)}"]
    rate = state.rate.value(now)
    if rate is not None:
        figures.append(format_rate(rate))
    if (left := state.remaining_seconds(now)) is not None:
        figures.append(f"{format_duration(left)} left")
    if state.connections:
        figures.append(f"{state.connections} connection{'s' if state.connections > 1 else ''}")
    return figures


def _event_name(event: Event) -> str:
    """Return the event's name in JSON: `started_over` for StartedOver."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def _plain(value: object) -> object:
    """Return what JSON makes of a value that is none of its own types, such as an error."""
    if not isinstance(value, DownloadResult):
        return str(value)
    from dataclasses import asdict

    return asdict(value)
