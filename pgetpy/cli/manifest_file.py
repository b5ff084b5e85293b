"""Reads a manifest that a command is given."""

from __future__ import annotations

import sys

from pgetpy.errors import BadManifestError
from pgetpy.errors.reasons import system_reason

# A million lines have room. Weights that are given by mistake are not read into memory.
_LONGEST = 256 << 20


def read_manifest(operand: str) -> tuple[str, str]:
    """Return the text of the manifest at `operand`, `-` being standard input, and its name.

    Raises:
        BadManifestError: it cannot be read, or is too large to be a manifest.
    """
    name = "standard input" if operand == "-" else operand
    if operand == "-" and sys.stdin is None:
        raise BadManifestError(name, 0, "it is closed")
    try:
        if operand == "-":
            data = sys.stdin.buffer.read(_LONGEST + 1)
        else:
            with open(operand, "rb") as file:
                data = file.read(_LONGEST + 1)
    except FileNotFoundError:
        raise BadManifestError(operand, 0, "there is no such file") from None
    except OSError as error:
        raise BadManifestError(name, 0, system_reason(error)) from None
    if len(data) > _LONGEST:
        raise BadManifestError(name, 0, f"it has more than {_LONGEST >> 20} MiB")
    # Not strictly UTF-8: paths in a manifest may be any bytes, and go to the disk as they are.
    return data.decode(errors="surrogateescape"), name
