"""Where a machine begins with an object, so that a thousand machines do not march in step.

Machines that start together would all ask the same node for the first piece, then the next. Each
begins elsewhere, and most pieces are on a node before a second machine asks for them.
"""

from __future__ import annotations

import hashlib


def starting_piece(machine: str, url: str, pieces: int) -> int:
    """Return the index of the piece to begin with, from 0 to `pieces` - 1.

    Args:
        machine: tells one machine, or one process, from another.
        url: the object.
        pieces: how many it has; 0 if that is not known, which gives 0.
    """
    if pieces <= 1:
        return 0
    data = f"{machine} {url}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % pieces
