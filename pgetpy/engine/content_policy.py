"""Whether a download may get its name under a policy that allows only safetensors files.

Other formats of weights may run code when they are loaded. The name of a file proves nothing, so
its first bytes are read back before the file gets its name. That needs a destination that can be
read before it can be seen: a file can, a stream or a folder of an archive cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgetpy.core.references.jobs import Job
from pgetpy.destinations.base import Destination, ReadBack
from pgetpy.destinations.file import FileDestination

if TYPE_CHECKING:
    from pgetpy.core.references.policy import Policy


def check_destination(policy: Policy, job: Job, destination: Destination) -> None:
    """Check, before any request, that `destination` allows a look at the content in time.

    Raises:
        NotAllowedError: it does not.
    """
    if not policy.only_safetensors or isinstance(destination, FileDestination):
        return
    if job.extract:
        reason = "an archive may hold anything"
        hint = "pgetpy ensure keeps the one safetensors file of an archive"
        raise policy.not_safetensors(job.url, reason, hint=hint)
    if job.dest is not None:
        reason = "data written to a stream cannot be checked first"
        raise policy.not_safetensors(job.url, reason, hint="download to a file")


def check_content(policy: Policy, job: Job, destination: Destination, size: int) -> None:
    """Check the `size` bytes in `destination`, which have no name yet.

    Raises:
        NotAllowedError: they are not a safetensors file.
    """
    if not policy.only_safetensors or job.dest is None:
        return
    from pgetpy.core.weights.safetensors import is_safetensors

    read = destination.readable()
    if read is None or not is_safetensors(lambda count: _beginning(read, count), size):
        raise policy.not_safetensors(job.url, "it is not a safetensors file")


def _beginning(read: ReadBack, count: int) -> bytes:
    """Return the first `count` bytes, or all of a shorter file."""
    data = bytearray(count)
    done = 0
    while done < count and (got := read(done, memoryview(data)[done:])):
        done += got
    return bytes(data[:done])
