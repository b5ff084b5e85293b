"""A process that has imported the command line, and forks one child for each run of it.

A run as its own process takes a tenth of a second of processor time, nearly all of it for imports.
A child that is forked here is a process like any other: in a session of its own, with its own
arguments, environment and files, killed by signals, and ended by the interpreter's own exit. Only
what happens before `pgetpy.cli.main` is left out, so tests of the start use a new interpreter.

A request on the socket is JSON, and comes with three descriptors: standard output, standard error,
and where to write the child's identifier and, once it has ended, its exit code. Linux alone.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from .processes import environment

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
    """The server as a child of this process; it ends with it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # It outlives this function, and ends when the socket does.
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=environment(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(
        self, args: Sequence[str], env: Mapping[str, str], cwd: Path | None, out: int, err: int
    ) -> ForkedRun:
        """Start the command line with `args`."""
        request = json.dumps({"args": args, "env": dict(env), "cwd": str(cwd or Path.cwd())})
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [request.encode()], [out, err, theirs.fileno()])
        return ForkedRun(args, ours)

    def stop(self) -> None:
        """End the server; its children go on."""
        self._control.close()
        self._process.wait(30)


@lru_cache
def fork_server() -> ForkServer:
    """Return the server of this process, started at the first call."""
    return ForkServer()


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
                become(json.loads(data), given)
                return main()
            out, err, told = given
            os.close(out)
            os.close(err)
            os.write(told, b"%d\n" % pid)
            process = os.pidfd_open(pid)
            running[process] = pid, told
            poller.register(process, select.POLLIN)


def become(request: Mapping[str, object], given: Sequence[int]) -> None:
    """Make this process what a new interpreter would be for `request`."""
    out, err, told = given
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in (out, err, told):
        os.close(descriptor)
    os.setsid()
    args, env, cwd = request["args"], request["env"], request["cwd"]
    assert isinstance(args, list)
    assert isinstance(env, dict)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(str(cwd))
    sys.argv = [sys.argv[0], *args]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
