"""The words for what the operating system, the resolver or TLS refused: the same in every error."""

from __future__ import annotations

import os


def system_reason(error: OSError) -> str:
    """Return what the system says of `error`, as a clause to follow a colon.

    Words that the error was raised with go before those of its number, because resolvers and TLS
    have numbers of their own that mean something else as an errno.
    """
    said = error.strerror or ""
    if error.errno and (not said or said.startswith("Connect call failed")):
        # asyncio says where it wanted to connect to instead of what went wrong.
        said = os.strerror(error.errno)
    said = said or str(error)
    if not said:
        return type(error).__name__
    # "I/O error" keeps its capital.
    return said[:1].lower() + said[1:] if said[1:2].islower() else said
