"""An archive that is on disk already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pgetpy.archives.layout import Layout
from pgetpy.archives.sink import ArchiveSink
from pgetpy.archives.spool import Spool
from pgetpy.core.archives.member_policy import Limits
from pgetpy.errors import InterruptedTransferError
from pgetpy.system.filesystem import fold_of

_PIECE = 1 << 20


def unpack(
    source: Path, root: Path, limits: Limits, stop: Callable[[], bool] = lambda: False
) -> tuple[str, ...]:
    """Extract `source` into the empty folder `root`, beside which there is room for more files.

    Args:
        stop: is asked every 1 MiB whether to give up.

    Returns:
        The names of the members written.

    Raises:
        ArchiveError: it is no whole archive, or one that has to be refused.
        InterruptedTransferError: `stop` said so.
        OSError: it cannot be read, or the members not be written.
    """
    layout_path, spool_path = root.with_name("layout"), root.with_name("spool")
    layout = Layout(layout_path, Spool(spool_path), indexed=False)
    sink = ArchiveSink(
        root,
        layout,
        source.name,
        limits=limits,
        fold=fold_of(root),
        algorithm=None,
        noted=lambda start, stop: None,
    )
    try:
        pos = 0
        buffer = memoryview(bytearray(_PIECE))
        with source.open("rb") as file:
            while count := file.readinto(buffer):
                if stop():
                    raise InterruptedTransferError(str(root), pos, None)
                sink.write(pos, buffer[:count])
                sink.mark(pos, pos + count)
                sink.tidy(())
                pos += count
        sink.finish(pos)
        return sink.members
    finally:
        sink.close()
        layout.close()
        layout_path.unlink(missing_ok=True)
        spool_path.unlink(missing_ok=True)
