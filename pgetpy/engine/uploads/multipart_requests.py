"""The requests of a multipart upload; `core/objects/multipart` has their bodies and answers.

They block, and are made in threads. `upload` decides what is sent when, and what is resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from pgetpy.core.objects import multipart
from pgetpy.core.objects.multipart import SentPart
from pgetpy.core.objects.sigv4 import EMPTY_BODY, encode_query
from pgetpy.engine.uploads.client import Body, StoreAnswer, StoreClient
from pgetpy.errors import TransferError

_UNKNOWN = 404  # the store has forgotten the upload
_FORBIDDEN = 403


class MultipartRequests:
    """Makes the requests for uploads to the object at `url`.

    Every method raises `TransferError` if the store or the network failed for good.
    """

    def __init__(self, client: StoreClient, url: str) -> None:
        self._client = client
        self._url = url

    def begin(self, headers: Sequence[tuple[str, str]]) -> str:
        """Begin an upload; `headers` are kept with the object. Returns its ID."""
        answer = self._client.request("POST", f"{self._url}?uploads=", Body(EMPTY_BODY), headers)
        found = multipart.text_of("UploadId", answer.text)
        if not found:
            raise TransferError(self._url, "the store did not start a multipart upload")
        return found

    def parts(self, upload: str) -> dict[int, SentPart] | None:
        """Return the parts that the store has, by number; None if it has forgotten the upload, or
        does not let these keys see.

        A list that does not end is given up: parts that are not found are sent again.
        """
        found: dict[int, SentPart] = {}
        marker, before = "", set[str]()
        accept = frozenset({_UNKNOWN, _FORBIDDEN})
        while True:
            pairs = [("uploadId", upload), ("part-number-marker", marker)]
            query = encode_query([pair for pair in pairs if pair[1]])
            url = f"{self._url}?{query}"
            answer = self._client.request("GET", url, Body(EMPTY_BODY), accept=accept)
            if answer.head.status in accept:
                return None
            page, marker = multipart.parse_parts(answer.text)
            found |= {part.number: part for part in page}
            if not marker or marker in before:
                return found
            before.add(marker)

    def put(self, upload: str, number: int, body: Body, sent: Callable[[int], object]) -> str:
        """Send one part; return its ETag."""
        query = encode_query([("partNumber", str(number)), ("uploadId", upload)])
        answer = self._client.request("PUT", f"{self._url}?{query}", body, sent=sent)
        etag = answer.head.headers.get("etag")
        if not etag:
            raise TransferError(self._url, f"the store gave part {number} no ETag")
        return etag

    def completion(self, upload: str, etags: dict[int, str]) -> tuple[str, Body]:
        """Return URL and body of the request that makes the object of parts with these ETags."""
        data = multipart.completion(etags)
        body = Body(hashlib.sha256(data).hexdigest(), data=data)
        return f"{self._url}?{encode_query([('uploadId', upload)])}", body

    def abort(self, upload: str) -> StoreAnswer:
        """Have the store delete the parts."""
        url = f"{self._url}?{encode_query([('uploadId', upload)])}"
        return self._client.request("DELETE", url, Body(EMPTY_BODY), accept=frozenset({_UNKNOWN}))
