"""What happens during transfers, as values: the one language of progress.

Every event names its transfer by `key` (unique within one call) and carries redacted URLs only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import PgetError


@dataclass(frozen=True)
class Queued:
    """All files of a call are known: `files` of them."""

    files: int


@dataclass(frozen=True)
class Started:
    """The first answer has been believed; `held` bytes were there from an earlier run.

    `keeps` says whether a later run could go on from what arrives.
    """

    key: int
    url: str
    dest: str
    total: int | None
    held: int
    keeps: bool = True


@dataclass(frozen=True)
class Progressed:
    """`done` of `total` bytes are held; `connections` carry the rest. Several times a second.

    `done` never falls but after `StartedOver`, and never passes `total`.
    """

    key: int
    done: int
    total: int | None
    connections: int


@dataclass(frozen=True)
class StartedOver:
    """What was held is worthless (`reason`, a clause); the transfer begins again at 0."""

    key: int
    dest: str
    reason: str


@dataclass(frozen=True)
class Retrying:
    """A request failed (`error`) and is made again in `after` seconds."""

    key: int
    dest: str
    error: PgetError
    after: float


@dataclass(frozen=True)
class Waiting:
    """Nothing moves for a reason of its own (`reason`, a clause): another process, a check."""

    key: int
    dest: str
    reason: str


@dataclass(frozen=True)
class Remarked:
    """This transfer is done in another way than one would think (`remark`, a clause)."""

    key: int
    dest: str
    remark: str


@dataclass(frozen=True)
class Verifying:
    """All bytes are there; a digest is being computed. `done` of `total` bytes are hashed."""

    key: int
    dest: str
    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """The file stands at its destination."""

    key: int
    result: DownloadResult


@dataclass(frozen=True)
class Failed:
    """This transfer ended with `error`."""

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
