"""Pages of listings: List Blobs of Azure.

Source: Azure Storage REST API, "List Blobs". From version 2021-02-12 on, names that XML cannot
express are percent-encoded and marked.

    <EnumerationResults>
      <Blobs> <Blob>
          <Name Encoded="true">a%EF%BF%BE</Name>
          <Properties> <Content-Length>12</Content-Length> <Etag>0x8D...</Etag> ...
      <NextMarker>...</NextMarker>
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from pgetpy.core.objects.listing import (
    BadListingError,
    ListedObject,
    ListingPage,
    is_size,
    parse_xml,
)
from pgetpy.core.objects.sigv4 import encode_query

_BLOB = ["Blobs", "Blob"]


def blobs_query(prefix: str, marker: str = "") -> str:
    """Return the query for a page of the blobs whose names begin with `prefix`."""
    pairs = [("restype", "container"), ("comp", "list"), ("prefix", prefix), ("marker", marker)]
    return encode_query(pair for pair in pairs if pair[1])


def parse_blobs(page: bytes) -> ListingPage:
    """Return what `page`, the XML of one answer, says.

    Directories of accounts with a hierarchical namespace are left out: they have no content.

    Raises:
        BadListingError: it is not such XML, or a blob has no name or size.
    """
    reader = _BlobReader()
    parse_xml(page, reader.start, reader.end, reader.text)
    return ListingPage(reader.objects, reader.marker)


class _BlobReader:
    """Collects the blobs of a page. `_path` holds the names of the open elements."""

    def __init__(self) -> None:
        self.objects: list[ListedObject] = []
        self.marker = ""
        self._path: list[str] = []
        self._text: list[str] = []
        self._fields: dict[str, str] = {}
        self._encoded = False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._path.append(name)
        self._text.clear()
        if self._path[1:] == _BLOB:
            self._fields, self._encoded = {}, False
        elif self._path[1:] == [*_BLOB, "Name"]:
            self._encoded = attributes.get("Encoded", "").lower() == "true"

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, name: str) -> None:
        text, path = "".join(self._text), self._path[1:]
        self._text.clear()
        if path[:2] == _BLOB and path[2:] in (["Name"], ["Properties", name]):
            self._fields[name.lower()] = text
        elif path == _BLOB:
            self._add()
        elif path == ["NextMarker"]:
            self.marker = text
        elif not path and self._path != ["EnumerationResults"]:
            raise BadListingError(f"the store answered with <{self._path[0][:40]}>, not a listing")
        self._path.pop()

    def _add(self) -> None:
        fields = self._fields
        name, size = fields.get("name", ""), fields.get("content-length", "").strip()
        if fields.get("resourcetype", "") == "directory":
            return
        if not name or not is_size(size):
            raise BadListingError("the listing has a blob without a name or a size")
        # The header has quotes, and the listing has none.
        etag = fields.get("etag", "").strip('"')
        self.objects.append(
            ListedObject(
                unquote(name, errors="surrogateescape") if self._encoded else name,
                int(size),
                f'"{etag}"' if etag else "",
            )
        )
