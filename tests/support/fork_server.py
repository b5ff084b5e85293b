"""A process that has imported the command line, and forks one child for each run of it.

A run as its own process takes a tenth of a second of processor time, nearly all of it for imports.
A child that is forked here is a process like any other: in a session of its own, with its own
arguments, environment and files, killed by signals, and ended by the interpreter's own exit. Only
what happens before `pgetpy.cli.main` is left out, so tests of the start use a new interpreter.

A child may run other code, have other limits, and read what its parent writes. Each kind of child
has a server of its own: one runs as the user "nobody", and one imports what the tests' code needs.
Patches in that code must be of what the package looks up when it calls it, as `os.rename`: all of
the package is imported by then.

A request on the socket is JSON, and comes with descriptors: where to write the child's identifier
and, once it has ended, its exit code; standard output; standard error; and standard input, unless
that is to be empty. Linux alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from .processes import demotion, environment

# What runs of the command line import. None of these may start a thread or open a file.
IMPORTED = (
    "pgetpy.cli.dispatch",
    "pgetpy.cli.terminal",
    "pgetpy.cli.results",
    "pgetpy.api",
    "pgetpy.engine.engine",
    "pgetpy.engine.transports.direct",
    *(f"pgetpy.sources.{name}" for name in ("azure", "civitai", "data", "huggingface")),
    *(f"pgetpy.sources.{name}" for name in ("plain", "replicate", "s3")),
    "pgetpy.engine.transports.local",
    "unicodedata",
    "pgetpy.archives.restoring",
    "pgetpy.archives.small_members",
    "pgetpy.archives.zip",
    "pgetpy.destinations.tree",
    "pgetpy.cli.cache",
    "pgetpy.cli.ensure",
    "pgetpy.cli.manifest_file",
    "pgetpy.weights.cache",
    "pgetpy.weights.fetch",
    "pgetpy.weights.repository",
    "pgetpy.weights.validate",
)
# And what code of the tests imports.
IMPORTED_BY_TESTS = (
    *IMPORTED,
    "pgetpy.cache.store",
    "pgetpy.generations",
    "tests.support.entries",
    "tests.support.killing",
    "tests.support.weights",
)
_LARGEST = 1 << 20


class Circumstances(NamedTuple):
    """What a child is given.

    Attributes:
        args: of the command line.
        env: all variables.
        cwd: its folder.
        code: Python to run in place of the command line; empty for that.
        descriptors: how many it may open; None for as many as its parent.
        file_size: how many bytes it may write to a file; None for any number.
    """

    args: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    code: str = ""
    descriptors: int | None = None
    file_size: int | None = None


class ForkedRun:
    """One child, with the part of Popen's interface that tests use.

    Attributes:
        stdin, stdout: its streams of text, for one that was started with pipes.
    """

    def __init__(self, args: Sequence[str], told: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        self._told = told
        self.pid = int(self._line())

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(self._line())
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code; TimeoutExpired when it does not come."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout)
            select.select([self._told], [], [], left)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            more = self._told.recv(1)
            if not more:
                raise RuntimeError("the fork server has ended")
            line += more
        return line


class ForkServer:
    """The server as a child of this process; it ends with it.

    Args:
        unprivileged: whether it and its children are nobody.
        imported: the modules that it imports for its children.
    """

    def __init__(self, *, unprivileged: bool, imported: Sequence[str]) -> None:
        prefix = demotion() if unprivileged else ()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # It outlives this function, and ends when the socket does.
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", __name__, str(theirs.fileno()), *imported],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self, given: Circumstances, *streams: int) -> ForkedRun:
        """Start a child with descriptors as its output, errors and, unless it has none, input."""
        request = json.dumps(given._asdict()).encode()
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [request], [theirs.fileno(), *streams])
        return ForkedRun(given.args, ours)

    def start_with_pipes(self, given: Circumstances) -> ForkedRun:
        """Start a child whose input and output are pipes, and whose errors are this process's."""
        their_in, our_in = os.pipe()
        our_out, their_out = os.pipe()
        try:
            child = self.start(given, their_out, 2, their_in)
        finally:
            os.close(their_in)
            os.close(their_out)
        child.stdin, child.stdout = os.fdopen(our_in, "w"), os.fdopen(our_out)
        return child

    def stop(self) -> None:
        """End the server; its children go on."""
        self._control.close()
        self._process.wait(30)


_servers: dict[tuple[bool, bool], ForkServer] = {}


def fork_server(*, unprivileged: bool = False, for_tests: bool = False) -> ForkServer:
    """Return the server of this process for children of that kind, started at the first call."""
    kind = unprivileged, for_tests
    if kind not in _servers:
        imported = IMPORTED_BY_TESTS if for_tests else IMPORTED
        _servers[kind] = ForkServer(unprivileged=unprivileged, imported=imported)
    return _servers[kind]


def stop_fork_servers() -> None:
    """End the servers that were started."""
    while _servers:
        _servers.popitem()[1].stop()


def serve(control: socket.socket, imported: Sequence[str]) -> int:
    """Fork a child for each request until there are no more; in a child, return its exit code."""
    for name in imported:
        importlib.import_module(name)
    from pgetpy.cli import main

    # A child looks through all of this when it ends, and each page that it looks at is copied.
    gc.freeze()

    # Where to tell the exit code of a child, by its descriptor of the process.
    running: dict[int, tuple[int, int]] = {}
    poller = select.poll()
    poller.register(control, select.POLLIN)
    while True:
        for ready, _ in poller.poll():
            if ready != control.fileno():
                poller.unregister(ready)
                pid, told = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                # The test may have ended before it.
                with suppress(BrokenPipeError):
                    os.write(told, b"%d\n" % code)
                os.close(told)
                continue
            data, given, _, _ = socket.recv_fds(control, _LARGEST, 4)
            if not data:
                return 0
            pid = os.fork()
            if not pid:
                for inherited in (control.detach(), *running, *(t for _, t in running.values())):
                    os.close(inherited)
                child = Circumstances(**json.loads(data))
                become(child, given)
                if child.code:
                    exec(child.code, {"__name__": "__main__"})
                    return 0
                return main()
            told, *streams = given
            for stream in streams:
                os.close(stream)
            os.write(told, b"%d\n" % pid)
            process = os.pidfd_open(pid)
            running[process] = pid, told
            poller.register(process, select.POLLIN)


def become(child: Circumstances, given: Sequence[int]) -> None:
    """Make this process what a new interpreter would be in these circumstances."""
    for stream, number in zip(given[1:], (1, 2, 0), strict=False):
        os.dup2(stream, number)
    for descriptor in given:
        os.close(descriptor)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored by all that nohup has started
    if child.descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (child.descriptors, child.descriptors))
    if child.file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (child.file_size, child.file_size))
    os.environ.clear()
    os.environ.update(child.env)
    os.chdir(child.cwd)
    sys.argv = [sys.argv[0], *child.args]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]))
