"""What a fetch is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgetpy.core.http.answers import Identity
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.jobs import Follower
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Report
from pgetpy.engine.engine import Engine
from pgetpy.weights.access import LookupOptions
from pgetpy.weights.arriving_digest import ArrivingDigest


@dataclass(frozen=True)
class FetchRequest:
    """What one caller wants; see `Fetcher.obtain`."""

    reference: Reference
    lookup: LookupOptions
    engine: Engine
    report: Report
    follow: Follower | None


@dataclass(frozen=True)
class FetchResult:
    """What was fetched.

    Attributes:
        identity: its version at the origin.
        name: what it is called.
        digest: its digest, if computed.
        served_from: `origin` or `remote`.
        scope: of the entry; None for that of the reference.
        details: to keep in the entry's record.
        arriving: has followed the file, if its digest is not known.
    """

    identity: Identity
    name: str
    digest: Checksum | None = None
    served_from: str = "origin"
    scope: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    arriving: ArrivingDigest | None = None
