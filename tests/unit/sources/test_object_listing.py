"""Listings that go in circles."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from pgetpy.core.objects.listing import ListingPage, parse_listing
from pgetpy.core.objects.names import ObjectName
from pgetpy.errors import TransferError
from pgetpy.sources.base import RemoteFile, ServiceClient
from pgetpy.sources.object_listing import list_folder


class CircularBucket:
    """A bucket whose pages name one another: the first the second, and so on, the last the first.

    It is its own client.
    """

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self.asked = 0

    def object(self, named: ObjectName) -> RemoteFile:
        raise NotImplementedError

    def page(self, prefix: str, token: str) -> RemoteFile:
        return RemoteFile(f"http://store/{token}")

    async def read(self, remote: RemoteFile, *, most: int) -> bytes:
        self.asked += 1
        assert self.asked <= 2 * self._pages
        number = self.asked % self._pages
        return (
            "<ListBucketResult><IsTruncated>true</IsTruncated>"
            f"<NextContinuationToken>page{number}</NextContinuationToken></ListBucketResult>"
        ).encode()

    def parse(self, page: bytes) -> ListingPage:
        return parse_listing(page)


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_a_listing_that_goes_in_circles_ends(pages: int) -> None:
    bucket = CircularBucket(pages)
    client = cast(ServiceClient, bucket)
    with pytest.raises(TransferError, match="does not end"):
        asyncio.run(list_folder(bucket, ObjectName("s3", "bucket", "folder/"), client))
    assert bucket.asked == pages + 1
