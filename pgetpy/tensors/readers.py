"""Threads that have bytes moved as they land: blocks in, whole tensors out."""

from __future__ import annotations

import os
import queue
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator

from pgetpy.core.http.ranges import Span, Spans
from pgetpy.core.weights.safetensors import Tensor
from pgetpy.errors import ThreadLimitError
from pgetpy.system.event_loop import begin
from pgetpy.system.thread_limit import start_thread
from pgetpy.tensors.base import Array, DeviceCopier, Wakeup

# Large enough to make a call's cost small, small enough that several threads share a tensor.
BLOCK = 16 << 20
# More threads gain nothing.
THREADS = min(8, os.cpu_count() or 1)
_Work = tuple[Tensor, Span] | None


class Readers:
    """Moves the bytes of `tensors` by `copier`, each once, in `threads`.

    They are daemons and are not waited for: what they still hold stays open until they are through.

    The engine's thread starts them. An exception that is injected into a thread while that starts
    another one may reach the other, which never runs then and is waited for without end.

    Attributes:
        unfinished: how many tensors have not been taken yet.
    """

    def __init__(
        self,
        copier: DeviceCopier,
        tensors: Iterable[Tensor],
        wakeup: Wakeup,
        threads: int = THREADS,
    ) -> None:
        self._copier = copier
        self._wakeup = wakeup
        self._pending = {tensor: tensor.stop - tensor.start for tensor in tensors}
        self._whole = deque(tensor for tensor, left in self._pending.items() if not left)
        self.unfinished = len(self._pending)
        filled = (tensor for tensor, left in self._pending.items() if left)
        self._ordered = sorted(filled, key=lambda tensor: tensor.start)
        self._stops = [tensor.stop for tensor in self._ordered]
        self._offered = Spans()
        self._queue: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._threads = threads
        self._started = 0
        self._stopped = False

    def offer(self, landed: Spans) -> None:
        """All of `landed` is there: move what has not been moved."""
        fresh = [gap for span in landed for gap in self._offered.missing(*span)]
        for gap in fresh:
            for tensor, block in self._blocks(gap):
                if landed.covers(*block) and not self._offered.covers(*block):
                    self._offered.add(*block)
                    self._queue.put((tensor, block))
                    self._start_one()

    def take(self) -> list[tuple[str, Array]]:
        """Return the names and tensors that have become whole.

        Raises:
            OSError: what had landed cannot be read.
        """
        if self._failure is not None:
            raise self._failure
        found = []
        while self._whole:
            tensor = self._whole.popleft()
            found.append((tensor.name, self._copier.finish(tensor)))
            self.unfinished -= 1
        return found

    def close(self) -> None:
        """Move nothing any more."""
        self._stopped = True
        for _ in range(self._started):
            self._queue.put(None)

    def _blocks(self, gap: Span) -> Iterator[tuple[Tensor, Span]]:
        """Yield the blocks that `gap` touches: BLOCK bytes of a tensor, or its last ones."""
        for at in range(bisect_right(self._stops, gap.start), len(self._ordered)):
            tensor = self._ordered[at]
            if tensor.start >= gap.stop:
                return
            skipped = max(0, gap.start - tensor.start) // BLOCK * BLOCK
            for start in range(tensor.start + skipped, min(tensor.stop, gap.stop), BLOCK):
                yield tensor, Span(start, min(start + BLOCK, tensor.stop))

    def _start_one(self) -> None:
        if self._started < self._threads:
            self._started += 1
            begin(self._start())

    async def _start(self) -> None:
        try:
            start_thread(self._run, "pgetpy-reader")
        except ThreadLimitError as error:
            if self._started == 1:  # the others only make it faster
                self._fail(error)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None and not self._stopped:
            tensor, block = work
            try:
                self._copier.move(tensor, block)
            except BaseException as error:
                self._fail(error)
                return
            self._count(tensor, block)

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._wakeup.tell()

    def _count(self, tensor: Tensor, block: Span) -> None:
        with self._lock:
            self._pending[tensor] -= block.size
            whole = not self._pending[tensor]
        if whole:
            self._whole.append(tensor)
            self._wakeup.tell()
