"""The file to upload: opened, and its parts as bodies, each with a hash by which a store refuses
damage.

One hash of each byte is enough, because hashing costs more than everything else in an upload:

    signed         SHA-256, which the signature contains anyway; half the cost of MD5 where the
                   processor has instructions for it
    unsigned       Content-MD5, which every store compares
    Google's       Content-MD5 too: its documentation promises nothing about the signed hash

Sources: Amazon S3 API Reference, "Signature Calculations for the Authorization Header" and
"PutObject"; Google Cloud Storage, "Data validation and change detection".
"""

from __future__ import annotations

import hashlib
import os
import stat
from base64 import b64encode

from pgetpy.core.objects.sigv4 import UNSIGNED_BODY
from pgetpy.engine.uploads.client import Body
from pgetpy.errors import SourceFileError
from pgetpy.errors.reasons import system_reason

_BLOCK = 1 << 20


def open_source(path: str) -> int:
    """Open the file to upload, and return its descriptor.

    Raises:
        SourceFileError: it cannot be read. Pipes and devices are refused: they have no size, and
            would become empty objects.
    """
    try:
        # Opening a pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = f"cannot be read: {system_reason(error)}"
        raise SourceFileError(path, reason, code=error.errno or 0) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        hint = "only files and directories can be uploaded"
        raise SourceFileError(path, "is not a file", hint=hint)
    return fd


def hash_body(path: str, fd: int, start: int, size: int, *, signed: bool) -> Body:
    """Read `size` bytes of an open file from `start` on, and return them as a body.

    Args:
        path: of the file, for errors.
        signed: whether the store compares the hash that a signature contains.

    Raises:
        SourceFileError: the file has become shorter.
    """
    digest = hashlib.sha256() if signed else hashlib.md5(usedforsecurity=False)
    pos, end = start, start + size
    while pos < end:
        block = os.pread(fd, min(_BLOCK, end - pos), pos)
        if not block:
            raise changed(path)
        digest.update(block)
        pos += len(block)
    if signed:
        return Body(digest.hexdigest(), size, fd, start, path=path)
    md5 = b64encode(digest.digest()).decode()
    return Body(UNSIGNED_BODY, size, fd, start, path=path, headers=[("Content-MD5", md5)])


def file_md5(fd: int, size: int) -> str:
    """Return the MD5 of the first `size` bytes of an open file, in hex."""
    digest = hashlib.md5(usedforsecurity=False)
    for pos in range(0, size, _BLOCK):
        digest.update(os.pread(fd, min(_BLOCK, size - pos), pos))
    return digest.hexdigest()


def changed(path: str) -> SourceFileError:
    """Return the error for a file that is not the same as when it was opened."""
    return SourceFileError(path, "changed while it was uploaded", hint="upload it again")
