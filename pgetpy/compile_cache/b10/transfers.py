"""Transfers by a callback of the program's, which ends early when a disk runs full.

The callback is foreign code and may block anywhere, so it runs in a thread of its own and is
stopped as Ctrl-C would stop it: by an exception that is raised in it. A full disk is noticed by
looking every two seconds, before the system refuses a write: other programs of the container need
the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pgetpy.compile_cache.b10.caches import get_b10_logger
from pgetpy.compile_cache.b10.statuses import (
    AsyncTransferStatus,
    CacheOperationInterrupted,
    TransferStatus,
)
from pgetpy.compile_cache.b10.tasks import start_task
from pgetpy.compile_cache.operations import (
    BackgroundOperation,
    CancelFlag,
    CancelledOperationError,
)
from pgetpy.system import polling
from pgetpy.system.filesystem import free_bytes

# A transfer ends when a disk that it watches has less than this, or less than a tenth of its size.
_LEAST_FREE = 512 << 20
_LEAST_SHARE = 10
_WATCH_SECONDS = 2.0


def transfer(
    source: str | Path,
    dest: str | Path,
    callback: Callable[..., Any],
    *args: Any,
    monitor_local: bool = True,
    monitor_b10fs: bool = True,
    **kwargs: Any,
) -> TransferStatus:
    """Run `callback(source, dest, *args, **kwargs)`, and watch the disks meanwhile.

    Args:
        source: given to the callback.
        dest: given to the callback.
        callback: does the transfer, in a thread. If a disk runs full, or the operation is
            cancelled, an exception is raised in it.
        args, kwargs: further arguments.
        monitor_local: watch the disk of `source`.
        monitor_b10fs: watch the disk of `dest`.
    """
    work = _guarded_callback(source, dest, callback, args, kwargs, monitor_local, monitor_b10fs)
    try:
        work(CancelFlag())
    except CacheOperationInterrupted as error:
        get_b10_logger("").warning("%s", error)
        return TransferStatus.INTERRUPTED
    except Exception as error:
        get_b10_logger("").error("the transfer failed: %s", error)
        return TransferStatus.ERROR
    return TransferStatus.SUCCESS


def start_transfer_async(
    source: str | Path,
    dest: str | Path,
    callback: Callable[..., Any],
    operation_name: str,
    progress_callback: Callable[[str], None] | None = None,
    monitor_local: bool = True,
    monitor_b10fs: bool = True,
    **kwargs: Any,
) -> str:
    """Start `transfer` in the background; return the operation's id."""
    run = _guarded_callback(source, dest, callback, (), kwargs, monitor_local, monitor_b10fs)

    def work(flag: CancelFlag) -> AsyncTransferStatus:
        run(flag)
        return AsyncTransferStatus.SUCCESS

    return start_task(operation_name, work, progress_callback)


def _guarded_callback(
    source: str | Path,
    dest: str | Path,
    callback: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    monitor_local: bool,
    monitor_b10fs: bool,
) -> Callable[[CancelFlag], None]:
    """Return a function that runs the callback in a thread, and has it end early if need be."""
    watched = [Path(source)] if monitor_local else []
    watched += [Path(dest)] if monitor_b10fs else []

    def run(flag: CancelFlag) -> None:
        thread: list[int] = []

        def call(_: CancelFlag) -> None:
            thread.append(threading.get_ident())
            callback(Path(source), Path(dest), *args, **kwargs)

        operation = BackgroundOperation(call)
        looked, short = time.monotonic(), _short_of_room(watched)
        while not (flag.is_set or short or operation.wait(polling.SLICE)):
            if time.monotonic() - looked >= _WATCH_SECONDS:
                looked, short = time.monotonic(), _short_of_room(watched)
        if not operation.done:
            _stop(operation, thread)
            flag.check()
            raise CacheOperationInterrupted("a disk has run full, so the transfer was stopped")
        operation.result  # noqa: B018  raises what the callback raised

    return run


def _stop(operation: BackgroundOperation[None], thread: Sequence[int]) -> None:
    """Raise an exception in the callback's thread, and wait until it has ended.

    As with Ctrl-C, a call into the system that blocks ends first.
    """
    while not operation.done:
        for ident in thread:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(CancelledOperationError)
            )
        operation.wait(1.0)


# Free space is read from the folder above, as source and destination may not exist yet. A path that
# cannot be looked up is not watched: the callback itself will say what is wrong with it.
def _short_of_room(paths: list[Path]) -> bool:
    for path in paths:
        with contextlib.suppress(OSError):
            free, usage = free_bytes(path), shutil.disk_usage(path.parent)
            if free < min(_LEAST_FREE, usage.total // _LEAST_SHARE):
                return True
    return False
