"""What object stores mean by their errors, and what a person can do about them.

Source: Amazon S3 API Reference, "Error responses". A store answers in XML: `<Error><Code>...`.

Three kinds of refusal mend themselves with a second request: an expired token, a clock that is
wrong (the answer's Date says by how much), and a bucket in another region (a header says which).
`read_refusal` finds what is needed for that. For all others `explain` says what a person can do.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from pgetpy.core.http.heads import Head
from pgetpy.core.lazy_dataclass import dataclass

# Codes after which a second request, with new keys or the server's time, may succeed.
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
# Amazon's words for RequestTimeTooSkewed; rclone says AccessDenied with the same ones.
_TIMES_DIFFER = "difference between the request time and"
_REGION_CODES = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}
)
# What some stores answer with status 400 to a request without a signature: rclone, and Swift, which
# gives no code.
_UNSIGNED = frozenset({"UnsupportedAlgorithm", ""})
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{1,40}")
_EXPECTING = re.compile(r"expecting '([a-z0-9-]{2,41})'")


@dataclass(frozen=True)
class Refusal:
    """The reason that a store gives for refusing a request.

    Attributes:
        code: the store's name for it, such as `NoSuchKey`; empty if it gave none.
        region: where the bucket lies, if the answer says so.
        date: the server's clock in seconds since 1970; None if the answer has no Date.
    """

    code: str
    region: str
    date: float | None


def read_refusal(head: Head) -> Refusal:
    """Return what the head of an answer that is an error says."""
    code = head.details.get("Code", "")
    if _TIMES_DIFFER in head.details.get("Message", ""):
        code = "RequestTimeTooSkewed"
    region = head.headers.get("x-amz-bucket-region", "") or head.details.get("Region", "")
    if not region and code in _REGION_CODES:
        found = _EXPECTING.search(head.words)
        region = found[1] if found else ""
    if not _REGION.fullmatch(region):
        region = ""
    return Refusal(code, region, _clock(head.headers.get("date", "")))


def _clock(value: str) -> float | None:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Asker:
    """Who made the request, for the words of an error.

    Attributes:
        store: what people call the store, such as `Amazon S3` or the endpoint's host.
        key_id: the public half of the keys; empty if the request was not signed.
        origin_of_keys: where the keys came from, in words.
        looked_at: the places that held no keys, in words, if the request was not signed.
        region: what the request was signed for.
        bucket: the bucket.
        skew: how many seconds the machine's clock is ahead of the server's; None if unknown.
        by_token: whether an OAuth token was sent in place of a signature.
        to_set: the variables that have requests signed, in words; empty if signatures are not
            wanted.
    """

    store: str
    key_id: str
    origin_of_keys: str
    looked_at: str
    region: str
    bucket: str
    skew: float | None = None
    by_token: bool = False
    to_set: str = ""


def explain(code: str, status: int, words: str, who: Asker) -> str:
    """Return what to try after an answer with this code, status and these words; empty if nothing
    is known."""
    if code == "InvalidRequest" and "server side encryption" in words.lower():
        return (
            "it is encrypted with a key of its owner's (SSE-C), which pgetpy cannot send; copy it "
            "to an object without one, as by `aws s3 cp --sse-c-copy-source`"
        )
    hint = _BY_CODE.get(code, "")
    if hint:
        minutes = f"{abs(who.skew) / 60:.0f} minutes" if who.skew is not None else "some time"
        direction = "ahead" if (who.skew or 0) > 0 else "behind"
        return hint.format(who=who, minutes=minutes, direction=direction)
    if status in (401, 403) and who.by_token:
        return (
            f"the OAuth token ({who.origin_of_keys}) has expired, or may not read it; get a new "
            "one, as by `gcloud auth print-access-token`"
        )
    unsigned = not who.key_id and not who.by_token
    wants_signature = status in (401, 403) or (status == 400 and code in _UNSIGNED)
    if wants_signature and unsigned and not who.to_set:
        return "the request was not signed, because PGET_S3_SIGN is never or a policy forbids it"
    if wants_signature and unsigned:
        return (
            f"the request was not signed, because no keys were found ({who.looked_at}); set "
            f"{who.to_set}"
        )
    if status in (401, 403):
        return (
            f"the key {who.key_id} ({who.origin_of_keys}) may not read it, or it is missing: a "
            "store hides which one from keys without s3:ListBucket; check the name, and that the "
            f"policy allows s3:GetObject on {who.bucket}/*"
        )
    if status == 404:
        return "check bucket and key"
    return ""


_BY_CODE = {
    "InvalidAccessKeyId": (
        "the store does not know the key {who.key_id} ({who.origin_of_keys}); check it, and that "
        "it belongs to {who.store}"
    ),
    "SignatureDoesNotMatch": (
        "the secret that belongs to {who.key_id} ({who.origin_of_keys}) is wrong, or the store "
        "does not know that key; check both for missing characters"
    ),
    "RequestTimeTooSkewed": (
        "this machine's clock is {minutes} {direction}, and signatures hold for 15 minutes; set "
        "the clock"
    ),
    "ExpiredToken": (
        "the session token ({who.origin_of_keys}) has expired; get new keys, or install "
        "pgetpy[s3] and let it refresh them (SSO, roles)"
    ),
    "InvalidToken": (
        "the session token does not belong to {who.key_id}; set all three from one place"
    ),
    "NoSuchBucket": "{who.store} has no bucket {who.bucket}; check the name and the endpoint",
    "NoSuchKey": "the bucket {who.bucket} has no such key; check it, letter for letter",
    "NoSuchVersion": "the object has no such version; leave ?versionId= out for the latest",
    "InvalidObjectState": (
        "the object is archived (Glacier); restore it first, as by `aws s3api restore-object`"
    ),
    "AuthorizationHeaderMalformed": "check AWS_REGION; the request was signed for {who.region}",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION",
}
