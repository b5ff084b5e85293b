"""A scripted S3 on loopback: it checks signatures by botocore, and answers as Amazon's does.

    with ObjectStore() as store:
        store.put("bucket", "models/a.bin", b"...")
        store.refuse(403, "ExpiredToken")          # the next request
        ...
        store.requests                             # (method, path, query, headers) of each

It may be named as an HTTP proxy, so that it stands for hosts of Amazon's.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from html import unescape
from http.server import BaseHTTPRequestHandler
from unittest.mock import patch
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pgetpy.sources.object_bucket import bucket_of
from tests.support.scripted import ScriptedServer

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTEST", "secret/of+the+tests/AAAAAAAAAAAAAAAA"
_SIGNATURE = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, "
    r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})"
)
_LONGEST_SKEW = 900
# Patches that cross one another in two threads leave the wrong clock behind.
_CLOCK = threading.Lock()


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


@dataclass
class Refusal:
    """What the next request is answered with."""

    status: int
    code: str
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Stored:
    body: bytes
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Uploading:
    """An upload that is not complete."""

    headers: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


class ObjectStore(ScriptedServer):
    """The store.

    Attributes:
        region: what requests have to be signed for; empty for any.
        keys: secrets by access key.
        tokens: session tokens that are valid, by access key.
        bearer: an OAuth token that is accepted in place of a signature; empty for none.
        public: whether unsigned requests may read.
        clock: seconds to add to the store's clock.
        page: keys a page of a listing.
        knows_conditions: whether it knows If-None-Match and If-Match of writes, or refuses them.
        heeds_conditions: whether it does what they say; some stores overwrite all the same.
        fails_at_the_end: how often completing an upload fails with an error within a 200.
        uploads: those that have begun.
        before: what is done before the request of this number, from 0, is answered.
        pause_at: which requests wait for `paused` before they are answered; None for none.
        read_only: whether all writes are refused.
        write_only: whether all reads are refused.
        encrypts: whether ETags are of its own making, as with keys of Amazon's KMS.
        loses: which requests are done, and their connection closed in place of an answer.
        instead: the bytes that a request is answered with, and not done; None for the usual answer.
            The connection is closed behind them.
        moved_to: the region that requests for hosts of another one are sent to; empty for none.
    """

    def __init__(self) -> None:
        self.region = ""
        self.keys = {ACCESS_KEY: SECRET_KEY}
        self.tokens: dict[str, str] = {}
        self.bearer = ""
        self.public = False
        self.clock = 0.0
        self.page = 1000
        self.knows_conditions = True
        self.heeds_conditions = True
        self.fails_at_the_end = 0
        self.uploads: dict[str, Uploading] = {}
        self.before: dict[int, Callable[[], object]] = {}
        self.pause_at: Callable[[Asked], bool] | None = None
        self.paused: Callable[[], object] = lambda: None
        self.read_only = False
        self.write_only = False
        self.encrypts = False
        self.loses: Callable[[Asked], bool] = lambda _: False
        self.instead: Callable[[Asked], bytes | None] = lambda _: None
        self.moved_to = ""
        self.requests: list[Asked] = []
        self.violations: list[str] = []
        self.objects: dict[str, dict[str, Stored]] = {}
        self._refusals: deque[Refusal] = deque()
        self._lock = threading.Lock()
        super().__init__(_Handler)

    @property
    def environ(self) -> dict[str, str]:
        """The variables that lead to this store."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def put(self, bucket: str, key: str, body: bytes, **headers: str) -> None:
        stored = Stored(body, self.etag(body), {k.replace("_", "-"): v for k, v in headers.items()})
        self.objects.setdefault(bucket, {})[key] = stored

    def etag(self, data: bytes) -> str:
        """Return the ETag of an object or part."""
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return f'"{md5[::-1] if self.encrypts else md5}"'

    def refuse(self, status: int, code: str, *, times: int = 1, **fields: str) -> None:
        """Answer the next requests so."""
        headers = {"x-amz-bucket-region": fields["Region"]} if "Region" in fields else {}
        self._refusals.extend(Refusal(status, code, fields, headers) for _ in range(times))

    def forgive(self) -> None:
        """Refuse nothing that was to be refused."""
        with self._lock:
            self._refusals.clear()

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.before.pop(len(self.requests), lambda: None)()
            self.requests.append(asked)

    def next_refusal(self) -> Refusal | None:
        with self._lock:
            return self._refusals.popleft() if self._refusals else None

    def refusal_of(self, asked: Asked, raw: str) -> Refusal | None:
        """Return what refuses a request, None if it is answered."""
        region = self.moved_to
        if region and f".{region}." not in asked.host:
            return Refusal(301, "PermanentRedirect", headers={"x-amz-bucket-region": region})
        refusal = self.next_refusal() or self.check(asked, raw)
        reads = asked.method in ("GET", "HEAD")
        if refusal is None and (self.write_only if reads else self.read_only):
            return Refusal(403, "AccessDenied")
        return refusal

    def check(self, asked: Asked, raw: str) -> Refusal | None:
        """Return why a request is not let in, None if it is."""
        header = asked.headers.get("authorization", "")
        if not header.startswith("AWS4"):
            allowed = self.public and asked.method in ("GET", "HEAD")
            if header:
                allowed = bool(self.bearer) and header == f"Bearer {self.bearer}"
            return None if allowed else Refusal(401 if header else 403, "AccessDenied")
        found = _SIGNATURE.fullmatch(header)
        if found is None:
            return Refusal(400, "AuthorizationHeaderMalformed")
        access, day, region, names, signature = found.groups()
        if access not in self.keys:
            return Refusal(403, "InvalidAccessKeyId")
        token = asked.headers.get("x-amz-security-token", "")
        if token != self.tokens.get(access, ""):
            return Refusal(400, "ExpiredToken" if token else "InvalidToken")
        if self.region and region != self.region:
            fields = {"Region": self.region}
            return Refusal(400, "AuthorizationHeaderMalformed", fields)
        at = asked.headers["x-amz-date"]
        moment = datetime.datetime.strptime(at, "%Y%m%dT%H%M%SZ")
        moment = moment.replace(tzinfo=datetime.timezone.utc)
        if abs(moment.timestamp() - time.time() - self.clock) > _LONGEST_SKEW:
            return Refusal(403, "RequestTimeTooSkewed")
        unsigned = [n for n in asked.headers if n.startswith("x-amz-") and n not in names]
        if unsigned or day != at[:8]:
            self.violations.append(f"not signed: {unsigned}, {day} of {at}")
        if self._signature(asked, raw, access, region, names, moment) != signature:
            return Refusal(403, "SignatureDoesNotMatch", {"StringToSign": "AWS4-HMAC-SHA256 ..."})
        return None

    def _signature(
        self,
        asked: Asked,
        raw: str,
        access: str,
        region: str,
        names: str,
        moment: datetime.datetime,
    ) -> str:
        headers = {n: asked.headers[n] for n in names.split(";") if n not in ("host", "x-amz-date")}
        url = f"http://{asked.host}{raw}"
        request = AWSRequest(asked.method, url, headers=headers, data=asked.body)
        token = headers.pop("x-amz-security-token", None)
        auth = S3SigV4Auth(Credentials(access, self.keys[access], token), "s3", region)
        with (
            _CLOCK,
            patch("botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=None)),
        ):
            auth.add_auth(request)
        return str(request.headers["Authorization"]).rpartition("Signature=")[2]


@contextmanager
def started_store(bucket: str = "bucket") -> Iterator[ObjectStore]:
    """Start a store with one empty bucket, of which nothing has been learned; what it was asked in
    violation of the protocol fails the test."""
    bucket_of.cache_clear()
    with ObjectStore() as store:
        store.objects[bucket] = {}
        yield store
    assert store.violations == []
    bucket_of.cache_clear()


class _Handler(BaseHTTPRequestHandler):
    owner: ObjectStore
    protocol_version = "HTTP/1.1"
    # Two writes an answer, which Nagle's algorithm would hold back.
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        """Answer requests until the client leaves, which may be in the middle of an answer."""
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        """Flush what a client that has left does not read."""
        with suppress(OSError, ValueError):
            super().finish()

    def do_GET(self) -> None:
        """Answer one request."""
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        parts = urlsplit(self.path)
        raw = parts.path + (f"?{parts.query}" if parts.query else "")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, headers["host"], unquote(parts.path), query, headers, self.body)
        self.owner.note(asked)
        if self.owner.pause_at is not None and self.owner.pause_at(asked):
            self.owner.paused()
        instead = self.owner.instead(asked)
        if instead is not None:
            self.wfile.write(instead)
            self.close_connection = True
            return
        refusal = self.owner.refusal_of(asked, raw)
        self.lost = self.owner.loses(asked)
        if refusal is not None:
            self._refuse(refusal)
            return
        bucket, _, key = asked.path.removeprefix("/").partition("/")
        host = re.match(r"(.+)\.s3[.-]", asked.host)
        if host is not None:
            bucket, key = host[1], asked.path.removeprefix("/")
        if bucket not in self.owner.objects:
            self._refuse(Refusal(404, "NoSuchBucket", {"BucketName": bucket}))
        elif self.command in ("PUT", "POST", "DELETE"):
            self._write(bucket, key, query, headers)
        elif "uploadId" in query:
            self._list_parts(query["uploadId"])
        elif not key:
            self._list(self.owner.objects[bucket], query)
        elif key not in self.owner.objects[bucket]:
            self._refuse(Refusal(404, "NoSuchKey", {"Key": key}))
        else:
            self._send_object(self.owner.objects[bucket][key], headers)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _write(
        self, bucket: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> None:
        """Answer what changes the store."""
        store = self.owner
        sums = {
            "content-md5": b64encode(hashlib.md5(self.body, usedforsecurity=False).digest()),
            "x-amz-content-sha256": hashlib.sha256(self.body).hexdigest().encode(),
        }
        wrong = [
            name for name, value in sums.items() if headers.get(name) not in (None, value.decode())
        ]
        kept = {n: v for n, v in headers.items() if n in ("content-type", "cache-control")}
        upload = query.get("uploadId", "")
        if wrong:
            self._refuse(Refusal(400, "BadDigest", {"Wrong": wrong[0]}))
        elif upload and upload not in store.uploads:
            self._refuse(Refusal(404, "NoSuchUpload"))
        elif (refused := self._unmet(bucket, key, headers)) is not None:
            self._refuse(refused)
        elif self.command == "DELETE":
            if upload:
                store.uploads.pop(upload, None)
            else:
                store.objects[bucket].pop(key, None)
            self._send(204, b"", {})
        elif "uploads" in query:
            store.uploads[f"upload-{len(store.requests)}"] = Uploading(kept)
            self._answer_xml("InitiateMultipartUploadResult", UploadId=list(store.uploads)[-1])
        elif self.command == "PUT" and upload:
            store.uploads[upload].parts[int(query["partNumber"])] = self.body
            self._send(200, b"", {"ETag": store.etag(self.body)})
        elif self.command == "PUT":
            store.put(bucket, key, self.body, **kept)
            self._send(200, b"", {"ETag": store.objects[bucket][key].etag})
        elif store.fails_at_the_end:
            store.fails_at_the_end -= 1
            self._answer_xml("Error", Code="InternalError", Message="We are sorry")
        else:
            self._complete(bucket, key, store.uploads.pop(upload))

    def _unmet(self, bucket: str, key: str, headers: Mapping[str, str]) -> Refusal | None:
        """Return why the conditions of a write refuse it."""
        absent, wanted = headers.get("if-none-match"), headers.get("if-match")
        if absent is None and wanted is None:
            return None
        if not self.owner.knows_conditions:
            return Refusal(501, "NotImplemented")
        there = self.owner.objects[bucket].get(key)
        met = there is None if absent is not None else (there is not None and there.etag == wanted)
        return (
            None if met or not self.owner.heeds_conditions else Refusal(412, "PreconditionFailed")
        )

    def _complete(self, bucket: str, key: str, upload: Uploading) -> None:
        named = re.findall(rb"<PartNumber>(\d+)</PartNumber><ETag>([^<]*)</ETag>", self.body)
        parts = [upload.parts[int(number)] for number, _ in named]
        right = [self.owner.etag(part) for part in parts] == [
            unescape(etag.decode()) for _, etag in named
        ]
        equal = len({len(part) for part in parts[:-1]}) <= 1
        if not right or not equal:
            self.owner.violations.append("parts do not fit together")
        self.owner.put(bucket, key, b"".join(parts), **upload.headers)
        joined = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
        etag = f'"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"'
        self.owner.objects[bucket][key].etag = etag
        self._answer_xml("CompleteMultipartUploadResult", ETag=etag)

    def _list_parts(self, upload: str) -> None:
        if upload not in self.owner.uploads:
            self._refuse(Refusal(404, "NoSuchUpload"))
            return
        parts = self.owner.uploads[upload].parts
        inner = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{len(parts[number])}</Size>"
            f"<ETag>{escape(self.owner.etag(parts[number]))}</ETag></Part>"
            for number in sorted(parts)
        )
        self._send(200, f"<ListPartsResult>{inner}</ListPartsResult>".encode(), {})

    def _answer_xml(self, element: str, **fields: str) -> None:
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        self._send(200, f"<{element}>{inner}</{element}>".encode(), {})

    def _send_object(self, stored: Stored, headers: Mapping[str, str]) -> None:
        condition = headers.get("if-match")
        if condition not in (None, stored.etag):
            self._refuse(Refusal(412, "PreconditionFailed", {"Condition": "If-Match"}))
            return
        size = len(stored.body)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        own = {"ETag": stored.etag, "Accept-Ranges": "bytes", **stored.headers}
        if "range" in headers or headers.get("x-amz-checksum-mode") != "ENABLED":
            # As Amazon and MinIO do.
            own = {n: v for n, v in own.items() if not n.startswith("x-amz-checksum")}
        own["Last-Modified"] = formatdate(0, usegmt=True)
        if found is None:
            self._send(200, stored.body, own)
        elif int(found[1]) >= size:
            self._refuse(Refusal(416, "InvalidRange", {"ActualObjectSize": str(size)}))
        else:
            first, last = int(found[1]), min(int(found[2] or size), size - 1)
            own["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._send(206, stored.body[first : last + 1], own)

    def _list(self, objects: Mapping[str, Stored], query: Mapping[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        keys = sorted((k for k in objects if k.startswith(prefix)), key=lambda key: key.encode())
        left = [key for key in keys if key.encode() > unquote(after).encode()]
        page, more = left[: self.owner.page], len(left) > self.owner.page
        encode = quote if query.get("encoding-type") == "url" else escape
        items = "".join(
            f"<Contents><Key>{encode(key)}</Key><ETag>{escape(objects[key].etag)}</ETag>"
            f"<Size>{len(objects[key].body)}</Size></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if more else ""
        kind = "<EncodingType>url</EncodingType>" if encode is quote else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns='
            '"http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{kind}{token}{items}</ListBucketResult>"
        )
        self._send(200, text.encode(), {"Content-Type": "application/xml"})

    def _refuse(self, refusal: Refusal) -> None:
        fields = {"Code": refusal.code, "Message": f"Said of {refusal.code}", **refusal.fields}
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
        headers = {"Content-Type": "application/xml", **refusal.headers}
        self._send(refusal.status, text.encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        if self.lost:
            self.close_connection = True
            return
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() + self.owner.clock, usegmt=True))
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
