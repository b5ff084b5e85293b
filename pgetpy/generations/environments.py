"""Python environments of a generation, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from pgetpy.core.generations.manifest import EnvironmentLine, LockedEnvironment
from pgetpy.errors import MissingPackageError

_MISSING = "Python environments cannot be built by this release"


def lock(environment: EnvironmentLine) -> LockedEnvironment:
    """Return `environment` with the versions and hashes of all its packages.

    Raises:
        MissingPackageError: what finds them is not installed.
    """
    raise MissingPackageError(f"{_MISSING}: {environment.name}")


def build(locked: LockedEnvironment, folder: Path) -> None:
    """Build `locked` in `folder`, which exists, is empty, and will get another name.

    Raises:
        MissingPackageError: what builds it is not installed.
    """
    raise MissingPackageError(f"{_MISSING}: {locked.name} in {folder}")
