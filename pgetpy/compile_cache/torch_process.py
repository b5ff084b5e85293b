"""What the torch of this process is told and asked, without importing it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pgetpy.compile_cache.live import scan_folders
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("compile_cache")


def set_cache_tag(tag: str) -> None:
    """Have torch mix the instruction set into its keys, which it does not do by itself.

    A tag that the user has set is kept, with ours behind it. Child processes, such as the ranks of
    a server, inherit it with the environment.
    """
    mine = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    if tag not in mine.split("+"):
        mine = f"{mine}+{tag}" if mine else tag
        os.environ["TORCH_COMPILE_CACHE_KEY_TAG"] = mine
    # Read when that module is imported, so that the variable comes too late for one that is there.
    config = sys.modules.get("torch.compiler.config")
    if config is not None:
        with contextlib.suppress(AttributeError):
            config.cache_key_tag = mine  # type: ignore[attr-defined]


def torch_counters() -> dict[str, int] | None:
    """Return Inductor's counters, if torch has been imported."""
    utils = sys.modules.get("torch._dynamo.utils")
    counters = getattr(utils, "counters", None)
    return dict(counters["inductor"]) if counters is not None else None


def copy_to_own_folder(folder: Path) -> Path:
    """Return a folder of our own with what is in `folder`, which torch is then told to use.

    torch takes locks in its folder even when everything is there, and fails where it cannot.
    """
    own = Path(tempfile.mkdtemp(prefix="pgetpy-inductor-"))
    for each in scan_folders({"inductor": folder}).files.values():
        target = own / each.path
        with contextlib.suppress(OSError):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(folder / each.path, target)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own)
    _LOG.warning("%s cannot be written: %s is used instead", folder, own)
    return own
