"""Nowhere: bytes are counted by those who bring them, and thrown away."""

from __future__ import annotations

from pgetpy.core.http.sink import Sink


class NullSink(Sink):
    """Takes everything and keeps nothing."""

    def write(self, pos: int, data: memoryview) -> None:
        pass
