"""A process that has imported the command line, and forks one child for each run of it.

A run as its own process takes a tenth of a second of processor time, nearly all of it for imports.
A child that is forked here is a process like any other: in a session of its own, with its own
arguments, environment and files, killed by signals, and ended by the interpreter's own exit. Only
what happens before `pgetpy.cli.main` is left out, so tests of the start use a new interpreter.

A child may run code before the command line, have other limits, and a server's children may be
nobody's, as their server then is. Patches in that code must be of what the package looks up when it
calls it, as `os.rename`: all of the package is imported by then.

A request on the socket is JSON, and comes with three descriptors: standard output, standard error,
and where to write the child's identifier and, once it has ended, its exit code. Linux alone.
"""

from __future__ import annotations

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
from typing import NamedTuple

from .processes import demotion, environment

# What runs of the command line import. None of these may start a thread or open a file.
IMPORTED = (
    "pgetpy.cli.dispatch",
    "pgetpy.cli.terminal",
    "pgetpy.cli.results",
    "pgetpy.api",
    "pgetpy.engine.engine",
    "pgetpy.engine.transports.direct",
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
    """One child, with the part of Popen's interface that `processes.Run` uses."""

    def __init__(self, args: Sequence[str], told: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
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
    """

    def __init__(self, *, unprivileged: bool = False) -> None:
        prefix = demotion() if unprivileged else ()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # It outlives this function, and ends when the socket does.
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(self, given: Circumstances, out: int, err: int) -> ForkedRun:
        """Start a child that writes to the descriptors `out` and `err`."""
        request = json.dumps(given._asdict()).encode()
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [request], [out, err, theirs.fileno()])
        return ForkedRun(given.args, ours)

    def stop(self) -> None:
        """End the server; its children go on."""
        self._control.close()
        self._process.wait(30)


_servers: dict[bool, ForkServer] = {}


def fork_server(*, unprivileged: bool = False) -> ForkServer:
    """Return the server of this process for children of that kind, started at the first call."""
    if unprivileged not in _servers:
        _servers[unprivileged] = ForkServer(unprivileged=unprivileged)
    return _servers[unprivileged]


def stop_fork_servers() -> None:
    """End the servers that were started."""
    while _servers:
        _servers.popitem()[1].stop()


def serve(control: socket.socket) -> int:
    """Fork a child for each request until there are no more; in a child, return its exit code."""
    for name in IMPORTED:
        importlib.import_module(name)
    from pgetpy.cli import main

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
            data, given, _, _ = socket.recv_fds(control, _LARGEST, 3)
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
            out, err, told = given
            os.close(out)
            os.close(err)
            os.write(told, b"%d\n" % pid)
            process = os.pidfd_open(pid)
            running[process] = pid, told
            poller.register(process, select.POLLIN)


def become(child: Circumstances, given: Sequence[int]) -> None:
    """Make this process what a new interpreter would be in these circumstances."""
    out, err, told = given
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in (out, err, told):
        os.close(descriptor)
    os.setsid()
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
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
