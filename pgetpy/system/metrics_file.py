"""Adds what this process counts to a file that all processes of the machine share.

Each write takes a lock beside the file, reads it, adds, and replaces it by rename, so a scrape
never sees half a file, and no process loses the counts of another. Counts are written once a second
at most while they come in, and at exit. A killed process loses those of its last second.

Metrics never fail a download: what goes wrong is logged once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pgetpy.system.forks import call_in_children
from pgetpy.system.logs import RoomLog

_WRITE_EVERY = 1.0
# Seconds that the last write waits for other processes; each holds the lock for a millisecond.
_PATIENCE = 5.0
_LOOK_EVERY = 0.005

_LOG = RoomLog("system")


class MetricsFile:
    """The counts of this process that are not in the file yet. Thread-safe."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._begin()
        call_in_children(self._begin)

    def _begin(self) -> None:
        # The parent writes what was counted before a fork.
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: dict[tuple[str, str], float] = {}
        self._written_at = float("-inf")
        self._warned = False

    def write_to(self, file: str) -> None:
        """Have counts written to `file` from now on, instead of to any other."""
        path = Path(file).expanduser().absolute()
        if path != self._path:
            self.flush()
            if self._path is None:
                atexit.register(self.flush)
            self._path = path

    def count(self, metric: str, amount: float = 1, label: str = "") -> None:
        """Add `amount` to a counter of `core.report.metrics_text.METRICS`."""
        if self._path is not None and amount:
            with self._lock:
                series = metric, label
                self._pending[series] = self._pending.get(series, 0) + amount

    def note(self, metric: str, value: float, label: str = "") -> None:
        """Set a gauge."""
        if self._path is not None:
            with self._lock:
                self._pending[metric, label] = value

    def flush_if_due(self) -> None:
        """Write what is pending, unless that was done a moment ago or another process is at it."""
        if self._path is not None and time.monotonic() - self._written_at >= _WRITE_EVERY:
            self._flush(patience=0)

    def flush(self) -> None:
        """Write what is pending."""
        self._flush(patience=_PATIENCE)

    def _flush(self, patience: float) -> None:
        path = self._path
        if path is None or not self._pending or not self._writing.acquire(patience > 0):
            return
        try:
            with _locked(path, patience) as locked:
                if locked:
                    self._add_to(path)
                elif patience:
                    self._warn(f"{path} is locked by another process")
        except (OSError, ValueError) as error:
            self._warn(f"{path} cannot be written: {error}")
        finally:
            self._writing.release()

    def _add_to(self, path: Path) -> None:
        from pgetpy.core.report.metrics_text import added, metrics_text, parse_metrics

        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            text = ""
        before = parse_metrics(text)
        if before is None:
            self._warn(f"{path} belongs to another program and stays as it is")
            return
        with self._lock:
            changes, self._pending = self._pending, {}
        try:
            _replace(path, metrics_text(added(before, changes)))
        except OSError:
            with self._lock:
                # What has been counted meanwhile is newer.
                self._pending = added(changes, self._pending)
            raise
        self._written_at = time.monotonic()

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            _LOG.warning("metrics are not written: %s", reason)


METRICS_FILE = MetricsFile()


@contextlib.contextmanager
def _locked(path: Path, patience: float) -> Iterator[bool]:
    """Lock the file beside `path`; yield whether that could be done within `patience` seconds."""
    from pgetpy.system.filesystem import closing_fd

    # Not below *.prom, which is what node exporter reads.
    name = path.with_name(f".{path.name}.lock")
    with closing_fd(os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)) as fd:
        deadline = time.monotonic() + patience
        while not _taken(fd):
            if time.monotonic() >= deadline:
                yield False
                return
            time.sleep(_LOOK_EVERY)
        yield True


def _taken(fd: int) -> bool:
    """Whether the lock is ours, or the file system has none: then counts may be lost, no more."""
    from pgetpy.system.file_locks import try_lock

    try:
        return try_lock(fd)
    except OSError:
        return True


def _replace(path: Path, text: str) -> None:
    """Write `text` to a file of our own that everyone may read, and rename it to `path`."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
