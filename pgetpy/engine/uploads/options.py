"""How an object is written, and the headers that say so."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass


@dataclass(frozen=True)
class UploadOptions:
    """How an object is written.

    Attributes:
        if_absent: whether to fail if the object exists. Only the store can decide that without a
            race, by If-None-Match; some do not know it, and then it is only looked up beforehand.
        content_type: of the object; empty chooses it by the name.
        cache_control: value of that header; empty sends none.
    """

    if_absent: bool = False
    content_type: str = ""
    cache_control: str = ""

    def kept_headers(self, key: str) -> list[tuple[str, str]]:
        """Return the headers that the store keeps with the object `key`."""
        # A guess for `x.json.gz` is that of `x.json`, with a coding: neither is right here.
        guessed, coding = mimetypes.guess_type(key)
        kind = self.content_type or ("" if coding else guessed) or "application/octet-stream"
        headers = [("Content-Type", kind)]
        if self.cache_control:
            headers.append(("Cache-Control", self.cache_control))
        return headers

    def conditions(self) -> list[tuple[str, str]]:
        """Return the headers that say when the object may be written."""
        # RFC 9110, 13.1.2: succeeds only if the object does not exist.
        return [("If-None-Match", "*")] if self.if_absent else []
