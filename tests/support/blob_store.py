"""A scripted Blob Storage on loopback, with one account: it checks each request as Azure does.

with BlobStore() as store:
    store.put("container", "models/a.bin", b"...")
    store.refuse(403, "AuthorizationFailure")      # the next request
    store.requests                                 # each with method, path, query, headers
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.object_store import Asked, Refusal, Stored
from tests.support.scripted import ScriptedServer
from tests.support.secrets import SIGNATURE, TOKEN

ACCOUNT = "testaccount"
KEY = base64.b64encode(b"key of the tests" * 4).decode()
SAS = f"sv=2021-12-02&ss=b&srt=co&sp=rl&se=2099-01-01T00:00:00Z&sig={SIGNATURE}%2B%3D"
_SIGNED = ("content-encoding", "content-language", "content-length", "content-md5", "content-type",
           "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since",
           "range")  # fmt: skip
_LONGEST_SKEW = 900


class BlobStore(ScriptedServer):
    """The account.

    Attributes:
        public: whether anonymous requests may read.
        clock: seconds to add to the store's clock.
        page: blobs a page of a listing.
        versions: bodies of old versions, by container, blob, and the text of the version.
        before: what is done before the request of this number, from 0, is answered.
    """

    def __init__(self) -> None:
        self.public = False
        self.clock = 0.0
        self.page = 5000
        self.before: dict[int, Callable[[], object]] = {}
        self.versions: dict[tuple[str, str, str], bytes] = {}
        self.requests: list[Asked] = []
        self.violations: list[str] = []
        self.objects: dict[str, dict[str, Stored]] = {}
        self._refusals: deque[Refusal] = deque()
        self._lock = threading.Lock()
        super().__init__(_Handler)

    @property
    def url(self) -> str:
        return f"{super().url}/{ACCOUNT}"

    @property
    def environ(self) -> dict[str, str]:
        """The variables that lead to this store, by its key."""
        return {**self.anonymous, "AZURE_STORAGE_KEY": KEY}

    @property
    def anonymous(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_ENDPOINT": self.url}

    def put(self, container: str, blob: str, body: bytes, **headers: str) -> None:
        etag = f'"0x8D{hashlib.sha256(body).hexdigest()[:13].upper()}"'
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.objects.setdefault(container, {})[blob] = Stored(body, etag, given)

    def refuse(self, status: int, code: str, *, times: int = 1, **fields: str) -> None:
        """Answer the next requests so."""
        self._refusals.extend(Refusal(status, code, fields) for _ in range(times))

    def forgive(self) -> None:
        """Refuse nothing that was to be refused."""
        with self._lock:
            self._refusals.clear()

    def take(self, asked: Asked) -> Refusal | None:
        """Note a request; return what was set to be its answer."""
        with self._lock:
            self.before.pop(len(self.requests), lambda: None)()
            self.requests.append(asked)
            return self._refusals.popleft() if self._refusals else None

    def check(self, asked: Asked, raw_path: str, query: Mapping[str, list[str]]) -> Refusal | None:
        """Return why a request is not let in, None if it is."""
        header = asked.headers.get("authorization", "")
        if "x-ms-version" not in asked.headers:
            self.violations.append("no x-ms-version")
        if "sig" in query:
            if header:
                self.violations.append("a SAS and a header")
            right = query["sig"] == [f"{SIGNATURE}+="]
            expired = query["se"][0] < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            return None if right and not expired else Refusal(403, "AuthenticationFailed")
        if header.startswith("Bearer "):
            return (
                None if header == f"Bearer {TOKEN}" else Refusal(401, "InvalidAuthenticationInfo")
            )
        if not header:
            return None if self.public else Refusal(404, "ResourceNotFound")
        sent = parsedate_to_datetime(asked.headers["x-ms-date"]).timestamp()
        off = abs(sent - time.time() - self.clock) > _LONGEST_SKEW
        if off or header != self._signature(asked, raw_path, query):
            detail = "The MAC signature found in the HTTP request is not the same"
            return Refusal(403, "AuthenticationFailed", {"AuthenticationErrorDetail": detail})
        return None

    def _signature(self, asked: Asked, raw_path: str, query: Mapping[str, list[str]]) -> str:
        """The header, written from "Authorize with Shared Key" without the package's help."""
        lines = [asked.method, *(asked.headers.get(name, "") for name in _SIGNED)]
        own = sorted(name for name in asked.headers if name.startswith("x-ms-"))
        lines += [f"{name}:{asked.headers[name]}" for name in own]
        lines.append(f"/{ACCOUNT}{raw_path}")
        lines += [f"{name}:{','.join(sorted(query[name]))}" for name in sorted(query)]
        digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), "sha256").digest()
        return f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"


class _Handler(BaseHTTPRequestHandler):
    owner: BlobStore
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
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        flat = {name: values[0] for name, values in query.items()}
        asked = Asked(self.command, headers["host"], unquote(parts.path), flat, headers)
        refusal = self.owner.take(asked) or self.owner.check(asked, parts.path, query)
        container, _, blob = asked.path.removeprefix(f"/{ACCOUNT}/").partition("/")
        blobs = self.owner.objects.get(container)
        old = flat.get("snapshot") or flat.get("versionid")
        if refusal is not None:
            self._refuse(refusal)
        elif blobs is None:
            self._refuse(Refusal(404, "ContainerNotFound"))
        elif flat.get("comp") == "list":
            self._list(blobs, flat)
        elif old:
            body = self.owner.versions.get((container, blob, old))
            self._send_blob(Stored(body, f'"0x{len(body)}"') if body else None, headers)
        else:
            self._send_blob(blobs.get(blob), headers)

    def _send_blob(self, stored: Stored | None, headers: Mapping[str, str]) -> None:
        if stored is None:
            self._refuse(Refusal(404, "BlobNotFound"))
            return
        if headers.get("if-match") not in (None, stored.etag):
            self._refuse(Refusal(412, "ConditionNotMet"))
            return
        size = len(stored.body)
        own = {"ETag": stored.etag, "Accept-Ranges": "bytes", **stored.headers}
        own["Last-Modified"] = formatdate(0, usegmt=True)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if found is None:
            self._send(200, stored.body, own)
        elif int(found[1]) >= size:
            self._refuse(Refusal(416, "InvalidRange"))
        else:
            first, last = int(found[1]), min(int(found[2] or size), size - 1)
            own["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._send(206, stored.body[first : last + 1], own)

    def _list(self, blobs: Mapping[str, Stored], query: Mapping[str, str]) -> None:
        names = sorted(name for name in blobs if name.startswith(query.get("prefix", "")))
        left = [name for name in names if name > query.get("marker", "")]
        page, more = left[: self.owner.page], len(left) > self.owner.page
        items = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties><Etag>{blobs[name].etag[1:-1]}</Etag>"
            f"<Content-Length>{len(blobs[name].body)}</Content-Length></Properties></Blob>"
            for name in page
        )
        marker = f"<NextMarker>{escape(page[-1]) if more else ''}</NextMarker>"
        text = (
            '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="c">'
            f"<Blobs>{items}</Blobs>{marker}</EnumerationResults>"
        )
        self._send(200, text.encode(), {"Content-Type": "application/xml"})

    def _refuse(self, refusal: Refusal) -> None:
        fields = {"Code": refusal.code, "Message": f"Said of {refusal.code}", **refusal.fields}
        inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        text = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error>{inner}</Error>'
        own = {"Content-Type": "application/xml", "x-ms-error-code": refusal.code}
        self._send(refusal.status, text.encode(), own)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() + self.owner.clock, usegmt=True))
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
