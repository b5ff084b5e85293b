"""Many small files of one call, each by a straight line from its request to its name.

    claim the path --> request --> judge the head --> body in a buffer --> hash --> part file
        --> note it in the manifest's journal --> rename --> result

A `Transfer` can do all that may become necessary, and costs several times what such a file needs.
So it is made only where something turns out to be out of the ordinary. It then takes over the
request, with the bytes received so far: nothing is requested twice, and nothing has been decided
that it would decide otherwise.

    before the request    a destination that exists, an archive, mirrors, a signed URL, a policy
    the head              a redirect, an error, a body that is large, coded, or not all there is
    the body              late, cut off, of another digest
    the disk              full, or the file cannot be made

A `Carrier` goes from file to file on one connection, without a task being woken in between. It
holds one of the call's file slots until there is nothing left for it to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from pgetpy.core.http.ranges import EVERYTHING
from pgetpy.core.http.urls import Link, Origin
from pgetpy.core.references.jobs import Job
from pgetpy.core.report.events import Report, Started
from pgetpy.core.report.results import DownloadResult
from pgetpy.destinations.file import SMALL
from pgetpy.destinations.sinks.page_cache import memory_limit
from pgetpy.destinations.whole_file import WholeFiles
from pgetpy.engine.context import EngineContext
from pgetpy.engine.hosts import Host
from pgetpy.engine.requests import Route
from pgetpy.engine.small_file import SmallFile
from pgetpy.engine.small_lane import SmallLane
from pgetpy.engine.transports.failures import failed
from pgetpy.engine.transports.small_request import SmallRequest
from pgetpy.engine.transports.wire import may_stay_open
from pgetpy.errors import PgetError
from pgetpy.errors.redact import redact
from pgetpy.sources.table import parse_reference
from pgetpy.system.logs import RoomLog

_SOURCE = "origin"
_LOG = RoomLog("engine")


class Left(NamedTuple):
    """A file that a carrier has left to others.

    Attributes:
        key: of its job.
        file: for another carrier; None where a transfer has to fetch it.
        begun: the request for it that has been sent; None for none.
    """

    key: int
    file: SmallFile | None = None
    begun: SmallRequest | None = None


class SmallFiles:
    """Fetches the files of one call; `step` is called by several tasks.

    Args:
        context: of the engine.
        lane: counts requests, and has buffers for them.
        jobs: of the call; a job's place is its key.
        report: gets events.
        finished: is told the result of each file.
        fetch: fetches a job by a transfer, which goes on with the request that has been sent.
    """

    def __init__(
        self,
        context: EngineContext,
        lane: SmallLane,
        jobs: Sequence[Job],
        report: Report,
        finished: Callable[[int, DownloadResult], None],
        fetch: Callable[[int, SmallRequest | None], Awaitable[None]],
    ) -> None:
        settings = context.settings
        self.context = context
        self.lane = lane
        self.keys: Iterator[int] = iter(range(len(jobs)))
        self._jobs = jobs
        self._report = report
        self._finished = finished
        self._fetch = fetch
        self._loop = asyncio.get_running_loop()
        # Most files are of one host; finding it takes two hashes of its origin.
        self._origin: Origin | None = None
        self._host: Host | None = None
        self._places = WholeFiles(settings.min_free, context.paths)
        largest = settings.largest
        self._most = SMALL if largest is None else min(SMALL, largest[0])
        self._usable = (
            lane.usable
            and settings.policy is None
            and settings.fleet is None
            and not settings.fsync
            and memory_limit() > SMALL
        )

    async def step(self) -> bool:
        """Fetch the next file, or several of them; whether any were left."""
        key = next(self.keys, None)
        if key is None:
            return False
        left: Left | None = Left(key, self.open(key))
        while left is not None and left.file is not None:
            left = await Carrier(self).run(left.file)
        if left is not None:
            try:
                await self._fetch(left.key, left.begun)
            finally:
                if left.begun is not None:
                    left.begun.close()  # unless a transfer has taken it over
        return True

    def open(self, key: int) -> SmallFile | None:
        """Return the file of job `key`, with its path reserved; None if it is not a plain one."""
        job = self._jobs[key]
        if not self._usable or job.extract or job.mirrors or job.admit or job.dest is None:
            return None
        try:
            sources = self.context.settings.sources
            reference = job.reference or parse_reference(job.url, settings=sources)
        except PgetError:
            return None
        folder = reference.is_folder
        link = job.link or (None if folder else reference.link)
        if link is None or not link.origin.host or link.signer or link.authorization:
            return None
        if not (folder or reference.link):
            return None  # its source says more of it
        place = self._places.claim(job.dest)
        if place is None:
            return None
        url = redact(job.url if folder else reference.text)
        now = self._loop.time()
        return SmallFile(key, job, url, link, place, self._known(link), self._most, now)

    def _known(self, link: Link) -> Host | None:
        """Return the host of `link` if it has been looked up."""
        if link.trusted or link.origin is not self._origin:
            host = self.context.hosts.known(link)
            if host is None or link.trusted:
                return host
            self._origin, self._host = link.origin, host
        return self._host

    def close(self, file: SmallFile) -> None:
        """Release the path of `file`, which is not fetched here."""
        self._places.give_back(file.place)

    def request(self, file: SmallFile, host: Host) -> SmallRequest:
        """Return the request for `file`."""
        route = Route(file.link, self.context.hosts, self.context.settings)
        return self.lane.request(route.request(host, EVERYTHING, None), file.length_of)

    def keep(self, file: SmallFile, begun: SmallRequest) -> bool:
        """Make `file` of the body of `begun`, and report it; False to leave that to a transfer."""
        if not begun.complete or not file.validator:
            return False
        body = begun.body
        if not file.is_right(body):
            return False
        place, follow, size = file.place, file.job.follow, len(body)
        try:
            fd = place.write(body)
            if follow is not None:
                follow.whole(fd, size, place.real)
            _LOG.debug("%s: %s bytes from %s, 0 held already", place.path, size, file.url)
            self._report(Started(file.key, file.url, place.path, size, 0, False))
            place.publish()
        except (OSError, PgetError):
            place.discard()
            if follow is not None:
                follow.lost()
            return False
        except BaseException:
            place.discard()
            raise
        self.lane.slots.note_small()
        self._finished(file.key, self._result(file, size))
        return True

    def _result(self, file: SmallFile, size: int) -> DownloadResult:
        seconds = self._loop.time() - file.started
        checksum, final = file.job.checksum, file.link.url
        return DownloadResult(
            url=file.url,
            final_url=file.url if final == file.job.url else redact(final),
            dest=file.place.path,
            size=size,
            digest=str(checksum) if checksum is not None else None,
            seconds=seconds,
            bytes_per_second=size / seconds if seconds > 0 else 0.0,
            requests=1,
            connections=1,
            validator=file.validator,
            single_stream=file.single_stream,
            verified="none" if checksum is None else "digest",
            bytes_by_source={_SOURCE: size},
        )


class Carrier:
    """Fetches files over one connection, one after the other, until one has to be left to others.

    The first request may have to open the connection, and is waited for by a task. All others are
    sent by the callback that has received the answer before.
    """

    def __init__(self, files: SmallFiles) -> None:
        self._files = files
        self._lane = files.lane
        self._end: asyncio.Future[Left | None] = asyncio.get_running_loop().create_future()
        self._host: Host | None = None
        self._file: SmallFile | None = None
        self._begun: SmallRequest | None = None
        self._born: float | None = None

    async def run(self, file: SmallFile) -> Left | None:
        """Fetch `file` and then others; return the one that has to be fetched another way."""
        self._file = file
        try:
            try:
                host = file.host = await self._files.context.hosts.get(file.link)
            except PgetError:
                return self._left_to_transfer(file, None)
            if not await self._lane.may_ask(host):
                return self._left_to_transfer(file, None)
            self._host = host
            begun = self._begun = self._files.request(file, host)
            await self._lane.receive(host, begun)
            if not self._files.keep(file, begun):
                return self._left_to_transfer(file, begun)
            self._go_on(begun)
            return await self._end
        finally:
            self._stop()

    def _go_on(self, begun: SmallRequest) -> None:
        """Request the next file over the connection of `begun`, whose body has been used."""
        self._file = None
        stream, host, lane = begun.stream, self._host, self._lane
        assert stream is not None
        assert host is not None
        assert begun.head is not None
        usable = not begun.surplus and may_stay_open(begun.head) and stream.silent()
        key = None
        if usable and not lane.slots.crowded and lane.may_ask_now(host):
            key = next(self._files.keys, None)
        file = self._file = self._files.open(key) if key is not None else None
        if key is None or file is None or file.host is not host:
            self._begun = None
            stream.listen(None)
            lane.end(begun)
            self._finish(None if key is None else Left(key, file))
            return
        request = begun.renew(file.link.url, file.length_of)
        if request is None or not stream.send_now(request):
            self._ask_anew(file, begun)
            return
        self._born = lane.begin(host, begun)
        begun.expect(stream, self._ended)

    def _ended(self) -> None:
        """The wait for the answer has ended: take it, or leave it to others."""
        host, file, begun = self._host, self._file, self._begun
        assert host is not None
        assert file is not None
        assert begun is not None
        try:
            self._note_end()
            if begun.failure is not None:
                self._failed(file, begun, begun.failure)
            elif self._files.keep(file, begun):
                self._go_on(begun)
            else:
                if begun.stream is not None:
                    begun.stream.listen(None)
                self._finish(self._left_to_transfer(file, begun))
        except BaseException as error:  # for the task that waits
            if not self._end.done():
                self._end.set_exception(error)

    def _failed(self, file: SmallFile, begun: SmallRequest, failure: Exception) -> None:
        if isinstance(failure, OSError) and begun.reader.received:
            begun.fail(failed(begun.request, failure))
            self._finish(self._left_to_transfer(file, begun))
        else:
            # Closed before it answered, or with leftovers of the answer before.
            self._ask_anew(file, begun)

    def _ask_anew(self, file: SmallFile, begun: SmallRequest) -> None:
        """Have `file` requested over another connection."""
        self._file = self._begun = None
        begun.close()
        self._lane.reuse(begun.buffer)
        self._finish(Left(file.key, file))

    def _left_to_transfer(self, file: SmallFile, begun: SmallRequest | None) -> Left:
        self._file = self._begun = None
        self._files.close(file)
        return Left(file.key, None, begun)

    def _finish(self, left: Left | None) -> None:
        if not self._end.done():
            self._end.set_result(left)

    def _note_end(self) -> None:
        """Have the lane learn from the request that is under way, if there is one."""
        born, self._born = self._born, None
        if born is not None and self._host is not None and self._begun is not None:
            self._lane.leave(self._host, self._begun, born)

    def _stop(self) -> None:
        """Close what is left of a file after an exception."""
        if self._begun is not None:
            self._begun.forget()
            self._note_end()
            self._begun.close()
