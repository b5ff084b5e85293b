"""Events of transfers as values: the one vocabulary of progress reports.

Each event names its transfer by `key`, unique within one call. URLs in events are redacted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import PgetError


@dataclass(frozen=True)
class Queued:
    """The call has `files` files to transfer.

    Attributes:
        total: bytes of all of them; None if they are not known beforehand.
    """

    files: int
    total: int | None = None


@dataclass(frozen=True)
class Started:
    """The first answer was accepted.

    Attributes:
        total: the size in bytes; None if the server does not say.
        held: bytes that an earlier run left.
        keeps: whether a later run could resume from what arrives now.
    """

    key: int
    url: str
    dest: str
    total: int | None
    held: int
    keeps: bool = True


@dataclass(frozen=True)
class Progressed:
    """So many bytes have arrived. Sent several times a second; not for a small file of several, all
    of which arrives at once.

    Attributes:
        done: bytes that have arrived. Never falls except after `StartedOver`, and never exceeds
            `total`.
        total: the size in bytes; None if unknown.
        connections: how many connections are receiving.
        bytes_by_source: see `DownloadResult`.
    """

    key: int
    done: int
    total: int | None
    connections: int
    bytes_by_source: dict[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class StartedOver:
    """What was received is useless, for `reason` (a clause); the transfer restarts at 0."""

    key: int
    dest: str
    reason: str


@dataclass(frozen=True)
class Retrying:
    """A request failed with `error` and is repeated in `after` seconds."""

    key: int
    dest: str
    error: PgetError
    after: float


@dataclass(frozen=True)
class Waiting:
    """Nothing arrives, for `reason` (a clause), such as another process on the same file."""

    key: int
    dest: str
    reason: str


@dataclass(frozen=True)
class Remarked:
    """This transfer is done in an unusual way; `remark`, a clause, says how."""

    key: int
    dest: str
    remark: str


@dataclass(frozen=True)
class Verifying:
    """All bytes have arrived, and `done` of `total` are hashed."""

    key: int
    dest: str
    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """The file is complete at its destination."""

    key: int
    result: DownloadResult


@dataclass(frozen=True)
class Failed:
    """The transfer ended with `error`."""

    key: int
    url: str
    dest: str
    error: PgetError


Event: TypeAlias = (
    Queued
    | Started
    | Progressed
    | StartedOver
    | Retrying
    | Waiting
    | Remarked
    | Verifying
    | Finished
    | Failed
)
Report = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Discard an event, where no one asked for progress reports."""
