"""uv: finds versions and hashes, installs wheels, and knows where Pythons are.

It runs as a program, and takes its indexes and credentials from its own configuration:
UV_INDEX_URL, UV_FIND_LINKS, uv.toml and the like. Only wheels are installed: what a source
distribution becomes depends on the machine that builds it, and its hash says nothing about that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pgetpy.errors import MissingPackageError
from pgetpy.errors.reasons import system_reason
from pgetpy.errors.redact import redact_text

# What would have uv look at the environment that we run in.
_MISLEADING = (
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_COMPILE_BYTECODE",
    "UV_LINK_MODE",
    "UV_NO_CACHE",
    "UV_NO_VERIFY_HASHES",
    "VIRTUAL_ENV",
)
_MOST_WORDS = 2000


@dataclass
class UvError(Exception):
    """uv failed.

    Attributes:
        words: what it said, redacted.
    """

    words: str

    def __str__(self) -> str:
        return self.words


class Uv:
    """The program uv, with a cache of its own.

    Args:
        cache: the folder of its cache; None for the user's own.

    Raises:
        MissingPackageError: uv is not installed.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self._program = _find_uv()

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run uv, and return what it printed.

        Raises:
            UvError: it failed.
        """
        own = {"UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
        if self.cache is not None:
            own["UV_CACHE_DIR"] = str(self.cache)
        environ = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        try:
            done = subprocess.run(  # noqa: S603  a list, not a shell
                [self._program, "--no-progress", *arguments],
                input=stdin,
                env=environ | own,
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise UvError(f"it cannot be started: {system_reason(error)}") from None
        if done.returncode:
            words = " ".join((done.stderr.strip() or done.stdout).split()).removeprefix("error: ")
            raise UvError(redact_text(words)[:_MOST_WORDS] or f"it ended with {done.returncode}")
        return done.stdout

    def find_python(self, version: str) -> str | None:
        """Return the path of a Python `version` on this machine, if there is one."""
        try:
            return self.run("python", "find", "--no-project", version).strip() or None
        except UvError:
            return None

    def compile_requirements(self, requirements: Sequence[str], python: str) -> str:
        """Return a requirements.txt that pins all packages for `python`, with their hashes."""
        return self.run(
            *("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--only-binary", ":all:", "--python-version", python, "--quiet", "-"),
            stdin="".join(f"{each}\n" for each in requirements),
        )

    def install(self, requirements: str, python: str, folder: Path) -> None:
        """Install the packages of a requirements.txt with hashes into `folder`."""
        self.run(
            *("pip", "install", "--target", str(folder), "--python-version", python),
            *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--quiet"),
            *("--link-mode", "hardlink", "-r", "-"),
            stdin=requirements,
        )

    def forget(self, *packages: str) -> None:
        """Remove packages from the cache; without names, all of them."""
        self.run("cache", "clean", "--quiet", *packages)


def _find_uv() -> str:
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        reason = "environments are built by uv, which is not installed"
        raise MissingPackageError(reason, hint="pip install 'pgetpy[env]'")
    return found
