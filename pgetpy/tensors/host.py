"""Tensors in host memory: the cached file's own pages, mapped.

Copying would need as much memory again and move every byte once more, while the pages are in the
page cache because the file was just written. The mapping is private (copy on write): writing to a
tensor never changes the file.
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

# From linux/mman.h, since Linux 5.14; Python's mmap module does not define it.
_MADV_POPULATE_READ = 22
_PROBE_EVERY = 1 << 20
_UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS})


class HostCopier:
    """Maps `file`, of `size` bytes, and loads pages before their tensors are given out.

    Args:
        file: the file, open for reading.
        size: its final size in bytes.
        framework: what makes the arrays.
        onward: a torch device to move finished tensors to; None leaves them on the host.
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
        """Read and map the pages of `span` in one go, unless they are in memory already."""
        if self._is_in_memory(span):
            return  # mapping them now would save nothing over mapping them on first use
        start = span.start - span.start % mmap.PAGESIZE
        if self._madvise is not None:
            # Not mmap.madvise: it holds the interpreter lock while the disk is read.
            if not self._madvise(self._address + start, span.stop - start, _MADV_POPULATE_READ):
                return
            code = ctypes.get_errno()
            if code not in _UNKNOWN:
                raise OSError(code if code != errno.EFAULT else errno.EIO, "cannot be read")
            self._madvise = None
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fd, start, span.stop - start, os.POSIX_FADV_WILLNEED)

    def _is_in_memory(self, span: Span) -> bool:
        """Whether a sample of the pages of `span` are all in the page cache."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            for pos in (*range(span.start, span.stop, _PROBE_EVERY), span.stop - 1):
                os.preadv(self._file.fd, [self._probe], pos, os.RWF_NOWAIT)
        except OSError:
            return False  # EAGAIN: not cached; or the file system does not support the flag
        return True

    def finish(self, tensor: Tensor) -> Array:
        """See `DeviceCopier.finish`."""
        found = self._framework.convert(self._framework.view(self._map, tensor, tensor.start))
        return found if self._onward is None else found.to(self._onward)
