"""Nowhere: bytes are counted by the transport and thrown away, to measure a network."""

from __future__ import annotations

from pgetpy.core.http.sink import Sink


class NullSink(Sink):
    """Takes everything and keeps nothing."""

    def write(self, pos: int, data: memoryview) -> None:
        pass
