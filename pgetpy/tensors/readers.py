"""Threads that move bytes to a device as they land: blocks in, whole tensors out.

Tensors are cut into blocks of up to 16 MiB, so that several threads can share a large one, and each
block is moved as soon as all of it has landed. A tensor is given out when its last block has been
moved.
"""

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
from pgetpy.system.threads import start_thread
from pgetpy.tensors.base import Array, DeviceCopier, Wakeup

# Large enough that the overhead of a call does not matter, small enough that several threads can
# share a tensor.
BLOCK = 16 << 20
# Measured: more threads were not faster.
THREADS = min(8, os.cpu_count() or 1)
_Work = tuple[Tensor, Span] | None


class Readers:
    """Moves the bytes of `tensors` with `copier`, each once, in up to `threads` threads.

    The threads are daemons and are not waited for; what they use stays open until they finish.

    They are started on the engine thread, not in the caller's. If an exception is injected into a
    thread while `Thread.start` waits for the new thread, it may strike inside the new one, which
    then never runs while its starter waits for ever.

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
        """Move whatever of `landed` has not been moved yet."""
        fresh = [gap for span in landed for gap in self._offered.missing(*span)]
        for gap in fresh:
            for tensor, block in self._blocks(gap):
                if landed.covers(*block) and not self._offered.covers(*block):
                    self._offered.add(*block)
                    self._queue.put((tensor, block))
                    self._start_one()

    def take(self) -> list[tuple[str, Array]]:
        """Return the names and tensors that have been completed since the last call.

        Raises:
            OSError: landed bytes cannot be read.
            ThreadLimitError: not a single thread could be started.
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
        """Stop moving; the threads end after their present block."""
        self._stopped = True
        for _ in range(self._started):
            self._queue.put(None)

    def _blocks(self, gap: Span) -> Iterator[tuple[Tensor, Span]]:
        """Yield the blocks that `gap` touches. A block is BLOCK bytes of a tensor, or its last
        ones."""
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
        """Note that a block has been moved; the last one completes its tensor."""
        with self._lock:
            self._pending[tensor] -= block.size
            whole = not self._pending[tensor]
        if whole:
            self._whole.append(tensor)
            self._wakeup.tell()
