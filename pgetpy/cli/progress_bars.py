"""Progress bars on a terminal. tqdm draws them, and is imported when the first one is.

    3/12 files     41% |########          | 1.2 GB/~3.1 GB   410 MB/s   5s left  16 conn    bar 0
    model-1.bin    73% |##############    | 730 MB/1.0 GB    ...                            bar 1
    model-2.bin    12% |##                | 120 MB/1.0 GB    ...                            bar 2

A single file has bar 0 alone. Of several, up to eight have a bar, each the one below the total that
was free when the file had been in flight for 0.4 s. A bar stays with its file, so that lines do not
jump; a free one is blank.

tqdm is used as a painter only. Its own counting, timing, locking and monitor thread are switched
off: every line is a `bar_format` of ours with one `{bar}` in it, and `Progress` holds the lock.

Columns are dropped on narrow terminals: connections first, then the time left, then the size.

Widths are recomputed for each picture, since terminals are resized. A line must never be as wide as
the terminal: it would wrap, and the cursor could not be moved back up over it.
"""

from __future__ import annotations

import shutil
from typing import Any, TextIO

from pgetpy.core.report.events import Event, Finished, Queued, Started, StartedOver
from pgetpy.core.report.results import DownloadResult
from pgetpy.core.report.tally import FileState, Tally
from pgetpy.core.report.text import label, one_line, shortened
from pgetpy.core.text.units import format_duration, format_rate, format_size

# Ten pictures a second look smooth and cost nothing.
_INTERVAL = 0.1
_MOST_FILE_BARS = 8
# A bar for a file that is done sooner than this would only flicker.
_OLD_ENOUGH = 0.4
_NARROW, _VERY_NARROW, _TINY = 76, 60, 46


class Screen:
    """The bars of one call: bar 0 is the file or, for several, their total."""

    def __init__(self, stream: TextIO, *, columns: int | None, rows: int | None) -> None:
        self._stream = stream
        self._columns = columns
        self._width = 80
        rows = shutil.get_terminal_size().lines if rows is None else rows
        self._most_file_bars = max(0, min(_MOST_FILE_BARS, rows - 3))
        self._tqdm: Any = None
        self._bars: list[Any] = []
        self._slots: list[int | None] = []
        self._next = float("-inf")
        self._since = 0.0
        self._last: DownloadResult | None = None

    def line(self, text: str) -> None:
        """Write a line above the bars: tqdm clears them, and draws them again below it."""
        if self._bars:
            self._tqdm.write(text, file=self._stream)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def draw(self, tally: Tally, event: Event, now: float) -> None:
        """Draw the state, if 0.1 s have passed or `event` must be seen at once."""
        if isinstance(event, Finished):
            self._last = event.result
        if isinstance(event, StartedOver):
            self._next = now
        first = not self._bars and isinstance(event, (Queued, Started))
        if (first and (tally.files > 1 or tally.active)) or (self._bars and now >= self._next):
            self._since = now if first else self._since
            self._next = now + _INTERVAL
            self._paint(tally, now)

    def close(self, tally: Tally, now: float) -> None:
        """Remove the bars of files, and leave bar 0 as it is at the end.

        From the last bar up, because closing one moves the cursor to its line.
        """
        if not self._bars:
            return
        self._slots = [None] * len(self._slots)
        self._paint(tally, now, closing=True)
        for bar in reversed(self._bars):
            bar.close()
        self._bars = []

    def _paint(self, tally: Tally, now: float, *, closing: bool = False) -> None:
        # Two columns stay free for the ^C that a terminal echoes.
        self._width = width = self._columns or shutil.get_terminal_size().columns - 2
        if tally.files == 1:
            self._paint_single(tally, now, width)
            return
        if not closing:
            self._assign(tally, now)
        for place, key in enumerate(self._slots, start=1):
            state = tally.active.get(key) if key is not None else None
            if state is None:
                self._set(place, "", 0.0)
            else:
                self._set(place, _file_format(state, now, width), state.fraction)
        self._set(0, _total_format(tally, now, now - self._since, width), tally.fraction())

    def _paint_single(self, tally: Tally, now: float, width: int) -> None:
        state = next(iter(tally.active.values()), None)
        if state is not None:
            self._set(0, _file_format(state, now, width), state.fraction)
        elif self._last is not None:
            self._set(0, _finished_format(self._last, width), 1.0)

    def _assign(self, tally: Tally, now: float) -> None:
        """Give free bars to files that have been in flight for a while."""
        self._slots = [key if key in tally.active else None for key in self._slots]
        waiting = [
            state.key
            for state in tally.active.values()
            if state.key not in self._slots and now - state.started_at >= _OLD_ENOUGH
        ]
        for place, key in enumerate(self._slots):
            if key is None and waiting:
                self._slots[place] = waiting.pop(0)
        room = self._most_file_bars - len(self._slots)
        self._slots += waiting[: max(0, room)]

    def _set(self, place: int, bar_format: str, fraction: float) -> None:
        while len(self._bars) <= place:
            self._bars.append(self._new_bar(len(self._bars)))
        bar = self._bars[place]
        if bar_format:
            bar.ncols = self._width
            bar.bar_format = bar_format
            bar.n = fraction
            bar.refresh()
        else:
            bar.clear()
            bar.bar_format = " "

    def _new_bar(self, place: int) -> Any:
        if self._tqdm is None:
            self._tqdm = _tqdm_class()
        bar = self._tqdm(
            total=1.0,
            position=place,
            leave=place == 0,
            file=self._stream,
            ncols=self._width,
            bar_format=" ",
            delay=1e-9,  # nothing is drawn before it is known
        )
        bar.delay = 0
        return bar


def _tqdm_class() -> Any:
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of its own: events come often enough

    # tqdm's own lock reaches for multiprocessing, which costs time and a semaphore.
    Bar.set_lock(_NoLock())
    return Bar


class _NoLock:
    """Excludes nothing: every caller holds the lock of the `Progress` already.

    tqdm would never release a real one after an error while drawing, as when the terminal is gone.
    """

    def acquire(self, *_: object, **__: object) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _file_format(state: FileState, now: float, width: int) -> str:
    name = _padded(label(state.dest), width)
    size = f"{format_size(state.done):>7}"
    rate, left = state.rate.value(now), state.remaining_seconds(now)
    if state.total is None:
        return _escaped(f"{name} {size} {_tail(rate, None, state.connections, width)}")
    if state.checking is not None:
        tail = f"checking {int(100 * state.checking):3d}%"
    else:
        tail = _tail(rate, left, state.connections, width)
    of = f"/{format_size(state.total):<7}" if width >= _TINY else ""
    return _with_bar(name, state.fraction, f"{size}{of} {tail}")


def _total_format(tally: Tally, now: float, seconds: float, width: int) -> str:
    what = f"({tally.failed} failed)" if tally.failed else "files"
    name = _padded(f"{tally.finished}/{tally.files} {what}", width)
    done = f"{format_size(tally.done):>7}"
    if tally.ended >= tally.files:
        return _with_bar(name, 1.0, f"{done} in {format_duration(seconds)}")
    guessed = "~" if tally.total is None else ""
    total = f"/{guessed}{format_size(tally.expected)}" if tally.expected is not None else ""
    left = tally.remaining_seconds(now)
    tail = _tail(tally.rate.value(now), left, tally.connections, width)
    return _with_bar(name, tally.fraction(), f"{done}{total:<9}{tail}")


def _finished_format(result: DownloadResult, width: int) -> str:
    size, seconds = format_size(result.size), format_duration(result.seconds)
    hidden = result.shared or width < _TINY
    rate = "" if hidden else f" {format_rate(result.bytes_per_second)}"
    return _with_bar(
        _padded(label(result.dest, result.url), width), 1.0, f"{size:>7} in {seconds}{rate}"
    )


def _with_bar(name: str, fraction: float, tail: str) -> str:
    # Rounded down: 100% only when all is there.
    percent = min(100, int(100 * fraction))
    return f"{_escaped(name)} {percent:3d}% |{{bar}}| {_escaped(tail).rstrip()}"


def _tail(rate: float | None, left: float | None, connections: int, width: int) -> str:
    parts = [f"{format_rate(rate) if rate is not None else '':>8}"]
    if width >= _VERY_NARROW:
        parts.append(f"{format_duration(left) + ' left' if left is not None else '':>11}")
    if width >= _NARROW:
        parts.append(f"{connections:>3} conn" if connections else " " * 8)
    return " ".join(parts)


def _padded(name: str, width: int) -> str:
    room = max(8, min(28, width // 4))
    return f"{shortened(one_line(name), room):<{room}}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
