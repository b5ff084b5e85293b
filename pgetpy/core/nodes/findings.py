"""What the answers of a cache node show, in words, and what to change in its configuration.

Each function judges the answers of one trial of `fleet/node_check`. `Reading.hit` says whether the
node had a piece; where its headers do not say, `had` is the caller's guess by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pgetpy.core.nodes.nginx_config import MIB, PIECES
from pgetpy.core.nodes.readings import Reading

# Seconds. nginx's defaults of lock_timeout and lock_age are 5; waiting clients look every 0.5.
_LOCK_DEFAULT = 5.0
_IN_STEP = 2.0
_LARGEST = max(PIECES)
_REDIRECTS = (301, 302, 303, 307, 308)


_NO_TOKEN = ("refuses this client", "set PGET_PROXY_AUTH_HEADER to a line of the token file")
_NO_WAY = (
    "does not reach the origin",
    "check resolver, proxy_ssl_trusted_certificate and the way to the origin from there",
)
_REFUSALS = {
    401: _NO_TOKEN,
    403: _NO_TOKEN,
    502: _NO_WAY,
    503: ("serves other origins only", "add the origin to --origins of pgetpy node config"),
    504: _NO_WAY,
}


class NodeVerdict(Enum):
    """How a trial ended."""

    FINE = "ok"
    FAULT = "FAULT"
    NOTE = "note"
    SKIPPED = "-"


@dataclass(frozen=True)
class NodeFinding:
    """The outcome of one trial.

    Attributes:
        trial: its name, one word.
        verdict: how it ended.
        words: what was seen, a clause.
        remedy: what to change, as directives of nginx or a clause; empty if there is nothing.
    """

    trial: str
    verdict: NodeVerdict
    words: str
    remedy: str = ""


def fine(trial: str, words: str) -> NodeFinding:
    return NodeFinding(trial, NodeVerdict.FINE, words)


def fault(trial: str, words: str, remedy: str) -> NodeFinding:
    return NodeFinding(trial, NodeVerdict.FAULT, words, remedy)


def note(trial: str, words: str, remedy: str = "") -> NodeFinding:
    return NodeFinding(trial, NodeVerdict.NOTE, words, remedy)


def skipped(trial: str, words: str) -> NodeFinding:
    return NodeFinding(trial, NodeVerdict.SKIPPED, words)


def judged_by_time(finding: NodeFinding) -> NodeFinding:
    """Return a finding that rests on how long reads took: other causes are possible."""
    if finding.verdict is not NodeVerdict.FAULT:
        return finding
    return note(finding.trial, f"{finding.words}, as far as times tell", finding.remedy)


def judge_reach(reading: Reading, origin: Reading) -> NodeFinding:
    """Judge the first answer of the node: whether it serves the object at all."""
    trial = "answer"
    if reading.failure:
        remedy = "start nginx there; check listen and the firewalls between here and there"
        return fault(trial, f"does not answer: {reading.failure}", remedy)
    if reading.status in _REDIRECTS:
        remedy = "follow redirects in the node: error_page 301 302 303 307 308 = @hop1"
        return fault(trial, f"passes a redirect on ({reading.status}): clients leave it", remedy)
    if reading.status in (200, 206):
        return fine(trial, f"answers, in {_shown(reading.head_seconds)}")
    if reading.status == 416 and origin.status in (200, 416):
        return fine(trial, "answers as the origin does")
    if origin.status == reading.status:
        return fault(trial, f"the origin answers {origin.words}", "check the URL")
    if reading.status == 503 and b"does not serve" not in reading.body:
        return fault(trial, f"is out of order: {reading.words}", "see the node's error log")
    what, remedy = _REFUSALS.get(
        reading.status, ("answers otherwise than the origin", "proxy_pass")
    )
    return fault(trial, f"{what}: {reading.words}", remedy)


def judge_range(reading: Reading, span: tuple[int, int]) -> NodeFinding:
    """Judge the answer to a range request."""
    trial = "range"
    if reading.status == 200:
        remedy = (
            "slice 20m; proxy_set_header Range $slice_range; the origin has to serve ranges as well"
        )
        return fault(trial, "answers a range with the whole object (200)", remedy)
    if reading.status != 206 or reading.span != span or reading.size is None:
        found = reading.headers.get("content-range", "no Content-Range")
        return fault(
            trial,
            f"bytes {span[0]}-{span[1] - 1} were asked for, the answer is {reading.words}, {found}",
            "proxy_cache_key needs $slice_range, and proxy_set_header Range $slice_range",
        )
    return fine(trial, "answers ranges with 206")


def judge_version(reading: Reading, origin: Reading) -> NodeFinding:
    """Judge whether the node has the version that the origin has now."""
    trial = "version"
    if origin.status != 206:
        return skipped(trial, f"the origin cannot be asked from here: {origin.words}")
    remedy = "delete the node's cache folder while nginx is stopped; new versions need new URLs"
    if reading.size != origin.size:
        words = f"has {reading.size} bytes where the origin has {origin.size}"
        return fault(trial, words, remedy)
    here, there = reading.headers.get("etag"), origin.headers.get("etag")
    if here is None and there is not None:
        return fault(trial, "leaves out the origin's ETag", "remove proxy_hide_header ETag")
    if here != there:
        return fault(trial, f"has version {here} where the origin has {there}", remedy)
    return fine(trial, "has the origin's version")


def judge_cache_header(reading: Reading) -> NodeFinding:
    """Judge whether answers say where they came from."""
    if reading.hit is None:
        remedy = "add_header X-Cache $upstream_cache_status always;"
        return note("header", "does not say whether it had a piece; times are compared", remedy)
    return fine("header", "says whether it had a piece")


def judge_storing(stored: bool) -> NodeFinding:
    """Judge whether what was fetched is there when it is asked for again."""
    if stored:
        return fine("storing", "has what it has fetched")
    remedy = "proxy_cache_valid 206 90d; and room on the disk"
    return fault("storing", "fetches the same piece again and again", remedy)


def judge_pieces(piece: int | None, below: int | None, size: int) -> NodeFinding:
    """Judge the size of pieces.

    Args:
        piece: their size; None if it was not found.
        below: if not found, a size that they are smaller than; None if they are larger than all
            that were tried.
        size: of the object.
    """
    trial = "pieces"
    remedy = f"slice 20m; (a divisor of 500 MiB: {', '.join(str(s // MIB) for s in PIECES)})"
    if piece is not None:
        return fine(trial, f"fetches pieces of {piece // MIB} MiB")
    if below == PIECES[0]:
        return note(trial, f"fetches pieces smaller than {below // MIB} MiB: many files", remedy)
    if below is not None:
        at_least = PIECES[PIECES.index(below) - 1] // MIB
        words = (
            f"fetches pieces of {at_least} to {below // MIB} MiB, which do not divide pget's "
            "slices of 500 MiB"
        )
        return fault(trial, words, remedy)
    if size > _LARGEST:
        words = "fetches pieces larger than 50 MiB, or the whole object, for a single byte"
        full = f"{remedy} with $slice_range in proxy_cache_key and proxy_set_header Range"
        return fault(trial, words, full)
    words = "not seen: an object of more than 50 MiB is needed"
    return skipped(trial, words)


def judge_lock(readings: Sequence[Reading], misses: int | None) -> NodeFinding:
    """Judge parallel reads of one piece that the node did not have.

    Args:
        readings: all answers.
        misses: how many asked the origin; None if that cannot be said.
    """
    trial, count = "lock", len(readings)
    failed = [each for each in readings if each.status not in (200, 206)]
    if failed:
        words = f"{len(failed)} of {count} parallel reads failed: {failed[0].words}"
        return fault(trial, words, "proxy_cache_lock_timeout 15m; worker_connections 4096;")
    if misses is None:
        words = "not seen: the node does not say which reads asked the origin"
        return skipped(trial, words)
    slowest = max(each.head_seconds for each in readings)
    if misses <= 1:
        words = f"{count} parallel reads of one piece asked the origin once"
        if slowest < _LOCK_DEFAULT:
            words += (
                f", in {_shown(slowest)}; whether lock_timeout and lock_age outlast a piece that "
                "takes over 5s shows only with such an origin"
            )
        return fine(trial, words)
    words = f"{count} parallel reads of one piece asked the origin {misses} times"
    heads = sorted(each.head_seconds for each in readings)
    late = [each for each in readings if each.head_seconds > heads[0] + _LOCK_DEFAULT * 0.8]
    if late:
        words += ", some after waiting for 5s"
        return fault(trial, words, "proxy_cache_lock_timeout 15m; proxy_cache_lock_age 15m; (both)")
    remedy = "proxy_cache_lock on; proxy_cache_lock_timeout 15m; proxy_cache_lock_age 15m;"
    return fault(trial, words, remedy)


def judge_bytes(readings: Sequence[Reading], truths: Sequence[Reading]) -> NodeFinding:
    """Judge the bytes of several ranges against those of the origin; it may not have answered."""
    trial = "bytes"
    compared = 0
    for reading, truth in zip(readings, truths, strict=True):
        if truth.status != 206 or truth.cut:
            continue
        compared += 1
        if reading.body != truth.body:
            start = truth.span[0] if truth.span else 0
            words = f"other bytes than the origin's at {start}"
            remedy = "proxy_cache_key has to name the object and $slice_range; empty the cache"
            return fault(trial, words, remedy)
    if not compared:
        return skipped(trial, "not compared: the origin cannot be asked from here")
    return fine(trial, f"has the origin's bytes in {compared} ranges, over the end of a piece too")


def judge_long(reading: Reading, span: tuple[int, int], piece: int | None) -> NodeFinding:
    """Judge one answer that is made of several pieces."""
    trial, wanted = "later", span[1] - span[0]
    if reading.failure or reading.status != 206:
        return fault(trial, f"a range over pieces: {reading.words}", "see the node's error log")
    if len(reading.body) < wanted:
        at = len(reading.body)
        border = piece is not None and (span[0] + at) % piece == 0
        words = f"an answer ended after {at} of {wanted} bytes"
        words += ", at the end of a piece" if border else ""
        remedy = (
            "see the node's error log: the origin refused a later piece (503), or the disk is full "
            "(max_size, min_free)"
        )
        return fault(trial, words, remedy)
    return fine(trial, "gives answers of several pieces in full")


def judge_if_range(reading: Reading, span: tuple[int, int], extra: bool | None) -> NodeFinding:
    """Judge a range with If-Range; `extra` says whether it cost the first piece as well."""
    trial = "if-range"
    if reading.status != 206 or reading.span != span:
        words = f"a range with If-Range is answered with {reading.words}"
        return fault(trial, words, 'proxy_set_header If-Range "";')
    if extra:
        words = "If-Range makes nginx fetch the first piece too; pgetpy sends none to nodes"
        return note(trial, words)
    return fine(trial, "answers ranges with If-Range")


def judge_redirect(reading: Reading, hops: int) -> NodeFinding:
    """Judge an object to which the origin redirects; `hops` times."""
    if not hops:
        return skipped("redirect", "not tried: the origin does not redirect this URL")
    return fine("redirect", f"follows the origin's redirects ({hops})")


def judge_missing(readings: Sequence[Reading], origin: Reading, misses: int | None) -> NodeFinding:
    """Judge parallel reads of an object that does not exist."""
    trial = "errors"
    status = origin.status or 404
    odd = next((each for each in readings if each.status != status), None)
    if odd is not None:
        words = f"answers {odd.words} for what does not exist, the origin {status}"
        remedy = "proxy_intercept_errors for redirects and 416 only"
        if odd.failure or odd.status in (200, 206):
            return fault(trial, words, remedy)
        return note(trial, words, remedy)
    remedy = "proxy_cache_valid 404 410 5s; proxy_cache_lock on;"
    what = f"{len(readings)} reads of what does not exist"
    heads = [each.head_seconds for each in readings]
    if misses is not None and misses > 2:
        return fault(trial, f"{what} ask the origin {misses} times", remedy)
    if misses is None and max(heads) - min(heads) > _IN_STEP:
        return judged_by_time(fault(trial, f"{what} wait for one another", remedy))
    return fine(trial, f"passes the origin's {status} on to all who wait")


def judge_signature(first: Reading, second_hit: bool | None) -> NodeFinding:
    """Judge two URLs that differ in their signatures alone."""
    trial = "signature"
    if first.status not in (200, 206):
        return skipped(trial, f"not tried: the origin refuses made-up signatures ({first.status})")
    if second_hit is None:
        return skipped(trial, "not seen: the node does not say whether it had a piece")
    if second_hit:
        return fine(trial, "keeps one copy for all signatures of an object")
    remedy = (
        "leave the signature's arguments out of proxy_cache_key ($uri in place of $request_uri)"
    )
    return fault(trial, "keeps a copy for each signature of the same object", remedy)


def judge_authorization(private: Reading, later_hit: bool | None) -> NodeFinding:
    """Judge whether what was fetched with Authorization is kept for others."""
    trial = "secrets"
    if private.status in (401, 403):
        return skipped(trial, f"not tried: the origin refuses a made-up token ({private.status})")
    if later_hit is None:
        return skipped(trial, "not seen: the node does not say whether it had a piece")
    if later_hit:
        words = "gives to everyone what it has fetched with someone's Authorization"
        remedy = "proxy_no_cache $http_authorization; proxy_cache_bypass $http_authorization;"
        return fault(trial, words, remedy)
    return fine(trial, "does not keep what was fetched with Authorization")


def judge_token(without: Reading) -> NodeFinding:
    """Judge the answer to a request without the token that this client has."""
    if without.status in (401, 403):
        return fine("token", "refuses those who do not send the token")
    words = f"serves those who send no token as well ({without.words})"
    return note("token", words, "--token-file of pgetpy node config")


def judge_empty(reading: Reading) -> NodeFinding:
    """Judge an empty object that was asked for without a range."""
    if reading.status == 200 and not reading.body:
        return fine("empty", "gives an empty object")
    words = f"answers {reading.words} for an empty object"
    return fault("empty", words, "error_page 416 = a location without slice and proxy_cache")


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
