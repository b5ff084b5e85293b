"""What a call gives back."""

from __future__ import annotations

from dataclasses import dataclass

from pgetpy.errors import PgetError


@dataclass(frozen=True)
class DownloadResult:
    """One file that stands at its destination.

    Attributes:
        url: the URL as given, redacted.
        final_url: where the bytes came from after redirects, redacted.
        dest: path of the file, or of the folder of an archive's members; `-` for standard output.
        size: bytes of the object.
        digest: `algorithm:hex` that was verified, or None where none was asked for.
        seconds: wall time from the call to the publishing of the file.
        bytes_per_second: bytes moved by this run over `seconds`.
        retries: requests that failed and were made again.
        connections: the most connections that moved bytes at one time.
        resumed: bytes that an earlier run had left.
        validator: `strong` where an ETag tied all ranges to one version of the object, `weak`
            where equal ETag, Last-Modified and size had to do, `none` where the bytes came in a
            single answer.
        length_known: False where the body ended by the connection closing, so that nothing but
            the server's good faith says that it was whole.
        single_stream: True where everything came in one stream, because the server serves no
            ranges, or none that can be used.
        shared: True where another process on the same destination did the work.
        skipped: True where it was there already and nothing was fetched: it has the checksum, an
            earlier run of the same manifest finished it, or it was to be left as it is.
        requests: requests made for it by this run, redirects and failed ones included.
        members: of an archive that was extracted, the names of the members written but for folders,
            in the archive's order; empty where `shared`.
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


@dataclass(frozen=True)
class DownloadFailure:
    """One file of several that could not be had."""

    url: str
    dest: str
    error: PgetError
