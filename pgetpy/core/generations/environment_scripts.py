"""Scripts of installed packages, independent of the machine that installed them."""

from __future__ import annotations

import re

# Installers write the path of an interpreter after `#!`. One that is too long for the kernel or has
# blanks goes through sh, in lines that Python takes for a string.
_DIRECT = re.compile(rb"\A#![^\n]*python[^\n]*\n")
_THROUGH_SH = re.compile(rb"\A#!/bin/sh\n'''exec' [^\n]*python[^\n]*\n' '''\n")


def portable_script(data: bytes, python: str) -> bytes:
    """Return a script that is run by the Python `python` (as `3.12`) found in PATH.

    Anything but a script for Python is returned unchanged.
    """
    line = f"#!/usr/bin/env python{python}\n".encode()
    for first in (_THROUGH_SH, _DIRECT):
        if first.match(data):
            return first.sub(line, data, count=1)
    return data
