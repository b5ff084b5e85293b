"""Pages of listings: ListObjectsV2 of S3.

Source: Amazon S3 API Reference, "ListObjectsV2". `encoding-type=url` is requested because a key may
hold characters that XML cannot express; some stores ignore it, and show that by not repeating it.

    <ListBucketResult>
      <EncodingType>url</EncodingType>
      <IsTruncated>true</IsTruncated>  <NextContinuationToken>...</NextContinuationToken>
      <Contents> <Key>a%2Fb</Key> <Size>12</Size> <ETag>"..."</ETag> </Contents>
      ...

Only these elements are read, at exactly these depths, whatever else a store adds.
"""

from __future__ import annotations

import re
import xml.parsers.expat
from collections.abc import Callable
from urllib.parse import unquote_plus

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.objects.sigv4 import encode_query

# A page has at most 1000 keys of 1024 bytes, three times as long if they are encoded.
LARGEST_PAGE = 16 << 20
# Below 2**63. No object is that large.
is_size = re.compile(r"[0-9]{1,18}").fullmatch


@dataclass(frozen=True)
class ListedObject:
    """One object of a listing.

    Attributes:
        size: in bytes.
        etag: with its quotes, as in the header.
    """

    key: str
    size: int
    etag: str = ""


@dataclass
class ListingPage:
    """A page of a listing.

    Attributes:
        token: asks for the next page; empty if this is the last one.
    """

    objects: list[ListedObject] = field(default_factory=list)
    token: str = ""


class BadListingError(ValueError):
    """The page is not a listing that makes sense; the text says why."""


def listing_query(prefix: str, token: str = "") -> str:
    """Return the query for a page of what begins with `prefix`."""
    pairs = [("encoding-type", "url"), ("list-type", "2"), ("prefix", prefix)]
    return encode_query([*pairs, ("continuation-token", token)] if token else pairs)


def parse_listing(page: bytes) -> ListingPage:
    """Return what `page`, the XML of one answer, says.

    Raises:
        BadListingError: it is not such XML, or contradicts itself.
    """
    reader = _PageReader()
    parse_xml(page, reader.start, reader.end, reader.text)
    return reader.page()


def parse_xml(
    page: bytes,
    start: Callable[[str, dict[str, str]], object],
    end: Callable[[str], object],
    text: Callable[[str], object],
) -> None:
    """Call `start`, `end` and `text` for the elements of `page` and the text between them.

    A name in a namespace is given as its URI, a blank, and the name.

    Raises:
        BadListingError: it is not XML, or declares entities.
    """
    parser = xml.parsers.expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    # An entity can expand to gigabytes, and no store needs one.
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(page, True)
    except xml.parsers.expat.ExpatError as error:
        raise BadListingError(f"the listing is not valid XML ({error})") from None


def _refuse_entity(*_: object) -> None:
    raise BadListingError("the listing declares XML entities")


class _PageReader:
    """Collects the elements of a page.

    `_path` holds the names of the open elements, without their namespaces, which differ between
    stores. `_fields` are those of the object that is being read, `_top` those of the page.
    """

    def __init__(self) -> None:
        self._path: list[str] = []
        self._text: list[str] = []
        self._fields: dict[str, str] = {}
        self._objects: list[dict[str, str]] = []
        self._top: dict[str, str] = {}

    def start(self, name: str, _: object) -> None:
        self._path.append(name.rpartition(" ")[2])
        self._text.clear()
        if self._path[1:] == ["Contents"]:
            self._fields = {}

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, _: str) -> None:
        text = "".join(self._text)
        self._text.clear()
        path = self._path[1:]
        if len(path) == 2 and path[0] == "Contents":
            self._fields[path[1]] = text
        elif path == ["Contents"]:
            self._objects.append(self._fields)
        elif len(path) == 1:
            self._top[path[0]] = text
        elif not path and self._path != ["ListBucketResult"]:
            raise BadListingError(f"the store answered with <{self._path[0][:40]}>, not a listing")
        self._path.pop()

    def page(self) -> ListingPage:
        """Return what was collected.

        Raises:
            BadListingError: an object without key or size, or a truncated page without a token.
        """
        encoded = self._top.get("EncodingType") == "url"
        objects = [_listed(fields, encoded=encoded) for fields in self._objects]
        token = ""
        if self._top.get("IsTruncated", "").strip().lower() == "true":
            token = self._top.get("NextContinuationToken", "")
            if not token:
                raise BadListingError("the listing is truncated and does not say how to go on")
        return ListingPage(objects, token)


def _listed(fields: dict[str, str], *, encoded: bool) -> ListedObject:
    key, size = fields.get("Key", ""), fields.get("Size", "").strip()
    if not key or not is_size(size):
        raise BadListingError("the listing has an object without a key or a size")
    name = unquote_plus(key, errors="surrogateescape") if encoded else key
    return ListedObject(name, int(size), fields.get("ETag", ""))
