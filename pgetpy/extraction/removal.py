"""Taking away what stands somewhere, whatever that is."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path


def remove_tree(path: str | Path) -> None:
    """Take away what stands at `path`, whatever that is, also folders that may not be written."""
    mode = mode_at(path)
    if stat.S_ISDIR(mode):
        os.chmod(path, 0o700)
        for folder, names, _ in os.walk(path):
            for name in names:
                below = os.path.join(folder, name)
                if not os.path.islink(below):
                    os.chmod(below, 0o700)
        shutil.rmtree(path)
    elif mode:
        os.unlink(path)


def mode_at(path: str | Path) -> int:
    """Return the kind and permissions of what stands at `path`, 0 where nothing does."""
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0
