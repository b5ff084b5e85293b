"""Reading a generation: a shared lock for as long as it is used, and the path of its files.

Needs nothing of the cache and writes nothing, so it works in a container that has the folder
mounted read-only. The path is that of the generation itself: what `latest` leads to may change
meanwhile, what is read may not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from pgetpy.core.generations.environment_variables import (
    ENVIRONMENTS_VARIABLE,
    composed_variables,
    wanted_environments,
    wanted_generation,
)
from pgetpy.core.generations.record import ENVIRONMENTS, FILES
from pgetpy.errors import GenerationIncompleteError, UsageError
from pgetpy.generations.environment_check import environment_folders
from pgetpy.generations.layout import LATEST, GenerationPaths
from pgetpy.generations.readers import is_overlay, lock_shared
from pgetpy.system import polling
from pgetpy.system.logs import RoomLog

# The variable by which a container says where generations are.
ROOT_VARIABLE = "PGET_GENERATION_ROOT"
# A pruner takes the name of a tree away before its number. That lasts a moment.
_PATIENCE_SECONDS = 1.0
_LOG = RoomLog("generations")


class HeldGeneration:
    """A generation in use. A context manager; it is not pruned until it is closed.

    Attributes:
        digest: its identity.
        tree: its folder.
        files: the folder of its files.
        fd: the descriptor that has the lock. Programs that inherit it keep the lock.
    """

    def __init__(self, digest: str, tree: Path, fd: int) -> None:
        self.digest = digest
        self.tree = tree
        self.files = tree / FILES
        self.fd = fd

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables by which a program finds its Python environments in here.

        Args:
            environ: PGET_ENV in it names environments, or else the variables of monobase do; these
                do not count in a generation that has no environments. What PYTHONPATH, PATH and
                LD_LIBRARY_PATH hold is searched after them.

        Raises:
            BadEnvironmentError: there is none with such a name.
            UsageError: they are for different versions of Python.
        """
        above = self.tree / ENVIRONMENTS
        if not above.is_dir() and not environ.get(ENVIRONMENTS_VARIABLE):
            return {}
        return composed_variables(environ, environment_folders(above, wanted_environments(environ)))

    def close(self) -> None:
        """End the use. Calling it again has no effect."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> HeldGeneration:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def hold(
    root: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ
) -> HeldGeneration:
    """Keep a generation from being pruned, and return it.

    Args:
        root: the folder of generations; None for PGET_GENERATION_ROOT.
        environ: PGET_GENERATION in it, or else MONOBASE_GEN_ID, is a number or a digest; unset
            means the latest.

    Raises:
        GenerationIncompleteError: it is not there.
        GenerationError: it cannot be read or locked.
        UsageError: nothing names the folder.
    """
    folder = root or environ.get(ROOT_VARIABLE)
    if not folder:
        raise UsageError(f"no folder of generations is named; set {ROOT_VARIABLE}")
    paths = GenerationPaths(folder)
    name = wanted_generation(environ)
    until = time.monotonic() + _PATIENCE_SECONDS
    with paths.errors():
        while True:
            digest = paths.resolve(name)
            fd = lock_shared(paths, digest, name or LATEST) if digest else None
            if fd is not None:
                break
            gone = not digest and (name or paths.latest_number() is None)
            if gone or time.monotonic() > until:
                raise GenerationIncompleteError(str(paths.root), name or LATEST, "is not there")
            # Pruned just now; `latest` leads elsewhere in a moment.
            time.sleep(polling.SLICE)
    held = HeldGeneration(digest, paths.tree(digest), fd)
    if is_overlay(held.tree):
        _LOG.warning(
            "%s is on overlayfs, which has locks of its own: a pruner on the host does not see "
            "that this is read; mount the folder itself (a bind mount, a hostPath)",
            paths.root,
        )
    return held


@contextmanager
def use(
    root: str | os.PathLike[str] | None = None, environ: MutableMapping[str, str] = os.environ
) -> Iterator[Path]:
    """Keep a generation from being pruned within the block; see `hold`.

    Programs that are started in the block find the environments that PGET_ENV names. This process
    does not: Python reads PYTHONPATH when it starts.

    Args:
        root: see `hold`.
        environ: see `hold`. Within the block it has the variables of `HeldGeneration.variables`.

    Yields:
        The folder of its files.
    """
    with hold(root, environ) as held:
        composed = held.variables(environ)
        before = {name: environ.get(name) for name in composed}
        environ.update(composed)
        try:
            yield held.files
        finally:
            for name, value in before.items():
                if value is None:
                    environ.pop(name, None)
                else:
                    environ[name] = value
