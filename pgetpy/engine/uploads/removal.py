"""Removing an object from a store: for what was written by pgetpy itself and is needed no more."""

from __future__ import annotations

from functools import partial

from pgetpy.core.objects.names import object_url, parse_object_name
from pgetpy.core.objects.sigv4 import EMPTY_BODY
from pgetpy.engine.hosts import Hosts
from pgetpy.engine.uploads.client import Body, StoreClient
from pgetpy.errors import PgetError
from pgetpy.settings import Settings
from pgetpy.sources.object_bucket import bucket_of
from pgetpy.sources.table import store_settings
from pgetpy.system.event_loop import wait_uncancelled
from pgetpy.system.threads import WORKERS


async def remove_object(target: str, settings: Settings) -> None:
    """Remove the object `target` of an S3-compatible store; it may be gone already.

    Raises:
        TransferError: the store refuses, or does not answer.
    """
    stores = store_settings(target, settings.sources)
    named = parse_object_name(target, stores.bucket)
    finding = WORKERS.submit(lambda: bucket_of(stores, named.bucket))
    bucket = await wait_uncancelled(finding, lambda: None)
    client = StoreClient(bucket.signer, settings, Hosts(settings, WORKERS).tls, _ignore)
    url = object_url(named, endpoint=bucket.signer.endpoint, addressing=bucket.addressing)
    asking = partial(client.request, "DELETE", url, Body(EMPTY_BODY), accept=frozenset({404}))
    try:
        await wait_uncancelled(WORKERS.submit(asking, long=True), client.stop)
    finally:
        client.close()


def _ignore(error: PgetError, delay: float) -> None:
    """Do not report that a request is made again."""
