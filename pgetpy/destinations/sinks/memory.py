"""Bytes in memory, for objects small enough to be held whole."""

from __future__ import annotations

import threading

from pgetpy.core.http.ranges import Spans


class MemorySink:
    """Collects an object in `data`."""

    window: None = None

    def __init__(self) -> None:
        self.held = Spans()
        self.data = bytearray()
        self._lock = threading.Lock()

    def place(self, pos: int) -> None:
        return None

    def write(self, pos: int, data: memoryview) -> None:
        with self._lock:
            missing = pos + len(data) - len(self.data)
            if missing > 0:
                self.data.extend(bytes(missing))
            self.data[pos : pos + len(data)] = data

    def mark(self, start: int, stop: int) -> None:
        with self._lock:
            self.held.add(start, stop)
