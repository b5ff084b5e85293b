"""Operations in the background by their ids: how far each is, waiting for it, stopping it.

    NOT_STARTED --> IN_PROGRESS --> SUCCESS, ERROR, CANCELLED or INTERRUPTED

Ids are strings, as callers store them. The last few hundred operations are remembered after their
end, so that a poller that comes late still learns the outcome; an unknown id counts as complete,
which ends every loop that waits for one.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from datetime import datetime, timezone

from pgetpy.compile_cache.b10.statuses import (
    AsyncTransferStatus,
    CacheOperationInterrupted,
    TransferProgress,
)
from pgetpy.compile_cache.operations import (
    BackgroundOperation,
    CancelFlag,
    CancelledOperationError,
)

# Operations that have ended are remembered so many at a time.
_REMEMBERED = 256
# How long a cancellation waits for work that does not look at its flag, as a callback may not.
_CANCEL_SECONDS = 10.0

# Guards the table alone. It is never held while work runs or is waited for, so that an operation
# may itself list the others.
_lock = threading.Lock()
_operations: dict[str, tuple[TransferProgress, BackgroundOperation[None]]] = {}


def start_task(
    name: str,
    work: Callable[[CancelFlag], AsyncTransferStatus],
    progress_callback: Callable[[str], None] | None,
) -> str:
    """Start `work` in the background and note how it goes; return the operation's id."""
    progress = TransferProgress(
        f"{name}_{secrets.token_hex(6)}",
        name,
        AsyncTransferStatus.NOT_STARTED,
        progress_callback=progress_callback,
    )

    def run(flag: CancelFlag) -> None:
        progress.started_at = _now()
        progress.status = AsyncTransferStatus.IN_PROGRESS
        _tell(progress, f"Starting {name}")
        status, message = _outcome(work, flag)
        progress.completed_at = _now()
        progress.error_message = message
        progress.status = status
        _tell(progress, f"{name}: {status.value}")

    # The lock is held while it starts, so that it is known before it can end.
    with _lock:
        _operations[progress.operation_id] = (progress, BackgroundOperation(run))
        ended = [key for key, (_, each) in _operations.items() if each.done]
        for key in ended[: max(0, len(_operations) - _REMEMBERED)]:
            del _operations[key]
    return progress.operation_id


def _outcome(
    work: Callable[[CancelFlag], AsyncTransferStatus], flag: CancelFlag
) -> tuple[AsyncTransferStatus, str | None]:
    try:
        return work(flag), None
    except CancelledOperationError:
        return AsyncTransferStatus.CANCELLED, "cancelled"
    except CacheOperationInterrupted as error:
        return AsyncTransferStatus.INTERRUPTED, str(error)
    except Exception as error:
        return AsyncTransferStatus.ERROR, str(error) or type(error).__name__


def _tell(progress: TransferProgress, words: str) -> None:
    if progress.progress_callback is not None:
        # A callback of the program's must not change how the operation ends.
        with contextlib.suppress(Exception):
            progress.progress_callback(words)


def get_transfer_status(operation_id: str) -> TransferProgress | None:
    """Return how far an operation is; None for an unknown id."""
    found = _operations.get(operation_id)
    return found[0] if found is not None else None


def is_transfer_complete(operation_id: str) -> bool:
    """Whether an operation has ended, however; an unknown one has."""
    found = _operations.get(operation_id)
    return found is None or found[1].done


def wait_for_completion(operation_id: str, timeout: float | None = None) -> bool:
    """Wait until an operation has ended, at most `timeout` seconds; return whether it has.

    Args:
        operation_id: of the operation; an unknown one has not ended, as far as anyone knows.
        timeout: None to wait without a limit.
    """
    found = _operations.get(operation_id)
    return found is not None and found[1].wait(timeout)


def cancel_transfer(operation_id: str) -> bool:
    """Stop an operation and wait until it has stopped.

    False if it had ended before, is unknown, or goes on because it is in a call that blocks.
    """
    found = _operations.get(operation_id)
    return found is not None and found[1].cancel(_CANCEL_SECONDS)


def list_active_transfers() -> dict[str, TransferProgress]:
    """Return the operations that have not ended, by their ids."""
    with _lock:
        return {key: each for key, (each, running) in _operations.items() if not running.done}


def _now() -> datetime:
    return datetime.now(timezone.utc)
