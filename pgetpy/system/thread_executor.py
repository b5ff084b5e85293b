"""The threads as an executor; apart because concurrent.futures imports logging."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pgetpy.system.threads import Workers

P = ParamSpec("P")
T = TypeVar("T")


class WorkersExecutor(concurrent.futures.Executor):
    """The threads of `workers` for libraries that take an executor."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def submit(
        self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Run `work` in a thread."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def done() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._workers.start(done)
        return future
