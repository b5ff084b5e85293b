"""Waiting for tasks of asyncio and for the work of threads without losing any of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def seen_through(work: asyncio.Future[T], stop: Callable[[], None]) -> T:
    """Return the result of `work`, which a thread does and which may write to a sink.

    When cancelled, call `stop` and wait all the same until it has ended, however often cancelled:
    nothing may be written afterwards.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop()
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # nobody asks for it any more
        raise


async def all_or_none(tasks: Sequence[asyncio.Future[T]]) -> list[T]:
    """Return what `tasks` return; when one fails, or we are cancelled, the others end first."""
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def within(
    seconds: float, work: Coroutine[Any, Any, T], undo: Callable[[T], None] | None = None
) -> T:
    """Return what `work` returns; what it returns too late is given to `undo`.

    Unlike asyncio.wait_for before Python 3.12, this never swallows a cancellation that comes
    together with the result.

    Raises:
        asyncio.TimeoutError: it took longer than `seconds`.
    """
    task = asyncio.ensure_future(work)
    in_time: set[asyncio.Future[T]] = set()
    try:
        in_time, _ = await asyncio.wait([task], timeout=seconds)
    finally:
        if not in_time:
            task.add_done_callback(lambda late: _ended_late(late, undo))
            task.cancel()
            await asyncio.wait([task])
    if not in_time:
        raise asyncio.TimeoutError
    return task.result()


def _ended_late(late: asyncio.Future[T], undo: Callable[[T], None] | None) -> None:
    if not late.cancelled() and late.exception() is None and undo is not None:
        undo(late.result())


async def side_by_side(works: Sequence[Callable[[], Awaitable[T]]], most: int) -> list[T]:
    """Do `works`, `most` at a time; where one fails, or we are cancelled, the others end first."""
    limit = asyncio.Semaphore(most)

    async def done(work: Callable[[], Awaitable[T]]) -> T:
        async with limit:
            return await work()

    return await all_or_none([asyncio.ensure_future(done(work)) for work in works])
