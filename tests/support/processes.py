"""The command line as a second process, and machines that are poorer than this one.

The child imports the same copy of the package as the tests do, from wherever that is. Children that
run code of the tests import this module too, so that it does without pytest, which takes long.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .waiting import eventually

if TYPE_CHECKING:
    from .fork_server import ForkedRun

PACKAGE = "pgetpy"
COMMAND = (sys.executable, "-m", PACKAGE)
# The end of Python code that goes on as the command line.
THEN_COMMAND = "\nimport sys, pgetpy.cli\nsys.exit(pgetpy.cli.main())"
NOBODY = 65534
_DAC_READ_SEARCH = 2
_KEPT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "XDG_STATE_HOME",
)
# What an interpreter reads when it starts, which a forked child does not.
_FOR_INTERPRETERS = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_")
# Whether runs are forked now.
_forking = False


@contextmanager
def forking() -> Iterator[None]:
    """Have runs of the command line forked meanwhile, see `fork_server`."""
    global _forking  # noqa: PLW0603
    _forking = hasattr(os, "pidfd_open")
    try:
        yield
    finally:
        _forking = False


def forks_for(env: Mapping[str, str] | None) -> bool:
    """Whether a run with `env` is forked now."""
    return _forking and not any(name.startswith(_FOR_INTERPRETERS) for name in env or ())


def code_of(program: Sequence[str]) -> str | None:
    """Return the code of a program that runs some and then is the command line."""
    after_code = len(program) == 3 and program[1] == "-c" and program[2].endswith(THEN_COMMAND)
    return program[2] if after_code else None


@dataclass(frozen=True)
class Ended:
    """What a finished process said; the code is negative for a signal."""

    code: int
    out: str
    err: str


class Run:
    """One process of the command line, started at once; a context manager that leaves none."""

    def __init__(
        self,
        *args: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        unprivileged: bool = False,
        descriptors: int | None = None,
        file_size: int | None = None,
        program: Sequence[str] = COMMAND,
    ) -> None:
        given = [os.fspath(arg) for arg in args]
        command = [*program, *given]
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - closed at exit
        self._err = tempfile.TemporaryFile()  # noqa: SIM115 - closed at exit
        self.process: subprocess.Popen[bytes] | ForkedRun
        code = None if not forks_for(env) else "" if program == COMMAND else code_of(program)
        if code is not None:
            from .fork_server import Circumstances, fork_server

            self.process = fork_server(unprivileged=unprivileged).start(
                Circumstances(
                    given, environment(env), str(cwd or Path.cwd()), code, descriptors, file_size
                ),
                self._out.fileno(),
                self._err.fileno(),
            )
            return
        self.process = subprocess.Popen(
            [*_limits(descriptors, file_size), *(demotion() if unprivileged else ()), *command],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            cwd=cwd,
            env=environment(env),
            start_new_session=True,
        )

    @property
    def out(self) -> str:
        return _text(self._out.fileno())

    @property
    def err(self) -> str:
        return _text(self._err.fileno())

    def wait(self, within: float = 50) -> Ended:
        """The end of it; TimeoutExpired when it does not come."""
        code = self.process.wait(within)
        return Ended(code, self.out, self.err)

    def wait_until(self, condition: Callable[[], object], within: float = 40) -> None:
        """Wait for a condition that must come to hold while the process runs."""

        def probe() -> object:
            holds = condition()
            if not holds and self.process.poll() is not None:
                raise RuntimeError(f"it ended first, with {self.process.returncode}: {self.err}")
            return holds

        eventually(probe, within)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for it to be gone."""
        self.send(signal.SIGKILL)
        self.process.wait(30)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        said = self.err
        self._out.close()
        self._err.close()
        # Not above: it imports logging, and children look at what they have imported.
        from .secrets import holds_secret

        assert error is not None or not holds_secret(said), f"standard error has a secret: {said}"


def run(*args: str | os.PathLike[str], within: float = 50, **options: object) -> Ended:
    """Run the command line to its end; the options are those of ``Run``."""
    with Run(*args, **options) as running:  # type: ignore[arg-type]
        return running.wait(within)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A small environment: no proxy, no setting of the package but those given."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONPATH": str(_package_home()), "PYTHONUNBUFFERED": "1", **(extra or {})}


def _package_home() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RuntimeError(f"{PACKAGE} cannot be imported")
    return Path(found.origin).parent.parent


def _text(descriptor: int) -> str:
    # pread leaves the offset alone, which the child shares and writes at.
    return os.pread(descriptor, 1 << 24, 0).decode(errors="replace")


def _limits(descriptors: int | None, file_size: int | None) -> list[str]:
    """A shell that sets limits and becomes the command: no code runs between fork and exec."""
    orders = [f"ulimit -n {descriptors}"] if descriptors else []
    # In a POSIX shell the unit of -f is 512 bytes.
    orders += [f"ulimit -f {file_size // 512}"] if file_size else []
    return ["/bin/sh", "-c", "; ".join([*orders, 'exec "$@"']), "sh"] if orders else []


def demotion() -> list[str]:
    """A prefix that runs a command as nobody; skips where that cannot be.

    The interpreter may stand in a folder only root may enter, so nobody may read everything where
    the machine allows that; it may write nothing more than nobody may.
    """
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0:
        return []
    if setpriv is None:
        missing("setpriv is not installed")
    prefix = [str(setpriv), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if _bounding_set() & 1 << _DAC_READ_SEARCH:
        prefix += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return prefix


def _bounding_set() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return int(line.split()[1], 16)


@contextmanager
def folder_of_nobody() -> Iterator[Path]:
    """A folder that an unprivileged process may write in and reach."""
    with tempfile.TemporaryDirectory(prefix="nobody-") as name:
        path = Path(name)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        yield path


@contextmanager
def limited_tmpfs(size: int, inodes: int = 0) -> Iterator[Path]:
    """A file system of ``size`` bytes (whole pages); skips where it cannot be mounted.

    ``inodes`` limits how many files it takes, its root included; 0 for no limit.

    With CI=true it fails there instead: a full disk must be tried somewhere.
    """
    with tempfile.TemporaryDirectory(prefix="small-") as name:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "tmpfs", name]
        if not shutil.which("mount"):
            missing("there is no mount")
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            missing(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def missing(why: str) -> None:
    """Skip the test for the lack of something; with CI=true fail it."""
    import pytest

    from .judges import required

    if required():
        pytest.fail(why)
    pytest.skip(why)
