"""Reads a manifest that a command is given."""

from __future__ import annotations

import sys

from pgetpy.errors import BadManifestError
from pgetpy.errors.reasons import system_reason


def read_manifest(operand: str) -> tuple[str, str]:
    """Return the text of the manifest at `operand`, `-` being standard input, and its name.

    Raises:
        BadManifestError: it cannot be read.
    """
    # Not strictly UTF-8: paths in a manifest may be any bytes, and go to the disk as they are.
    if operand == "-":
        return sys.stdin.buffer.read().decode(errors="surrogateescape"), "standard input"
    try:
        with open(operand, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read(), operand
    except FileNotFoundError:
        raise BadManifestError(operand, 0, "there is no such file") from None
    except OSError as error:
        raise BadManifestError(operand, 0, system_reason(error)) from None
