"""Nowhere: bytes are counted by those who bring them, and thrown away."""

from __future__ import annotations

from pgetpy.core.http.ranges import Spans


class NullSink:
    """Takes everything and keeps nothing."""

    window: None = None

    def __init__(self) -> None:
        self.held = Spans()

    def place(self, pos: int) -> None:
        return None

    def write(self, pos: int, data: memoryview) -> None:
        pass

    def mark(self, start: int, stop: int) -> None:
        pass
