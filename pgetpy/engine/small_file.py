"""A job that may turn out to be a small file, and what is believed of its answer."""

from __future__ import annotations

from pgetpy.core.http.answers import Redirected, is_strong
from pgetpy.core.http.heads import Head
from pgetpy.core.http.small_answers import judge_small, plain_length, stated_whole
from pgetpy.core.http.urls import Link
from pgetpy.core.references.jobs import Job
from pgetpy.destinations.file import SMALL
from pgetpy.destinations.whole_file import WholeFile
from pgetpy.engine.hosts import Host
from pgetpy.engine.provenance import Provenance


class SmallFile:
    """A job that may turn out to be a small file.

    Attributes:
        key: of the job.
        url: of the object, as results show it.
        link: where it is.
        place: where it goes.
        host: of `link`; None if that has to be looked up.
        started: when its path was reserved, in loop time.
        validator, single_stream: what the result says of the answer; `validator` is empty for one
            that a transfer has to judge.
    """

    __slots__ = (
        "_most",
        "host",
        "job",
        "key",
        "link",
        "place",
        "single_stream",
        "started",
        "url",
        "validator",
    )

    def __init__(
        self,
        key: int,
        job: Job,
        url: str,
        link: Link,
        place: WholeFile,
        host: Host | None,
        most: int,
        started: float,
    ) -> None:
        self.key = key
        self.job = job
        self.url = url
        self.link = link
        self.place = place
        self.host = host
        self.started = started
        self.validator = ""
        self.single_stream = False
        self._most = most

    def length_of(self, head: Head) -> int | None:
        """Return the length of the body of `head`, None if a transfer has to receive it."""
        self.validator = ""
        size = stated_whole(head)
        if size is not None and size <= self._most:
            self.validator = "strong" if is_strong(head.headers.get("etag")) else "weak"
            return size
        verified = self.job.checksum is not None
        try:
            answer = judge_small(self.link.url, head, verified=verified, most=self._most)
        except Redirected:
            length = plain_length(head)
            return length if length is not None and length <= SMALL else None
        if answer is None:
            return None
        source = Provenance(self.link.url, answer, answer.whole)
        self.validator, self.single_stream = source.validator, source.single_stream
        return answer.stop

    def is_right(self, body: memoryview) -> bool:
        """Whether `body` has the digest that it should have, if any."""
        checksum = self.job.checksum
        if checksum is None:
            return True
        from pgetpy.engine.hashing import new_hash

        made = new_hash(checksum.algorithm, checksum.prefix)
        if made is None:
            return False
        made.update(body)
        return f"{checksum.algorithm}:{made.hexdigest()}" == str(checksum)
