"""hf_transfer as a way to fetch a file whose sha256 is known, for those who ask for it.

hf_transfer lacks what an attempt guarantees, so each gap is closed from outside:

    it does not tie ranges to a version              the sha256 of the whole is checked
    it never gives up on a silent connection         growth of the file is watched; kill
    it cannot be interrupted                         a process of its own (`hf_transfer_worker`)
    it may send a token to another port of a host    redirects are followed before, and only a URL
                                                     that needs no token is handed to it
    it resumes nothing                               used only where nothing is held

It writes the part file of the usual `FileSink`, which is published by the usual steps. Where it
fails, or cannot be used, the transfer goes on by its own means, and says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys

from pgetpy.core.http.answers import Answer
from pgetpy.core.http.plan import Plan
from pgetpy.core.http.ranges import Spans
from pgetpy.core.http.sink import Sink
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Report
from pgetpy.destinations.file import SMALL, FileDestination
from pgetpy.destinations.sinks.file import FileSink
from pgetpy.engine import hf_transfer_worker
from pgetpy.engine.attempt import Attempt
from pgetpy.engine.authorities import authorities
from pgetpy.engine.context import AttemptCallbacks, EngineContext
from pgetpy.engine.provenance import Provenance
from pgetpy.engine.requests import Route
from pgetpy.engine.transfer import Transfer
from pgetpy.engine.transports.base import Request
from pgetpy.errors.reasons import system_reason
from pgetpy.errors.redact import redact_text
from pgetpy.system import polling
from pgetpy.system.event_loop import wait_uncancelled

# Processes at a time; each has threads, and a connection for each of its `_FILES`.
MOST_CHILDREN = 2
_FILES = 8
# The size of its ranges. Each is kept in memory until it is complete; only then progress shows.
_CHUNK = 4 << 20
# Seconds for the child to end by itself.
_KILL_AFTER = 5.0
# The unit of `st_blocks`.
_BLOCK = 512


class _UnableError(Exception):
    """hf_transfer cannot fetch this file; the argument, a clause, says why."""


class _AnswerAcceptedError(Exception):
    """The first answer has been believed: `.answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class HfTransfer(Transfer):
    """A transfer that hf_transfer carries out where it can.

    It replaces one step of a `Transfer`, fetching. Destination, digest and publishing are the same,
    so a result does not depend on who has fetched it.

    Args:
        turns: limits how many of these run at a time.
    """

    def __init__(
        self,
        context: EngineContext,
        job: Job,
        key: int,
        report: Report,
        *,
        turns: asyncio.Semaphore,
        vetted: bool = False,
    ) -> None:
        super().__init__(context, job, key, report, vetted=vetted)
        self._turns = turns
        self._tried = False  # hf_transfer has written to the part file, or cannot be used
        self._theirs = False  # the bytes there are hf_transfer's: a wrong digest may be its fault

    async def _fetch(self, route: Route) -> Provenance:
        # Bytes of an earlier run are worth more than a faster way.
        if self._tried or self._held:
            return await super()._fetch(route)
        try:
            async with self._turns:
                return await self._by_hf_transfer(route)
        except _UnableError as error:
            # Once begun, the part file holds bytes whose ranges are not known: discard them.
            begun, self._tried = self._tried, True
            reason = f"hf_transfer is not used: {error}"
            if begun:
                await self._start_over(reason)
            else:
                self._report.remark(reason)
        return await super()._fetch(route)

    async def _mismatched(self, actual: str) -> None:
        # Fetch everything again, this time by our own means; the second time it is an error.
        if not self._theirs:
            await super()._mismatched(actual)
            return
        self._theirs = False
        await self._start_over("hf_transfer wrote a file with another checksum")

    async def _by_hf_transfer(self, route: Route) -> Provenance:
        """Fetch by hf_transfer.

        Raises:
            _UnableError: it cannot be used here, or has failed.
        """
        self._check_possible()
        answer = await self._identified(route)
        host = await route.host()
        size = _size_of(answer)
        request = route.request(host, None, None)
        self._check_reachable(request)
        # Opening a file on a network may take long, so not on the loop.
        opening = self._context.workers.submit(lambda: self._begin(answer, Spans()))
        sink = await wait_uncancelled(opening, lambda: None)
        assert isinstance(sink, FileSink)
        self._tried = True
        self._report.started(size, 0, keeps=False)
        try:
            await self._carry_out(_order(request, sink), sink, size)
        except asyncio.CancelledError:
            # It fills the file out of order and keeps no journal: nothing of it can be resumed.
            self._destination.discard()
            raise
        self._theirs = True
        self._counts.add(size, route.source)
        self._counts.connections = max(self._counts.connections, _FILES)
        self._report.stands_at(size, size, 0)
        return Provenance(route.target.url, answer)

    async def _identified(self, route: Route) -> Answer:
        """Ask for the first byte: this shows the size, and moves `route` past the redirects."""

        def begin(answer: Answer, _: Spans) -> Sink:
            raise _AnswerAcceptedError(answer)

        callbacks = AttemptCallbacks(
            begin, lambda _: None, self._report.retrying, self._report.lost
        )
        plan = Plan(chunk_size=1, first=1)
        try:
            return await Attempt(self._context, route, plan, callbacks, self._counts).run()
        except _AnswerAcceptedError as known:
            return known.answer

    async def _carry_out(self, order: bytes, sink: FileSink, size: int) -> None:
        """Have a child write the `size` bytes; when this returns or raises, it has ended.

        Raises:
            _UnableError: it has failed, or stalled.
        """
        child = _start(order)
        said: list[bytes] = []
        try:
            await self._watch(child, sink, size)
        finally:
            ending = self._context.workers.submit(lambda: said.append(_end(child)))
            await wait_uncancelled(ending, lambda: None)
        if child.returncode != hf_transfer_worker.DONE:
            words = redact_text(said[0].decode(errors="replace"))
            raise _UnableError(f"it failed ({words or f'status {child.returncode}'})")
        if os.fstat(sink.fd).st_size != size:
            raise _UnableError("it wrote a file of another size")

    async def _watch(self, child: subprocess.Popen[bytes], sink: FileSink, size: int) -> None:
        """Report progress until the child ends.

        It writes out of order and leaves holes, so the blocks allocated to the file show how much
        has landed, not the file's size.

        Raises:
            _UnableError: it has stalled.
        """
        came, came_at = -1, self._loop.time()
        while child.poll() is None:
            await asyncio.sleep(polling.CHILD)
            done, now = min(size, os.fstat(sink.fd).st_blocks * _BLOCK), self._loop.time()
            if done > came:
                came, came_at = done, now
                self._report.stands_at(done, size, _FILES)
            patience = self._context.settings.stall_timeout
            if now - came_at > patience:
                raise _UnableError(f"it wrote nothing for {patience:g} s")

    # --------------------------------------------------------------------- whether it can be used

    def _check_possible(self) -> None:
        """Check what can be checked without a request.

        Raises:
            _UnableError: hf_transfer cannot do what this job or these settings ask for.
        """
        settings = self._context.settings
        reason = ""
        if not isinstance(self._destination, FileDestination):
            reason = "it only writes files"
        elif importlib.util.find_spec("hf_transfer") is None or not sys.executable:
            reason = "it is not installed"
        elif settings.policy is not None:
            reason = "it cannot enforce a policy"
        elif settings.limit_rate is not None:
            reason = "it cannot enforce --limit-rate"
        if reason:
            raise _UnableError(reason)

    def _check_reachable(self, request: Request) -> None:
        """Check that hf_transfer could make `request` in the same way.

        Raises:
            _UnableError: it could not.
        """
        settings = self._context.settings
        reason = ""
        if any(name.lower() == "authorization" for name, _ in request.headers):
            reason = "the file server wants a token, which hf_transfer is never given"
        elif request.proxy is not None:
            reason = "a proxy is in use"
        elif settings.resolve:
            reason = "it looks up hosts by itself, whatever --resolve says"
        elif request.tls is not None and authorities(settings):
            reason = f"it does not use the certificate authorities of {authorities(settings)[0][0]}"
        if reason:
            raise _UnableError(reason)


def _size_of(answer: Answer) -> int:
    """Return the size of an object that is worth the start of a process.

    Raises:
        _UnableError: it is small, or the server has no ranges, which hf_transfer needs.
    """
    size = answer.identity.total
    if size is None or not answer.ranged:
        raise _UnableError("the server serves no ranges")
    if size <= SMALL:
        raise _UnableError("the file is small")
    return size


def _order(request: Request, sink: FileSink) -> bytes:
    """Return the line of JSON that tells the worker what to do."""
    work = {
        "url": request.url,
        "path": os.path.abspath(sink.part),
        "files": _FILES,
        "chunk": _CHUNK,
        "headers": dict(request.headers),
    }
    return json.dumps(work).encode() + b"\n"


def _start(order: bytes) -> subprocess.Popen[bytes]:
    """Start a worker for `order`.

    Raises:
        _UnableError: no process can be started.
    """
    # Not with -m: that would import modules from the current folder.
    command = [sys.executable, hf_transfer_worker.__file__]
    try:
        child = subprocess.Popen(  # noqa: S603  our own
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            # Ctrl-C goes to the foreground group; this process decides what it means.
            start_new_session=True,
        )
    except OSError as error:
        raise _UnableError(f"its process cannot be started: {system_reason(error)}") from None
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(order)
        child.stdin.flush()
    return child


def _environment() -> dict[str, str]:
    """Return the child's environment, without tokens, and without proxies, as there is none for
    this URL (`_check_reachable`)."""
    secret = ("_proxy", "_token", "_header", "_headers")
    env = {name: text for name, text in os.environ.items() if not name.lower().endswith(secret)}
    return {**env, "NO_PROXY": "*"}


def _end(child: subprocess.Popen[bytes]) -> bytes:
    """End the worker and its fork, and return their output."""
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(_KILL_AFTER)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    # The fork has this pipe as well: the end of file shows that it has ended too.
    with child.stdout as said:
        return said.read()
