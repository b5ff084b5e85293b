"""Generations: a node's numbered, immutable sets of weights and Python environments.

    from pgetpy.generations import parse_lock, parse_manifest

Belongs here: folders, links, locks, readers, and what builds and removes generations. What a
manifest says, and which generations may go, is decided in `core/generations`.
"""

from __future__ import annotations

from pgetpy.core.generations.manifest import (
    EnvironmentLine,
    FileLine,
    GenerationLock,
    GenerationManifest,
    LockedEnvironment,
    LockedRequirement,
    parse_lock,
    parse_manifest,
)

__all__ = [
    "EnvironmentLine",
    "FileLine",
    "GenerationLock",
    "GenerationManifest",
    "LockedEnvironment",
    "LockedRequirement",
    "parse_lock",
    "parse_manifest",
]
