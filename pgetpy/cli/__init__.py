"""The command line: what the arguments say, what is printed, which status is returned.

Every module that reads arguments or writes to the terminal belongs here; none of them may ask a
server or decide what becomes of a download, and nothing outside this room imports it. This file is
the entry point and imports nothing heavy: `--version` needs nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Mapping, Sequence

# More than the objects of a manifest of thousands of lines, few of which end before the command.
_COLLECT_AFTER = 200_000


def main(
    argv: Sequence[str] | None = None,
    *,
    api: object = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run `pgetpy` with `argv` (the process's own by default) and return its exit status.

    `api` stands in for pgetpy.api, `environ` for the process's environment.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments in (["--version"], ["version"]):
        from pgetpy._version import __version__

        # Where this fails it is said below, by the command that this is short for.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.write(f"pgetpy {__version__}\n")
            sys.stdout.flush()
            return 0
    if argv is None:
        # What is imported lives for ever: looking through it again and again is a tenth of the
        # start.
        gc.set_threshold(_COLLECT_AFTER)
    try:
        from pgetpy.cli.dispatch import run
        from pgetpy.cli.terminal import fill_standard_streams, ignore_signals, terminable
    except KeyboardInterrupt:
        return 130  # nothing has begun, so there is nothing to say

    if argv is None:
        fill_standard_streams()
    with terminable():
        status = run(arguments, api=api, environ=environ)
        if argv is None and status in (129, 130, 143):
            ignore_signals()
    if argv is None:
        # Nor is anything gained by looking through all of it twice at exit: 25 ms.
        gc.freeze()
    return status
