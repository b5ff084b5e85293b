"""Bodies that arrive slowly: one thread moves those of all connections, or two if it is busy.

A fast sender fills the socket faster than a thread empties it, and each splice moves much. A slow
one sends a packet at a time. With a thread for each connection, 64 such threads wake for a few
kilobytes each and queue for the interpreter's lock: that took half of the processor time of a
download. So a thread that has emptied its socket hands the body to a mover, which waits for all of
its sockets at once:

    own thread -- socket emptied --> mover: epoll -- LOW_WATER there, or 50 ms --> splice --+
                                              ^---------------------------------------------+

SO_RCVLOWAT makes the kernel report a socket only once it holds that much. What arrives more slowly
is moved every 50 ms, which is also when a mover sees that `part.stop` has been lowered.

Two movers that write one file spin on its inode's lock, so the second gets bodies of it only while
the first is saturated, that is, hardly ever waits for a socket. An archive, whose sink has a
window, is spread over both: with one mover, a tar took 4 % longer.

Sinks that may sleep keep their own threads: one of them would hold up all other bodies of a mover.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import time
from functools import partial
from typing import NamedTuple

from pgetpy.core.http.sink import Sink
from pgetpy.engine.transports.base import Exchange
from pgetpy.engine.transports.connection import LOW_WATER, Connection
from pgetpy.engine.transports.failures import failed
from pgetpy.engine.transports.on_loop import ended_early
from pgetpy.engine.transports.pipes import PIPES, Pipe
from pgetpy.system.threads import Permits, Workers

# Seconds after which a socket below that mark is emptied as well.
_LOOK_EVERY = 0.05
# A mover that has waited for sockets for a smaller part of this time is saturated.
_LITTLE_WAITING = 0.1
_BUFFER = 256 * 1024


class _Body(NamedTuple):
    """What is left of the body of `exchange`, and who is told when it has landed."""

    exchange: Exchange
    connection: Connection
    sink: Sink
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Movers:
    """The movers of one transport. Its methods are called on the event loop.

    Args:
        workers: lend a thread to each mover that has bodies.
        writers: limits the threads that write at a time; one mover for each of them.
        count: how many.
    """

    def __init__(self, workers: Workers, writers: Permits, count: int) -> None:
        self._workers = workers
        self._movers = [_Mover(writers) for _ in range(count)]

    def take(
        self, exchange: Exchange, connection: Connection, sink: Sink
    ) -> asyncio.Future[None] | None:
        """Move the rest of the body of `exchange` from `connection`, which does not block.

        The result has the error if there is one, and comes early if `exchange` is cancelled. None
        means that no thread or descriptor is free for it.
        """
        loop = asyncio.get_running_loop()
        body = _Body(exchange, connection, sink, loop.create_future(), loop)
        mover = min(self._movers, key=len)
        if sink.window is None:
            mover = next((each for each in self._movers if not each.saturated), mover)
        try:
            starts = mover.add(body)
        except OSError:
            return None
        if starts and self._workers.submit_now(mover.serve) is None:
            mover.give_up(body)
            return None
        return body.done


class _Mover:
    """Moves bodies in one thread, which it has as long as there are any.

    `_lock` makes "there is no body, so the thread ends" and "there is one, and a thread runs"
    exclude each other.

    Attributes:
        saturated: whether it has been moving bytes nearly all the time of late.
    """

    def __init__(self, writers: Permits) -> None:
        self.saturated = False
        self._writers = writers
        self._lock = threading.Lock()
        self._serving = False
        self._bodies: dict[int, _Body] = {}
        self._poller: select.epoll | None = None
        self._buffer = memoryview(bytearray(_BUFFER))

    def __len__(self) -> int:
        return len(self._bodies)

    def add(self, body: _Body) -> bool:
        """Move `body` from now on; whether a thread has to be started that calls `serve`.

        Raises:
            OSError: the process has no descriptor left, or the user may watch no more of them.
        """
        with self._lock:
            if self._poller is None:
                self._poller = select.epoll()
            fd = body.connection.sock.fileno()
            self._bodies[fd] = body
            body.connection.set_low_water(min(body.exchange.part.rest, LOW_WATER))
            try:
                self._poller.register(fd, select.EPOLLIN)
            except OSError:
                del self._bodies[fd]
                raise
            starts, self._serving = not self._serving, True
        return starts

    def give_up(self, body: _Body) -> None:
        """Forget `body`, the only one, as there is no thread."""
        with self._lock:
            self._forget(body)
            self._end()

    # ---------------------------------------------------------------------------- in its thread

    def serve(self) -> None:
        """Move all bodies, until none is left."""
        left = True
        while left:
            with PIPES.borrowed() as pipe:
                left = self._serve_through(pipe)

    def _serve_through(self, pipe: Pipe | None) -> bool:
        """Move bodies until none is left (False), or `pipe` holds bytes of one that has failed."""
        poller = self._poller
        assert poller is not None
        moved: set[int] = set()
        looked_at, waited = time.monotonic(), 0.0
        while pipe is None or pipe.empty:
            with self._lock:
                if not self._bodies:
                    self._end()
                    return False
            before = time.monotonic()
            ready = [fd for fd, _ in poller.poll(_LOOK_EVERY)]
            now = time.monotonic()
            moved.update(ready)
            waited += now - before
            if now - looked_at >= _LOOK_EVERY:
                with self._lock:
                    ready += self._bodies.keys() - moved
                self.saturated = waited < _LITTLE_WAITING * (now - looked_at)
                moved.clear()
                looked_at, waited = now, 0.0
            for fd in ready:
                self._advance(self._bodies[fd], pipe)
                if pipe is not None and not pipe.empty:
                    break
        return True

    def _advance(self, body: _Body, pipe: Pipe | None) -> None:
        """Move what there is of `body`, and tell if that was the end of it."""
        part = body.exchange.part
        try:
            while _wanted(body) and self._move_block(body, pipe):
                pass
            if _wanted(body):
                body.connection.set_low_water(min(part.rest, LOW_WATER))
                return
            body.connection.set_low_water(1)
            deliver = partial(body.done.set_result, None)
        except BaseException as error:
            deliver = partial(body.done.set_exception, error)
        part.waiting = False
        with self._lock:
            self._forget(body)
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits any more
            body.loop.call_soon_threadsafe(lambda: body.done.done() or deliver())

    def _move_block(self, body: _Body, pipe: Pipe | None) -> bool:
        """Move one block of what has come; whether it is worth while to look for more at once."""
        exchange, connection, sink, *_ = body
        part = exchange.part
        place = sink.place(part.pos) if pipe is not None and PIPES.usable else None
        part.waiting = True
        try:
            if pipe is None or place is None:
                most = min(part.rest, len(self._buffer))
                got = connection.sock.recv_into(self._buffer[:most])
            else:
                most = min(part.rest, pipe.size, place.room)
                got = pipe.fill(connection.sock.fileno(), most)
        except BlockingIOError:
            return False
        except OSError as error:
            if exchange.cancelled:
                return False  # the shutdown caused it
            raise failed(exchange.request, error) from error
        if not got:
            if exchange.cancelled:
                return False
            raise ended_early(exchange)
        part.waiting = False
        with self._writers:
            if pipe is None or place is None:
                exchange.store(sink, self._buffer[:got])
            elif not pipe.drain(place.fd, place.offset, exchange.landed):
                PIPES.usable = False  # this file system takes no splice; do not try again
                exchange.store(sink, memoryview(pipe.rest()))
        part.waiting = True
        # Members of an archive may be small, and the next one is in the socket already.
        return got == most < LOW_WATER

    def _forget(self, body: _Body) -> None:
        """Move `body` no more. Needs the lock."""
        fd = body.connection.sock.fileno()
        del self._bodies[fd]
        if self._poller is not None:
            self._poller.unregister(fd)

    def _end(self) -> None:
        """The thread ends. Needs the lock."""
        self._serving = self.saturated = False
        if self._poller is not None:
            self._poller.close()
        self._poller = None


def _wanted(body: _Body) -> bool:
    return not body.exchange.cancelled and body.exchange.part.rest > 0
