"""A stream that takes the bytes in order, or nothing at all.

Bytes that a reader has taken cannot be taken back. So a stream cannot start over with another
version, nor be resumed by a later run, and a wrong checksum is known only after the reader has had
everything. If a transfer has to begin again, the front of the `OrderedSink` stays: bytes of the
same version before it are skipped, and another version is an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from pgetpy.core.http.answers import Answer, Identity
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.references.checksums import Digest
from pgetpy.destinations.base import Destination
from pgetpy.destinations.sinks.null import NullSink
from pgetpy.destinations.sinks.ordered import OrderedSink
from pgetpy.errors import DestinationError
from pgetpy.system.filesystem import disk_error


class StreamDestination(Destination):
    """A stream that takes the bytes in order, or nothing at all.

    Args:
        target: a path to open, a descriptor, or None to throw the bytes away.
        label: what errors call it.
    """

    obstacle = "no process reads from it yet"
    blocks = True
    passes_on = True

    def __init__(self, target: Path | int | None, label: str) -> None:
        super().__init__(label)
        self._digest: Digest | None = None
        self._target = target
        self._fd = -1
        self._sink: OrderedSink | None = None
        self._version: Identity | None = None

    @property
    def path(self) -> Path:
        return Path(self.label)

    def prepare(self) -> bool:
        """See `Destination.prepare`."""
        if isinstance(self._target, Path) and self._fd < 0:
            return self._open(self._target)
        return True

    @property
    def streamed_digest(self) -> str | None:
        return self._digest.hexdigest() if self._digest is not None else None

    def begin(
        self, answer: Answer, held: Spans, hold: Callable[[], int], *, resumable: bool
    ) -> Sink:
        """See `Destination.begin`.

        Raises:
            DestinationError: what a reader has had cannot be taken back.
        """
        if self._target is None and self.new_digest is None:
            return NullSink()
        if self._sink is None or (self._target is None and not held):
            if self._fd < 0:
                self._fd = self._target if isinstance(self._target, int) else _open_nowhere()
            self._digest = self.new_digest() if self.new_digest is not None else None
            self._sink = OrderedSink(self._fd, digest=self._digest)
        elif self._sink.front > 0 and not (held or self._is_same(answer)):
            raise DestinationError(
                self.label,
                "has already received the beginning of another version and cannot be started over",
                hint="download to a file",
                code=errno.ESPIPE,
            )
        self._version = answer.identity
        return self._sink

    def _is_same(self, answer: Answer) -> bool:
        """Whether `answer` is of the version whose beginning has been written."""
        known = self._version
        return known is not None and known.strong and known.agrees(answer.identity)

    def publish(self, size: int) -> None:
        """See `Destination.publish`."""
        self.keep()

    def keep(self) -> None:
        """See `Destination.keep`."""
        if self._sink is not None:
            self._sink.stop()
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1

    def _open(self, target: Path) -> bool:
        """Open the target; False if it is a FIFO without a reader, on which open would block."""
        try:
            fd = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO and target.is_fifo():
                return False
            raise disk_error(error, target) from error
        os.set_blocking(fd, True)
        self._fd = fd
        return True


def _open_nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
