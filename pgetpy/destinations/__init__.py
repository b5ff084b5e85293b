"""Where transfers end up: a file, a stream, a folder of members, or nowhere.

What opens, resumes, publishes and cleans up the place that bytes go to belongs here; `sinks` takes
the bytes themselves. Nothing here knows where they come from.

A transfer calls its destination in this order:

    prepare   wait for other runs, and look for what an earlier one left (`held`, `expected`)
    begin     the first answer is believed: return a sink for the bytes
    tidy, flush, readable   while they come
    settle    all have come; wait for work in the background
    publish   everything is verified: the destination gets its name
    keep      instead, after a failure: leave what the next run can use
    discard   instead, if what was written is worthless
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pgetpy.destinations.base import Destination, DestinationOptions
from pgetpy.destinations.file import FileDestination, check_overwrite, look_at
from pgetpy.settings import Settings
from pgetpy.system.filesystem import disk_errors

__all__ = ["open_destination"]


def open_destination(
    dest: str | None, options: DestinationOptions, settings: Settings
) -> Destination:
    """Return the destination that `dest` names (see `Job.dest`).

    It looks at the disk and creates nothing. Files are not opened before an answer has been
    believed.

    Args:
        dest: a path, `-` for standard output, or None to throw the bytes away.
        options: what the transfer wants of it; its `paths` are reserved here.
        settings: whether existing files may be overwritten, and so on.

    Raises:
        DestinationError: something is in the way, or another file of the call goes there.
    """
    if dest is None:
        return _stream(None, "(nowhere)", options)
    if dest in ("-", "/dev/stdout"):
        options.paths.take(Path("/dev/stdout"))
        return _stream(1, "-", options)
    path = Path(dest)
    if options.extract:
        from pgetpy.destinations.tree import TreeDestination

        with disk_errors(path):
            tree = Path(os.path.realpath(path))
        options.paths.take(tree)
        return TreeDestination(tree, options, settings)
    kind, is_link = look_at(path)
    if stat.S_ISCHR(kind):
        return _stream(path, dest, options)
    if stat.S_ISFIFO(kind):
        options.paths.take(path)
        return _stream(path, dest, options)
    if stat.S_ISDIR(kind) or dest.endswith("/"):
        return FileDestination(str(path), None, options, settings)
    options.paths.take(path, is_link=is_link)
    check_overwrite(path, kind, settings)
    # A symbolic link stays; what it points to is replaced.
    folder, name = os.path.split(os.path.realpath(path) if is_link else str(path))
    return FileDestination(folder, name, options, settings, absent=not kind and not is_link)


def _stream(target: Path | int | None, label: str, options: DestinationOptions) -> Destination:
    from pgetpy.destinations.stream import StreamDestination

    return StreamDestination(target, label)
