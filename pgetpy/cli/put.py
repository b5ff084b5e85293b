"""The command that uploads a file or a folder to an object store: `put`."""

from __future__ import annotations

from typing import Any

from pgetpy.cli import results
from pgetpy.cli.invocation import DONE, Invocation
from pgetpy.cli.progress import progress_of
from pgetpy.cli.terminal import print_line, say_raw
from pgetpy.core.report.uploads import UploadResult
from pgetpy.errors.redact import redact


def run_put(invocation: Invocation, api: Any) -> int:
    """Upload a file or a directory and say how it went; return the exit status."""
    options = invocation.options
    path, target = invocation.take({2}, "FILE or DIR, and TARGET")
    about = {"url": path, "dest": redact(target)}
    with (
        invocation.telling_programs(about),
        progress_of(invocation, verb="uploading") as progress,
    ):
        result: UploadResult = api.upload(
            path,
            target,
            if_absent=options.if_absent,
            content_type=options.content_type,
            cache_control=options.cache_control,
            settings=invocation.settings,
            progress=progress,
        )
    if invocation.console.shows("info"):
        say_raw(results.complete_line(result))
    if options.json:
        print_line(results.json_outcome(result))
    return DONE
