"""What the calls return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.errors import PgetError


@dataclass(frozen=True)
class DownloadResult:
    """A file that is complete at its destination.

    Attributes:
        url: the URL as given, with secrets redacted.
        final_url: the URL after redirects, with secrets redacted.
        dest: the path of the file, or of the folder of an extracted archive; `-` for standard
            output.
        size: the size of the object in bytes.
        digest: the verified `algorithm:hex`; None if none was asked for.
        seconds: wall-clock time from the call to the finished file.
        bytes_per_second: bytes received in this run, divided by `seconds`.
        retries: how many requests failed and were made again.
        connections: the largest number of connections that received at the same time.
        resumed: bytes that an earlier run had left.
        validator: how sure it is that all ranges are of one version: `strong` if a strong ETag says
            so (RFC 9110, 8.8.1), `weak` if only ETag, Last-Modified and size agree, `none` if the
            bytes came in one answer.
        length_known: False if the body ended when the server closed the connection, so that a
            cut-off would go unnoticed (RFC 9112, 8).
        single_stream: True if everything came in one stream, because the server has no usable range
            requests.
        shared: True if another process was downloading to the same destination and did the work.
        store_checksum: the object store's own `algorithm:hex`, if that was verified; empty if it
            gave none, or `digest` was verified in its place.
        unverified: why the store's own checksum was not verified, such as `crc64nvme: install
            pgetpy[s3] to have it checked`; empty otherwise.
        skipped: True if nothing was fetched: the file was there with the expected checksum, was
            finished by an earlier run of the manifest, or was to be left as it is.
        served_from: where the bytes came from: `origin`, `cache`, or `remote` for a cache's second
            tier.
        requests: requests made in this run, including redirects and failures.
        verified: what the bytes were compared with: `digest`, `store_checksum`, or `none`.
        bytes_by_source: bytes received in this run, by where they came from: `origin`, the name of
            a cache node, the host of a mirror, or `remote` for a cache's second tier. What was
            received twice counts twice.
        members: names of the extracted members without folders, in the archive's order; empty if
            `shared`.
    """

    url: str
    final_url: str
    dest: str
    size: int
    digest: str | None
    seconds: float
    bytes_per_second: float
    retries: int = 0
    connections: int = 0
    resumed: int = 0
    validator: str = "none"
    length_known: bool = True
    single_stream: bool = False
    shared: bool = False
    members: tuple[str, ...] = ()
    requests: int = 0
    skipped: bool = False
    served_from: str = "origin"
    store_checksum: str = ""
    unverified: str = ""
    verified: str = "none"
    bytes_by_source: dict[str, int] = field(default_factory=dict, hash=False)


def summed_sources(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the bytes by source of several files together."""
    sums: dict[str, int] = {}
    for part in parts:
        for source, size in part.items():
            sums[source] = sums.get(source, 0) + size
    return sums


@dataclass(frozen=True)
class DownloadFailure:
    """A file of several that could not be downloaded.

    Attributes:
        url: the URL as given, with secrets redacted.
        dest: the destination as given.
        error: why it failed.
    """

    url: str
    dest: str
    error: PgetError
