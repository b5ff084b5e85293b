"""What b10_transfer's functions return and raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class LoadStatus(Enum):
    """How a load ended."""

    SUCCESS = "success"
    ERROR = "error"
    DOES_NOT_EXIST = "does_not_exist"
    SKIPPED = "skipped"


class SaveStatus(Enum):
    """How a save ended."""

    SUCCESS = "success"
    ERROR = "error"
    SKIPPED = "skipped"


class TransferStatus(Enum):
    """How a transfer ended."""

    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"


class OperationStatus(Enum):
    """How an operation ended, in one type for all (0.4.1)."""

    SUCCESS = "success"
    ERROR = "error"
    DOES_NOT_EXIST = "does_not_exist"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"


class AsyncTransferStatus(Enum):
    """How far an operation in the background is."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    SUCCESS = "success"
    ERROR = "error"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class B10CacheError(Exception):
    """The cache cannot do what was asked of it; callers know it as b10_transfer's `CacheError`."""


class CacheValidationError(B10CacheError):
    """An argument makes no sense."""


class CacheOperationInterrupted(B10CacheError):  # noqa: N818  the name is b10_transfer's
    """An operation was stopped, because a disk ran full."""


@dataclass
class TransferProgress:
    """How far an operation is; times are of this process's UTC clock."""

    operation_id: str
    operation_name: str
    status: AsyncTransferStatus
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error_message: str | None = None
    progress_callback: Callable[[str], None] | None = None
