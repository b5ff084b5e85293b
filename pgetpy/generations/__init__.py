"""Generations: a node's numbered, immutable sets of weights and Python environments.

    from pgetpy.generations import Generations, use

Belongs here: folders, links, locks, readers, and what builds and removes generations. What a
manifest says, and which generations may go, is decided in `core/generations`.
"""

from __future__ import annotations

from pgetpy.core.generations.comparison import Change, GenerationDiff
from pgetpy.core.generations.lock import (
    EnvironmentLine,
    FileLine,
    GenerationLock,
    LockedEnvironment,
    LockedRequirement,
)
from pgetpy.core.generations.manifest import GenerationManifest, parse_lock, parse_manifest
from pgetpy.core.generations.record import GenerationRecord
from pgetpy.generations.checking import Fault, VerifiedGeneration
from pgetpy.generations.daemon import DaemonRules, DaemonStatus, GenerationDaemon
from pgetpy.generations.holding import HeldGeneration, hold, use
from pgetpy.generations.locking import lock_manifest
from pgetpy.generations.store import (
    Generations,
    GenerationState,
    KeptGeneration,
    ListedGeneration,
    Pruned,
    Readiness,
    read_lock,
)

__all__ = [
    "Change",
    "DaemonRules",
    "DaemonStatus",
    "EnvironmentLine",
    "Fault",
    "FileLine",
    "GenerationDaemon",
    "GenerationDiff",
    "GenerationLock",
    "GenerationManifest",
    "GenerationRecord",
    "GenerationState",
    "Generations",
    "HeldGeneration",
    "KeptGeneration",
    "ListedGeneration",
    "LockedEnvironment",
    "LockedRequirement",
    "Pruned",
    "Readiness",
    "VerifiedGeneration",
    "hold",
    "lock_manifest",
    "parse_lock",
    "parse_manifest",
    "read_lock",
    "use",
]
