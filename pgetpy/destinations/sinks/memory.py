"""Bytes in memory, for objects that are small enough for it: indexes, headers, listings."""

from __future__ import annotations

import threading

from pgetpy.core.http.sink import Sink


class MemorySink(Sink):
    """Collects an object in `data`; gaps are zeros until their bytes come."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._lock = threading.Lock()

    def write(self, pos: int, data: memoryview) -> None:
        with self._lock:
            missing = pos + len(data) - len(self.data)
            if missing > 0:
                self.data.extend(bytes(missing))
            self.data[pos : pos + len(data)] = data
