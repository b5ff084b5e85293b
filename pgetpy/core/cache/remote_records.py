"""What a cache's remote tier holds: its objects' names, and its records as values and as JSON.

    PREFIX/blobs/DI/DIGEST      content, by its sha256; never changes
    PREFIX/records/KE/KEY       which content an entry has, and which version of the origin that is
    PREFIX/claims/KE/KEY        who is uploading the entry, until when

A record is written after the blobs that it names, so that it never names what is not there. Some
stores overwrite silently whatever the condition says; two writers of one blob write the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pgetpy.core.http.answers import Identity

_FORMAT = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What comes of reading what is not a record.
_SENSELESS = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
# A folder of more files stays local: its record would take longer to read than is worth waiting.
MOST_FILES = 5000
LONGEST_RECORD = 4 << 20


@dataclass(frozen=True)
class RemoteBlob:
    """One file of an entry.

    Attributes:
        name: its path in a folder; empty for the content of a file.
        size: in bytes.
        digest: `sha256:HEX`.
        executable: whether its owner may execute it.
    """

    name: str
    size: int
    digest: str
    executable: bool = False


@dataclass(frozen=True)
class RemoteRecord:
    """What a remote tier knows about an entry.

    Attributes:
        key: of the entry.
        name: the object's name, from which the entry's file name is made.
        folder: whether the entry is a folder.
        blobs: its files; exactly one unless it is a `folder`.
        identity: the origin's version that the content is of.
        archive: the digest of the archive that it was extracted from, empty if none was verified;
            None if it is the object as it came.
        policy: the mark of the policy that it was fetched under; empty for none.
        checked: when the origin had this version, in seconds since the epoch.
    """

    key: str
    name: str
    folder: bool
    blobs: tuple[RemoteBlob, ...]
    identity: Identity
    archive: str | None = None
    policy: str = ""
    checked: float = 0.0

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)

    @property
    def digest(self) -> str:
        """The digest by which callers name it: of the file, or of the archive; empty for none."""
        if self.folder or self.archive is not None:
            return self.archive or ""
        return self.blobs[0].digest

    def covers(self, other: RemoteRecord) -> bool:
        """Whether this record serves all whom `other` would serve: it is of the same content and
        version, and was fetched under a policy if `other` was."""
        same = (self.blobs, self.identity) == (other.blobs, other.identity)
        return same and bool(self.policy or not other.policy)


@dataclass(frozen=True)
class UploadClaim:
    """Says that `owner` uploads an entry, until `until`, in seconds since the epoch."""

    owner: str
    until: float


def blob_name(digest: str) -> str:
    """Return the name below the prefix of the content with `digest`, `sha256:HEX`."""
    found = digest.partition(":")[2]
    return f"blobs/{found[:2]}/{found}"


def record_name(key: str) -> str:
    """Return the name below the prefix of the record of an entry."""
    return f"records/{key[:2]}/{key}"


def claim_name(key: str) -> str:
    """Return the name below the prefix of the claim on an entry."""
    return f"claims/{key[:2]}/{key}"


def format_record(record: RemoteRecord) -> bytes:
    """Return the object of a record."""
    return json.dumps({"pgetpy": _FORMAT, **asdict(record)}, sort_keys=True).encode()


def parse_record(data: str, key: str) -> RemoteRecord | None:
    """Return the record of `key` in `data`; None if it is not a valid one."""
    try:
        value = json.loads(data)
        if value.pop("pgetpy") != _FORMAT or value["key"] != key:
            return None
        value["identity"] = Identity(**value["identity"])
        value["blobs"] = tuple(_blob(each) for each in value["blobs"])
        record = RemoteRecord(**value)
    except _SENSELESS:
        return None
    texts = (record.name, record.archive or "", record.policy)
    numbers = isinstance(record.checked, (int, float))
    if not numbers or not all(isinstance(text, str) for text in texts):
        return None
    if "/" in record.name or "\0" in record.name:  # it becomes the end of a file's name
        return None
    right = len(record.blobs) <= MOST_FILES if record.folder else len(record.blobs) == 1
    return record if right else None


def _blob(value: Mapping[str, object]) -> RemoteBlob:
    """Return the blob that `value` describes.

    Raises:
        ValueError: it describes none.
    """
    name, size, digest = value["name"], value["size"], value["digest"]
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(digest, str)):
        raise ValueError("not a blob")
    if size < 0 or not _DIGEST.fullmatch(digest):
        raise ValueError("not a blob")
    return RemoteBlob(name, size, digest, bool(value["executable"]))


def format_claim(claim: UploadClaim) -> bytes:
    """Return the object of a claim."""
    return json.dumps(asdict(claim)).encode()


def parse_claim(data: str) -> UploadClaim | None:
    """Return the claim in `data`; None if it is not a valid one."""
    try:
        claim = UploadClaim(**json.loads(data))
        return claim if isinstance(claim.owner, str) and claim.until >= 0 else None
    except _SENSELESS:
        return None
