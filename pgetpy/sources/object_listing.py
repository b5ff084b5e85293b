"""The objects of a folder, page by page, kept small: a folder may have 100,000 of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, overload

from pgetpy.core.lazy_dataclass import replace
from pgetpy.core.objects.listing import LARGEST_PAGE, BadListingError, ListedObject
from pgetpy.core.objects.names import ObjectName
from pgetpy.errors import TransferError
from pgetpy.sources.base import RemoteFile, ServiceClient

if TYPE_CHECKING:
    from pgetpy.core.objects.listing import ListingPage


class ListedBucket(Protocol):
    """A bucket, or what a store has in its place, whose objects can be listed."""

    def object(self, named: ObjectName) -> RemoteFile:
        """Return the object `named`."""

    def page(self, prefix: str, token: str) -> RemoteFile:
        """Return the page, after that which ended with `token`, of a listing of what begins with
        `prefix`."""

    def parse(self, page: bytes) -> ListingPage:
        """Return what a page says.

        Raises:
            BadListingError: nothing that makes sense.
        """


class ListedFiles(Sequence[RemoteFile]):
    """The files of a folder, each made when it is looked at.

    Only what differs is kept, some 200 bytes a file. URL and signer are the bucket's to say.
    """

    def __init__(self, bucket: ListedBucket, folder: ObjectName) -> None:
        self._bucket = bucket
        self._folder = folder
        self._names: list[str] = []
        self._etags: list[str] = []
        self._sizes = array("q")

    def add(self, listed: ListedObject) -> None:
        """Add an object, whose key begins with that of the folder."""
        self._names.append(listed.key[len(self._folder.key) :])
        self._etags.append(listed.etag)
        self._sizes.append(listed.size)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, at: int) -> RemoteFile: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[RemoteFile]: ...
    def __getitem__(self, at: int | slice) -> RemoteFile | Sequence[RemoteFile]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        folder, name = self._folder, self._names[at]
        remote = self._bucket.object(ObjectName(folder.scheme, folder.bucket, folder.key + name))
        return replace(remote, name=name, size=self._sizes[at], etag=self._etags[at])


async def list_folder(
    bucket: ListedBucket, named: ObjectName, client: ServiceClient
) -> ListedFiles:
    """Return the objects of a folder, with names relative to it.

    A pattern is applied here: stores list by prefix only.

    Raises:
        PgetError: the store does not list them, or not in a way that makes sense.
    """
    files, token, tokens = ListedFiles(bucket, named), "", set[str]()
    while True:
        asked = bucket.page(named.key, token)
        try:
            page = bucket.parse(await client.read(asked, most=LARGEST_PAGE))
        except BadListingError as error:
            raise TransferError(asked.url, str(error)) from None
        for each in page.objects:
            # Some tools create empty objects whose keys end with a slash, to show empty folders.
            is_mark = each.key.endswith("/") and each.size == 0
            if not is_mark and named.matches(each.key):
                files.add(each)
        if not page.token:
            return files
        if page.token in tokens:
            raise TransferError(
                asked.url, "the listing does not end: it named the same next page twice"
            )
        token = page.token
        tokens.add(token)
