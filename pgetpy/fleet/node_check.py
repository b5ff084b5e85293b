"""Tries a cache node as clients will use it, many at a time, and says what is wrong with it.

Some trials need a piece that the node does not have yet. A made-up argument makes any object new
(`_Check.fresh`). A signed URL takes no further argument, and the keys of some nodes leave arguments
out: there these trials are skipped.

Whether a read asked the origin is what the node's headers say, and otherwise how long it took.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pgetpy.core.http.urls import Link, follow, parse_link
from pgetpy.core.nodes import findings
from pgetpy.core.nodes.findings import NodeFinding, NodeVerdict
from pgetpy.core.nodes.nginx_config import MIB, PIECES
from pgetpy.core.nodes.readings import Reading
from pgetpy.errors import PgetError
from pgetpy.fleet.node_probe import NodeProbe

_TOGETHER = 8
_HOPS = 5
_SAMPLE = 64 * 1024
_FIRST = (0, 1)
# Seconds for a piece to arrive at the node, and between looks.
_STORE_SECONDS = 60.0
_LOOK_SECONDS = 0.05
# What a read takes at least longer from an origin than from the node's disk, where only time tells.
_TELLING_SECONDS = 0.1
_NOT_NEW = "not tried, nor locks and secrets: arguments cannot make this object a new one"
_SIGNATURE = re.compile(
    r"(?<=[?&])((?:x-amz-signature|x-goog-signature|signature|sig)=)([^&]+)", re.IGNORECASE
)


@dataclass(frozen=True)
class NodeReport:
    """All findings about a node.

    Attributes:
        findings: in the order of the trials.
        origin_fetches: how many reads asked the origin, as far as the node said so.
    """

    findings: tuple[NodeFinding, ...]
    origin_fetches: int

    @property
    def sound(self) -> bool:
        return all(each.verdict is not NodeVerdict.FAULT for each in self.findings)


def check_node(node: NodeProbe, origin: NodeProbe | None, link: Link) -> NodeReport:
    """Try `node` with the object of `link`.

    Args:
        node: asks the node.
        origin: made for the link's origin; None leaves out comparisons. Redirects are followed.
        link: an object of an origin that the node serves.
    """
    check = _Check(node, origin, link)
    return NodeReport(tuple(check.run()), check.origin_fetches)


@dataclass
class _Check:
    node: NodeProbe
    origin: NodeProbe | None
    link: Link
    origin_fetches: int = 0
    hops: int = 0
    # The answer of the origin to the first byte, and what it was in the end asked for.
    truth: Reading = field(default_factory=Reading)
    target: Link | None = None
    # Seconds that a read takes at most if the node has the piece; None where that cannot be said.
    swift: float | None = None
    piece: int | None = None

    def run(self) -> Iterator[NodeFinding]:
        self.truth = self._ask_origin()
        first = self.read(self.link, _FIRST)
        reach = findings.judge_reach(first, self.truth)
        yield reach
        if reach.verdict is NodeVerdict.FAULT:
            return
        if first.status == 416 or (first.status == 200 and not first.body):
            yield findings.judge_empty(self.read(self.link))
            return
        ranged = findings.judge_range(first, _FIRST)
        yield ranged
        if ranged.verdict is NodeVerdict.FAULT:
            return
        yield findings.judge_version(first, self.truth)
        yield findings.judge_redirect(first, self.hops)
        for finding in self._try_caching(first.size or 0):
            yield finding if self.swift is None else findings.judged_by_time(finding)
        yield from self._try_bytes(first.size or 0, first.headers.get("etag", ""))
        yield from self._try_refusals()

    # ------------------------------------------------------------------------------- requests

    def read(
        self, link: Link, span: tuple[int, int] | None = None, headers: dict[str, str] | None = None
    ) -> Reading:
        reading = self.node.read(link, span, headers)
        self.origin_fetches += reading.hit is False
        return reading

    def had(self, reading: Reading) -> bool | None:
        """Whether the node had what it answered with."""
        if reading.hit is not None or self.swift is None or reading.failure:
            return reading.hit
        return reading.head_seconds < self.swift

    def fresh(self, link: Link | None = None) -> Link:
        """Return a URL of the same object that no node has seen."""
        url = (link or self.link).url
        mark = "&" if urlsplit(url).query else "?"
        return parse_link(f"{url}{mark}pgetpy-check={secrets.token_hex(8)}")

    def stored(self, link: Link) -> bool:
        """Wait until the node has the first piece; whether it has it in the end."""
        deadline = time.monotonic() + _STORE_SECONDS
        while True:
            had = self.had(self.read(link, _FIRST))
            if had is not False or time.monotonic() > deadline:
                return had is not False
            time.sleep(_LOOK_SECONDS)

    def misses(self, readings: Sequence[Reading]) -> int | None:
        if any(each.hit is None for each in readings):
            return None
        return sum(each.hit is False for each in readings)

    def _ask_origin(self) -> Reading:
        """Ask the origin for the first byte, following redirects."""
        if self.origin is None:
            return Reading(failure="it was not asked")
        link, probe = self.link, self.origin
        while True:
            reading = probe.read(link, _FIRST)
            location = reading.headers.get("location")
            if reading.status // 100 != 3 or not location or self.hops >= _HOPS:
                self.target, self.origin = link, probe
                return reading
            self.hops += 1
            try:
                link = follow(link, location)
            except PgetError as error:
                return Reading(failure=str(error))
            at = link.origin
            probe = NodeProbe(at.scheme, at.host, at.port, probe.tls)

    # --------------------------------------------------------------------------------- trials

    def _try_caching(self, size: int) -> Iterator[NodeFinding]:
        link = self.link if self.link.signature else self.fresh()
        cold = self.read(link, _FIRST)
        if cold.hit is None:
            warm = min(self.read(link, _FIRST).head_seconds for _ in range(3))
            if cold.head_seconds > 2 * warm + _TELLING_SECONDS:
                self.swift = (cold.head_seconds + warm) / 2
        yield findings.judge_cache_header(cold)
        if self.had(cold) is None:
            yield findings.skipped("pieces", "not seen: hits are as slow as misses")
            return
        stored = self.stored(link)
        yield findings.judge_storing(stored)
        if not stored:
            return
        if self.link.signature or cold.hit:
            yield findings.skipped("pieces", _NOT_NEW)
        else:
            self.piece, below = self._measure_pieces(link, size)
            yield findings.judge_pieces(self.piece, below, size)
            together = self.node.read_together([self.fresh()] * _TOGETHER, _FIRST)
            misses = self.misses(together)
            self.origin_fetches += misses or 0
            yield findings.judge_lock(together, misses)
            yield self._try_authorization()
        yield self._try_signature()

    def _measure_pieces(self, link: Link, size: int) -> tuple[int | None, int | None]:
        """Return the size of the pieces, or one of PIECES that is larger than they are.

        The first piece is there. The first byte that is not is where the second one begins.
        """
        for candidate in PIECES:
            if candidate >= size:
                break
            if self.had(self.read(link, (candidate - 1, candidate))) is False:
                return None, candidate
            if self.had(self.read(link, (candidate, candidate + 1))) is False:
                return candidate, None
        return None, None

    def _try_signature(self) -> NodeFinding:
        """Ask for the object with two signatures."""
        if self.link.signature:
            others = [self.link, self._signed_otherwise()]
        else:
            mark = "&" if urlsplit(self.link.url).query else "?"
            base = f"{self.link.url}{mark}X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature="
            others = [parse_link(base + secrets.token_hex(32)) for _ in range(2)]
        first = self.read(others[0], _FIRST)
        if first.status == 206:
            self.stored(others[0])
        return findings.judge_signature(first, self.had(self.read(others[1], _FIRST)))

    def _signed_otherwise(self) -> Link:
        return parse_link(_SIGNATURE.sub(lambda found: found[1] + found[2][::-1], self.link.url))

    def _try_authorization(self) -> NodeFinding:
        """Fetch with made-up credentials, and see who else gets that."""
        if self.node.authorization is not None:
            return findings.judge_token(self.read(self.link, _FIRST, {"Authorization": "none"}))
        link, made_up = self.fresh(), {"Authorization": "Bearer pgetpy-check"}
        private = self.read(link, _FIRST, made_up)
        if private.status == 206 and self.had(self.read(link, _FIRST, made_up)):
            return findings.judge_authorization(private, True)
        return findings.judge_authorization(private, self.had(self.read(link, _FIRST)))

    def _try_bytes(self, size: int, etag: str) -> Iterator[NodeFinding]:
        border = self.piece or 20 * MIB
        spans = [(0, min(_SAMPLE, size)), (max(0, size - _SAMPLE), size)]
        if border < size:
            spans.append((border - _SAMPLE // 2, min(size, border + _SAMPLE // 2)))
        readings = [self.read(self.link, span) for span in spans]
        origin, target = self.origin, self.target
        truths = [
            origin.read(target, span)
            if origin is not None and target is not None and self.truth.status == 206
            else Reading()
            for span in spans
        ]
        yield findings.judge_bytes(readings, truths)
        long = (0, min(size, 2 * border + _SAMPLE))
        yield findings.judge_long(self.read(self.link, long), long, self.piece)
        if etag and not etag.startswith("W/"):
            yield self._try_if_range(size, etag)

    def _try_if_range(self, size: int, etag: str) -> NodeFinding:
        link = self.link if self.link.signature else self.fresh()
        reading = self.read(link, (size - 1, size), {"If-Range": etag})
        several = self.piece is not None and size > self.piece
        extra = self.had(self.read(link, _FIRST)) if several else None
        return findings.judge_if_range(reading, (size - 1, size), extra)

    def _try_refusals(self) -> Iterator[NodeFinding]:
        parts = urlsplit(self.link.url)
        path = f"{parts.path}.pgetpy-check-{secrets.token_hex(8)}"
        missing = parse_link(f"{parts.scheme}://{parts.netloc}{path}")
        truth = Reading() if self.origin is None or self.hops else self.origin.read(missing)
        readings = self.node.read_together([missing] * _TOGETHER, _FIRST)
        misses = self.misses(readings)
        self.origin_fetches += misses or 0
        yield findings.judge_missing(readings, truth, misses)
