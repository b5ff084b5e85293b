"""Tensors in the memory of the host: the file's own pages, mapped.

A copy of them would be memory to find and bytes to move once more; the pages are there, for the
file was written a moment ago. The mapping is private: who changes a tensor gets pages of his own,
and the file stays what it was.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from typing import Any

from pgetpy.core.http.ranges import Span
from pgetpy.core.weights.safetensors import Tensor
from pgetpy.system.filesystem import system_call
from pgetpy.tensors.arrays import Framework
from pgetpy.tensors.base import Array, Descriptor

# linux/mman.h, since Linux 5.14; the mmap module does not name it.
_MADV_POPULATE_READ = 22
_PROBE_EVERY = 1 << 20
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS})


class HostCopier:
    """Maps `file`, of `size` bytes; its pages are in memory before its tensors are given out.

    Args:
        onward: the device of torch that tensors go on to; None where they stay on the host.
    """

    def __init__(
        self, file: Descriptor, size: int, framework: Framework, onward: Any = None
    ) -> None:
        self._file = file
        self._framework = framework
        self._onward = onward
        self._map = mmap.mmap(
            file.fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._probe = bytearray(1)
        self._madvise = system_call("madvise", 64, 64, 32) if sys.platform == "linux" else None

    def move(self, tensor: Tensor, span: Span) -> None:
        """Read the pages of `span` and map them, all at once, unless they are in memory."""
        if self._is_in_memory(span):
            return  # to map them takes as long now as when they are used
        start = span.start - span.start % mmap.PAGESIZE
        if self._madvise is not None:
            # Not by mmap.madvise, which would hold up every thread while the disk is read.
            if not self._madvise(self._address + start, span.stop - start, _MADV_POPULATE_READ):
                return
            code = ctypes.get_errno()
            if code not in _UNKNOWN:
                raise OSError(code if code != errno.EFAULT else errno.EIO, "cannot be read")
            self._madvise = None
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fd, start, span.stop - start, os.POSIX_FADV_WILLNEED)

    def _is_in_memory(self, span: Span) -> bool:
        """Whether no page of `span`, of some that are looked at, has to be read from the disk."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            for pos in (*range(span.start, span.stop, _PROBE_EVERY), span.stop - 1):
                os.preadv(self._file.fd, [self._probe], pos, os.RWF_NOWAIT)
        except OSError:
            return False  # EAGAIN, or the file system does not say
        return True

    def finish(self, tensor: Tensor) -> Array:
        """See `DeviceCopier.finish`."""
        found = self._framework.convert(self._framework.view(self._map, tensor, tensor.start))
        return found if self._onward is None else found.to(self._onward)
